//! A node in network namespaces of the test's own: made here, gone with it.

// Each test program uses its own part of this.
#![allow(dead_code, clippy::unwrap_used)]

use network::spec::{Endpoint, EndpointPort, Protocol, ServicePort, ServiceSpec, SliceSpec};
use network::{Cidr, Directory, PodNetwork, PodNetworkConfig, ServiceProxy, ServiceProxyConfig};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(5);

/// Whether tests that need root can run; says so when not.
pub fn root() -> bool {
    let root = std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
        .unwrap_or(false);
    if !root {
        println!("skipped: needs root");
    }
    root
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// A node with pods a, b, c.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub netns: PathBuf,
    pub directory: Arc<Directory>,
    pub proxy: ServiceProxy,
    pub pods: PodNetwork,
    stop: Arc<AtomicBool>,
}

pub const PODS: [(&str, &str, &str); 3] = [
    ("a", "10.244.0.2", "fd00:10:244::2"),
    ("b", "10.244.0.3", "fd00:10:244::3"),
    ("c", "10.244.0.4", "fd00:10:244::4"),
];

impl Node {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let netns = dir.path().join("node");
        sys::netns::create(&netns).unwrap();
        // The machine's own address and a way out, so that routes are as on a real one.
        let addresses = [cidr("192.168.50.1/24"), cidr("fd00:50::1/64")];
        network::NodeLink::ensure(Some(&netns), "taffrail0", &addresses).await.unwrap();
        let directory = Directory::new();
        let proxy = ServiceProxy::start(
            ServiceProxyConfig {
                netns: Some(netns.clone()),
                node_name: "node-1".into(),
                node_ips: vec![ip("192.168.50.1"), ip("fd00:50::1")],
                pod_cidrs: vec![cidr("10.244.0.0/24"), cidr("fd00:10:244::/64")],
                cluster_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd00:10:244::/48")],
                service_cidrs: vec![cidr("10.96.0.0/12"), cidr("fd00:10:96::/112")],
                local_service_ips: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
                allow_external_ips: false,
            },
            directory.clone(),
        )
        .await
        .unwrap();
        let pods = PodNetwork::new(
            PodNetworkConfig {
                netns: Some(netns.clone()),
                state_dir: dir.path().join("network"),
                pod_cidrs: vec![cidr("10.244.0.0/24"), cidr("fd00:10:244::/64")],
                cluster_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd00:10:244::/48")],
                node_ips: vec![ip("192.168.50.1"), ip("fd00:50::1")],
                masqueraded: vec![],
            },
            Some(proxy.clone()),
        )
        .await
        .unwrap();
        let node = Self { dir, netns, directory, proxy, pods, stop: Arc::default() };
        for (name, v4, v6) in PODS {
            node.pods.setup(name, &node.pod(name), &[ip(v4), ip(v6)], &[]).await.unwrap();
        }
        node.directory.set_synced();
        node
    }

    pub fn pod(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("pod-{name}"))
    }

    /// Starts a server in a pod that answers each connection and datagram with `tag`.
    pub fn serve(&self, pod: &str, port: u16, tag: &'static str) {
        let pin = self.pod(pod);
        let (tcp, udp4, udp6) = sys::netns::run_in(Some(&pin), || {
            (
                TcpListener::bind(("::", port)).unwrap(),
                UdpSocket::bind(("0.0.0.0", port)).unwrap(),
                // The wildcard of IPv6 alone: the IPv4 one is taken.
                UdpSocket::bind((pod_v6(pod), port)).unwrap(),
            )
        })
        .unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((mut s, peer)) => {
                        let _ = s.write_all(format!("{tag} {}", peer.ip().to_canonical()).as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        for udp in [udp4, udp6] {
            udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let stop = self.stop.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(tag.as_bytes(), from);
                    }
                }
            });
        }
    }

    pub fn flush(&self) {
        self.proxy.flush(SOON).unwrap();
    }

    /// Ends the servers, removes what is ours, and says what is left in the node's namespace.
    pub async fn finish(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        for (name, _, _) in PODS {
            self.pods.teardown(name).await.unwrap();
        }
        self.flush();
        self.pods.cleanup().await.unwrap();
        let left = sys::netns::run_in(Some(&self.netns), || {
            let links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
            let routes6 = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
            let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
            let mut left = String::new();
            left.extend(links.lines().skip(2).filter(|l| !l.trim_start().starts_with("lo:")));
            left.extend(routes.lines().skip(1));
            left.extend(routes6.lines().filter(|l| !l.trim_end().ends_with(" lo")));
            left.push_str(if forward.trim() == "0" { "" } else { "forwarding" });
            let socket = sys::nft::Socket::open().unwrap();
            for family in sys::nft::Family::BOTH {
                for table in ["taffrail", "taffrail-pods"] {
                    let mut batch = sys::nft::Batch::new();
                    batch.delete_table(family, table);
                    if batch.commit(&socket).is_ok() {
                        left.push_str(table);
                    }
                }
            }
            left
        });
        left.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Also what a failed test left.
        for entry in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            if sys::netns::is_pinned(&entry.path()) {
                let _ = sys::netns::delete(&entry.path());
            }
        }
    }
}

fn pod_v6(pod: &str) -> IpAddr {
    PODS.iter().find(|(n, _, _)| *n == pod).map(|(_, _, v6)| ip(v6)).unwrap()
}

/// Connects from a namespace; the server's answer, or the error.
pub fn ask(from: &Path, to: SocketAddr) -> Result<String, std::io::ErrorKind> {
    sys::netns::run_in(Some(from), || {
        let mut s = TcpStream::connect_timeout(&to, Duration::from_secs(2)).map_err(|e| e.kind())?;
        s.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.kind())?;
        let mut text = String::new();
        s.read_to_string(&mut text).map_err(|e| e.kind())?;
        Ok(text)
    })
    .unwrap()
}

/// As [`ask`], many times in a row: how often each server answered.
pub fn spread(from: &Path, to: SocketAddr, times: usize) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..times {
        let answer = ask(from, to).unwrap();
        *counts.entry(answer.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

pub fn service(name: &str, v4: &str, v6: &str, ports: &[(Protocol, u16, u16)]) -> ServiceSpec {
    ServiceSpec {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: vec![ip(v4), ip(v6)],
        ports: ports
            .iter()
            .map(|(protocol, port, node_port)| ServicePort {
                name: format!("{}-{port}", protocol.word()),
                protocol: *protocol,
                port: *port,
                node_port: *node_port,
            })
            .collect(),
        ..ServiceSpec::default()
    }
}

/// The two slices (one per family) of a service over some of the pods, all on node-1.
pub fn apply_pods(directory: &Directory, service: &ServiceSpec, pods: &[&str], target: u16) {
    for family in [4, 6] {
        let endpoints = PODS.iter().filter(|(n, _, _)| pods.contains(n)).map(|(name, v4, v6)| Endpoint {
            addresses: vec![ip(if family == 4 { v4 } else { v6 })],
            ready: true,
            serving: true,
            terminating: false,
            node_name: Some("node-1".into()),
            hostname: Some(format!("pod-{name}")),
        });
        directory.apply_slice(SliceSpec {
            namespace: service.namespace.clone(),
            name: format!("{}-{family}", service.name),
            service: service.name.clone(),
            ports: service
                .ports
                .iter()
                .map(|p| EndpointPort { name: p.name.clone(), protocol: p.protocol, port: target })
                .collect(),
            endpoints: endpoints.collect(),
        });
    }
}
