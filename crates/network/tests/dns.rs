//! The DNS server on real sockets, in namespaces of the test's own.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, SOON, apply_pods, ip, root, service};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use network::dns::Upstream;
use network::spec::{Endpoint, EndpointPort, Protocol, ServicePort, ServiceSpec, SliceSpec};
use network::{DnsConfig, DnsServer};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;

fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut m = Message::new(7, MessageType::Query, OpCode::Query);
    m.metadata.recursion_desired = true;
    m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut e = Edns::new();
        e.set_max_payload(size);
        m.set_edns(e);
    }
    m.to_vec().unwrap()
}

fn udp(from: &Path, server: &str, bytes: &[u8]) -> Message {
    let server = SocketAddr::new(ip(server), 53);
    let answer = sys::netns::run_in(Some(from), || {
        let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((ip(any), 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(server).unwrap();
        socket.send(bytes).unwrap();
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    });
    Message::from_vec(&answer.unwrap()).unwrap()
}

fn tcp(from: &Path, server: &str, bytes: &[u8]) -> Message {
    let answer = sys::netns::run_in(Some(from), || {
        let mut stream = TcpStream::connect((ip(server), 53)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut len = [0; 2];
        stream.read_exact(&mut len).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    Message::from_vec(&answer.unwrap()).unwrap()
}

fn texts(m: &Message) -> Vec<String> {
    let mut out: Vec<String> = m.answers.iter().map(|r| r.data.to_string()).collect();
    out.sort();
    out
}

/// A resolver that knows one name.
fn resolver(netns: &Path) -> SocketAddr {
    let socket = sys::netns::run_in(Some(netns), || UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let mut m = Message::from_vec(&buffer[..len]).unwrap();
            m.metadata.message_type = MessageType::Response;
            let query = m.queries[0].clone();
            if query.query_type() == RecordType::A {
                let a = RData::A(hickory_proto::rr::rdata::A("198.51.100.7".parse().unwrap()));
                m.add_answer(hickory_proto::rr::Record::from_rdata(query.name().clone(), 60, a));
            }
            socket.send_to(&m.to_vec().unwrap(), from).unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_is_named_on_both_families_and_transports() {
    if !root() {
        return;
    }
    let node = Node::new().await;
    let dns = DnsServer::bind(
        DnsConfig {
            netns: Some(node.netns.clone()),
            domain: "cluster.local".into(),
            service_ips: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
            listen: vec![],
            upstream: Upstream::Fixed(vec![resolver(&node.netns)]),
            own_cidrs: vec!["10.96.0.0/12".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
        },
        node.directory.clone(),
    )
    .await
    .unwrap();
    let web = service("web", "10.96.0.50", "fd00:10:96::50", &[(Protocol::Tcp, 80, 0)]);
    node.directory.apply_service(web.clone());
    apply_pods(&node.directory, &web, &["a"], 8080);
    let named =
        |name: &str| ServiceSpec { namespace: "default".into(), name: name.into(), ..ServiceSpec::default() };
    let port = ServicePort { name: "peer".into(), port: 7000, ..ServicePort::default() };
    node.directory.apply_service(ServiceSpec { headless: true, ports: vec![port], ..named("db") });
    // Too many endpoints for one plain datagram.
    node.directory.apply_slice(SliceSpec {
        namespace: "default".into(),
        name: "db-1".into(),
        service: "db".into(),
        ports: vec![EndpointPort { name: "peer".into(), port: 7001, ..EndpointPort::default() }],
        endpoints: (1..=60)
            .map(|n| Endpoint {
                addresses: vec![ip(&format!("10.244.7.{n}"))],
                ready: true,
                hostname: (n == 1).then(|| "db-0".into()),
                ..Endpoint::default()
            })
            .collect(),
    });
    node.directory.apply_service(ServiceSpec { external_name: Some("example.org".into()), ..named("ext") });
    node.flush();
    let (pod, host) = (node.pod("c"), node.netns.clone());
    let name = "web.default.svc.cluster.local.";
    for from in [&pod, &host] {
        for server in ["10.96.0.10", "fd00:10:96::a"] {
            let a = question(name, RecordType::A, None);
            let answer = udp(from, server, &a);
            assert_eq!(texts(&answer), ["10.96.0.50"]);
            assert!(answer.metadata.authoritative && answer.answers[0].ttl == 5);
            assert_eq!(
                texts(&tcp(from, server, &question(name, RecordType::AAAA, None))),
                ["fd00:10:96::50"]
            );
        }
    }
    let ask = |name: &str, kind| udp(&pod, "10.96.0.10", &question(name, kind, None));
    let srv = ask("_tcp-80._tcp.web.default.svc.cluster.local.", RecordType::SRV);
    assert_eq!(texts(&srv), ["0 100 80 web.default.svc.cluster.local."]);
    assert_eq!(srv.additionals.len(), 2);
    assert_eq!(texts(&ask("db-0.db.default.svc.cluster.local.", RecordType::A)), ["10.244.7.1"]);
    assert_eq!(texts(&ask("10-244-9-9.default.pod.cluster.local.", RecordType::A)), ["10.244.9.9"]);
    assert_eq!(texts(&ask("50.0.96.10.in-addr.arpa.", RecordType::PTR)), [name]);
    assert_eq!(
        texts(&ask("1.7.244.10.in-addr.arpa.", RecordType::PTR)),
        ["db-0.db.default.svc.cluster.local."]
    );
    // 60 endpoints: cut over plain UDP, whole over EDNS and TCP.
    let db = |edns| question("db.default.svc.cluster.local.", RecordType::A, edns);
    let cut = udp(&pod, "10.96.0.10", &db(None));
    assert!(cut.metadata.truncation && cut.answers.len() < 60);
    let whole = udp(&pod, "10.96.0.10", &db(Some(4096)));
    assert!(!whole.metadata.truncation && whole.answers.len() == 60 && whole.edns.is_some());
    assert_eq!(tcp(&pod, "10.96.0.10", &db(None)).answers.len(), 60);
    // Aliases and other names come from the resolvers.
    let ext = ask("ext.default.svc.cluster.local.", RecordType::A);
    assert_eq!(texts(&ext), ["198.51.100.7", "example.org."]);
    let other = ask("example.com.", RecordType::A);
    assert_eq!((texts(&other), other.metadata.authoritative), (vec!["198.51.100.7".to_owned()], false));
    let none = ask("nope.default.svc.cluster.local.", RecordType::A);
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.authorities.len(), 1);
    println!("{:?}", dns.stats());
    drop(dns);
    assert_eq!(node.finish().await, "");
}
