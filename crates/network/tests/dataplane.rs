//! The pod network and the service proxy on a real kernel, in namespaces of the test's own.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, PODS, SOON, apply_pods, ask, cidr, ip, root, service, spread};
use network::spec::{HostPort, Policy, Protocol};
use network::{Directory, Peer};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const VIP4: &str = "10.96.0.50";
const VIP6: &str = "fd00:10:96::50";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_reach_each_other_and_services() {
    if !root() {
        return;
    }
    let node = Node::new().await;
    node.serve("a", 8080, "A");
    node.serve("b", 8080, "B");
    let (c, host) = (node.pod("c"), node.netns.clone());
    for (_, v4, v6) in &PODS[..2] {
        assert!(ask(&c, at(v4, 8080)).unwrap().ends_with(PODS[2].1), "the pod's own address is seen");
        assert!(ask(&c, at(v6, 8080)).unwrap().ends_with(PODS[2].2));
        assert!(ask(&host, at(v4, 8080)).unwrap().ends_with("192.168.50.1"));
        assert!(ask(&host, at(v6, 8080)).unwrap().ends_with("fd00:50::1"));
    }
    let s = service("web", VIP4, VIP6, &[(Protocol::Tcp, 80, 30080), (Protocol::Udp, 80, 30080)]);
    node.directory.apply_service(s.clone());
    node.flush();
    // No endpoints: refused at once.
    for from in [&c, &host] {
        for vip in [VIP4, VIP6, "192.168.50.1"] {
            let port = if vip == "192.168.50.1" { 30080 } else { 80 };
            let start = Instant::now();
            assert_eq!(ask(from, at(vip, port)).unwrap_err(), ErrorKind::ConnectionRefused, "{vip}");
            assert!(start.elapsed() < Duration::from_millis(500), "{vip} {:?}", start.elapsed());
        }
    }
    apply_pods(&node.directory, &s, &["a", "b"], 8080);
    node.flush();
    for from in [&c, &host] {
        for to in [at(VIP4, 80), at(VIP6, 80), at("192.168.50.1", 30080), at("fd00:50::1", 30080)] {
            let counts = spread(from, to, 60);
            assert!(counts["A"] > 10 && counts["B"] > 10, "{to}: {counts:?}");
        }
    }
    // A pod keeps its address through a Service.
    assert!(ask(&c, at(VIP4, 80)).unwrap().ends_with(PODS[2].1));
    assert!(ask(&c, at(VIP6, 80)).unwrap().ends_with(PODS[2].2));
    // Other ports of the address are refused; addresses of no Service lead nowhere.
    assert_eq!(ask(&c, at(VIP4, 81)).unwrap_err(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(&c, at("10.96.0.77", 80)).unwrap_err(), ErrorKind::TimedOut);
    // An endpoint reaches itself through its Service.
    apply_pods(&node.directory, &s, &["a"], 8080);
    node.flush();
    for vip in [VIP4, VIP6] {
        assert!(ask(&node.pod("a"), at(vip, 80)).unwrap().starts_with("A "), "{vip}");
        assert_eq!(spread(&c, at(vip, 80), 20).len(), 1, "a removed endpoint gets nothing");
    }
    node.directory.remove_service("default", "web");
    node.flush();
    assert_eq!(ask(&c, at(VIP4, 80)).unwrap_err(), ErrorKind::TimedOut);
    assert_eq!(node.proxy.stats().failures, 0);
    assert_eq!(node.finish().await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn affinity_host_ports_policies_and_udp() {
    if !root() {
        return;
    }
    let node = Node::new().await;
    node.serve("a", 8080, "A");
    node.serve("b", 8080, "B");
    let (c, host) = (node.pod("c"), node.netns.clone());
    let mut s = service("web", VIP4, VIP6, &[(Protocol::Tcp, 80, 30080), (Protocol::Udp, 80, 0)]);
    s.affinity_seconds = Some(60);
    node.directory.apply_service(s.clone());
    apply_pods(&node.directory, &s, &["a", "b"], 8080);
    node.flush();
    for vip in [VIP4, VIP6] {
        let first = spread(&c, at(vip, 80), 20);
        assert_eq!(first.len(), 1, "{first:?}");
        // The remembered endpoint goes away: the client goes on with the other one.
        let (gone, stays) = if first.contains_key("A") { ("a", "b") } else { ("b", "a") };
        apply_pods(&node.directory, &s, &[stays], 8080);
        node.flush();
        assert!(!spread(&c, at(vip, 80), 5).contains_key(&gone.to_uppercase()));
        apply_pods(&node.directory, &s, &["a", "b"], 8080);
        node.flush();
    }
    assert_eq!(spread(&c, at("192.168.50.1", 30080), 20).len(), 1);
    // UDP: one socket sticks to its endpoint until that goes away, then reaches the other.
    s.affinity_seconds = None;
    node.directory.apply_service(s.clone());
    node.flush();
    for (bind, vip) in [("0.0.0.0", VIP4), ("::", VIP6)] {
        let socket = sys::netns::run_in(Some(&c), || UdpSocket::bind((ip(bind), 0)).unwrap()).unwrap();
        socket.connect(at(vip, 80)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let say = || {
            let mut buffer = [0; 8];
            socket.send(b"x").unwrap();
            let n = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        };
        let first = say();
        let other = if first == "A" { "b" } else { "a" };
        apply_pods(&node.directory, &s, &[other], 8080);
        node.flush();
        assert_eq!(say(), other.to_uppercase(), "{vip}");
        apply_pods(&node.directory, &s, &["a", "b"], 8080);
        node.flush();
    }
    assert!(node.proxy.stats().flows_forgotten >= 2, "{:?}", node.proxy.stats());
    // Traffic policies.
    s.external_policy = Policy::Local;
    node.directory.apply_service(s.clone());
    node.flush();
    let counts = spread(&c, at("192.168.50.1", 30080), 40);
    assert_eq!(counts.len(), 2, "{counts:?}");
    // Host ports.
    let port = |host_ip: Option<&str>, host_port| HostPort {
        protocol: Protocol::Tcp,
        host_port,
        host_ip: host_ip.map(ip),
        container_port: 8080,
    };
    let ips = [ip(PODS[0].1), ip(PODS[0].2)];
    let ports = [port(None, 9000), port(Some("192.168.50.1"), 9001)];
    node.pods.setup("a", &node.pod("a"), &ips, &ports).await.unwrap();
    node.flush();
    assert!(ask(&host, at("192.168.50.1", 9000)).unwrap().starts_with('A'));
    assert!(ask(&c, at("192.168.50.1", 9000)).unwrap().starts_with('A'));
    assert!(ask(&c, at("fd00:50::1", 9000)).unwrap().starts_with('A'));
    assert!(ask(&c, at("192.168.50.1", 9001)).unwrap().starts_with('A'));
    assert_eq!(ask(&c, at("fd00:50::1", 9001)).unwrap_err(), ErrorKind::ConnectionRefused);
    assert!(ask(&node.pod("a"), at("192.168.50.1", 9000)).unwrap().starts_with('A'));
    node.pods.teardown("a").await.unwrap();
    node.flush();
    assert_eq!(ask(&c, at("192.168.50.1", 9000)).unwrap_err(), ErrorKind::ConnectionRefused);
    assert_eq!(node.proxy.stats().failures, 0);
    assert_eq!(node.finish().await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_one_machine() {
    if !root() {
        return;
    }
    let node = Node::new().await;
    let other = node.dir.path().join("node-2");
    sys::netns::create(&other).unwrap();
    let outcome = second_node(&node, &other).await;
    sys::netns::delete(&other).unwrap();
    outcome.unwrap();
    assert_eq!(node.finish().await, "");
}

async fn second_node(node: &Node, other: &std::path::Path) -> network::Result<()> {
    let link = network::NodeLink::ensure(Some(&node.netns), "taffrail0", &[]).await?;
    let addresses = [cidr("192.168.50.2/24"), cidr("fd00:50::2/64")];
    let gateways = [ip("192.168.50.1"), ip("fd00:50::1")];
    link.attach(other, "uplink", &addresses, &gateways).await?;
    link.attach(other, "uplink", &addresses, &gateways).await?;
    // Node 2 is reached, knows node 1's pods, and a pod shows node 2 its own address.
    let pods2 = network::PodNetwork::new(
        network::PodNetworkConfig {
            netns: Some(other.to_owned()),
            state_dir: node.dir.path().join("network-2"),
            pod_cidrs: vec![cidr("10.244.1.0/24"), cidr("fd00:10:244:1::/64")],
            cluster_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd00:10:244::/48")],
            node_ips: addresses.iter().map(|a| a.address).collect(),
            masqueraded: vec![],
        },
        None,
    )
    .await?;
    let peer = |ips: &[&str], cidrs: &[&str]| Peer {
        node_ips: ips.iter().map(|i| ip(i)).collect(),
        cidrs: cidrs.iter().map(|c| cidr(c)).collect(),
    };
    let one = peer(&["192.168.50.1", "fd00:50::1"], &["10.244.0.0/24", "fd00:10:244::/64"]);
    let two = peer(&["192.168.50.2", "fd00:50::2"], &["10.244.1.0/24", "fd00:10:244:1::/64"]);
    pods2.set_peers(std::slice::from_ref(&one)).await?;
    node.pods.set_peers(std::slice::from_ref(&two)).await?;
    let pin = node.dir.path().join("pod-z");
    let ips = [ip("10.244.1.2"), ip("fd00:10:244:1::2")];
    pods2.setup("z", &pin, &ips, &[]).await?;
    node.serve("a", 8080, "A");
    let answers: Vec<_> = [(PODS[0].1, "10.244.1.2"), (PODS[0].2, "fd00:10:244:1::2")]
        .map(|(to, own)| (ask(&pin, at(to, 8080)), own))
        .into();
    // Without the route, the pod network is torn.
    node.pods.set_peers(&[]).await?;
    let torn = ask(&pin, at(PODS[0].1, 8080));
    pods2.teardown("z").await?;
    pods2.cleanup().await?;
    sys::netns::delete(&pin)?;
    link.detach(other).await?;
    for (answer, own) in answers {
        assert!(answer.as_ref().is_ok_and(|t| t.ends_with(own)), "{answer:?} {own}");
    }
    assert!(torn.is_err(), "{torn:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_the_cluster_under_the_nodes_address() {
    if !root() {
        return;
    }
    let node = Node::new().await;
    let outside = node.dir.path().join("outside");
    sys::netns::create(&outside).unwrap();
    let link = network::NodeLink::ensure(Some(&node.netns), "taffrail0", &[]).await.unwrap();
    link.attach(&outside, "uplink", &[cidr("192.168.50.9/24"), cidr("fd00:50::9/64")], &[]).await.unwrap();
    let seen: Vec<_> = [("192.168.50.9", "192.168.50.1"), ("fd00:50::9", "fd00:50::1")]
        .map(|(to, want)| {
            let listener =
                sys::netns::run_in(Some(&outside), || std::net::TcpListener::bind(at(to, 7000)).unwrap())
                    .unwrap();
            let connect = || std::net::TcpStream::connect_timeout(&at(to, 7000), SOON);
            let stream = sys::netns::run_in(Some(&node.pod("a")), connect).unwrap();
            let peer = stream.is_ok().then(|| listener.accept().unwrap().1.ip());
            (peer, ip(want))
        })
        .into();
    link.detach(&outside).await.unwrap();
    sys::netns::delete(&outside).unwrap();
    for (peer, want) in seen {
        assert_eq!(peer, Some(want));
    }
    assert_eq!(node.finish().await, "");
}

/// Prints the times; asserts only that they are not absurd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measured() {
    if !root() {
        return;
    }
    let node = Node::new().await;
    let (mut times, mut namespaces) = (vec![], vec![]);
    for n in 0..20u8 {
        let (uid, pin) = (format!("uid-{n}"), node.dir.path().join(format!("m{n}")));
        let ips = [ip(&format!("10.244.0.{}", 100 + n)), ip(&format!("fd00:10:244::{:x}", 100 + n))];
        let start = Instant::now();
        sys::netns::create(&pin).unwrap();
        namespaces.push(start.elapsed());
        node.pods.setup(&uid, &pin, &ips, &[]).await.unwrap();
        times.push(start.elapsed());
    }
    println!("namespace alone: {}", spread_of(&mut namespaces));
    for n in 0..20u8 {
        node.pods.teardown(&format!("uid-{n}")).await.unwrap();
        sys::netns::delete(&node.dir.path().join(format!("m{n}"))).unwrap();
    }
    println!("pod setup with its namespace: {}", spread_of(&mut times));
    let many = |d: &Directory, n: u16| {
        let [high, low] = n.to_be_bytes();
        let s = service(
            &format!("s{n}"),
            &format!("10.97.{high}.{low}"),
            &format!("fd00:10:96::1:{n:x}"),
            &[(Protocol::Tcp, 80, 0), (Protocol::Udp, 53, 0)],
        );
        d.apply_service(s.clone());
        apply_pods(d, &s, &["a", "b"], 8080);
        s
    };
    let start = Instant::now();
    let services: Vec<_> = (0..1000).map(|n| many(&node.directory, n)).collect();
    node.flush();
    println!("1000 services of 2 ports, 2 families, 2 endpoints added: {:?}", start.elapsed());
    let mut tcp_only = services[501].clone();
    tcp_only.ports.truncate(1);
    node.directory.apply_service(tcp_only.clone());
    for (what, service) in [("TCP", &tcp_only), ("TCP and UDP", &services[500])] {
        let mut times = vec![];
        for n in 0..20 {
            let pods: &[&str] = if n % 2 == 0 { &["a"] } else { &["a", "b"] };
            let start = Instant::now();
            apply_pods(&node.directory, service, pods, 8080);
            node.flush();
            times.push(start.elapsed());
        }
        println!("one service ({what}) changed at 1000, until done: {}", spread_of(&mut times));
        assert!(times[10] < Duration::from_millis(500));
    }
    node.serve("a", 8080, "A");
    node.serve("b", 8080, "B");
    let start = Instant::now();
    spread(&node.pod("c"), at("10.97.1.244", 80), 20);
    println!("connection through a service at 1000: {:?}", start.elapsed() / 20);
    assert_eq!(node.proxy.stats().failures, 0);
    assert_eq!(node.finish().await, "");
}

fn spread_of(times: &mut [Duration]) -> String {
    times.sort();
    format!("median {:?}, min {:?}, max {:?}", times[times.len() / 2], times[0], times[times.len() - 1])
}
