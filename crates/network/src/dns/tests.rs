//! Cases of [`super`].

use super::answer::{Answer, Zone};
use super::forward::{Forwarder, Upstream};
use super::respond::{Reply, Responder};
use crate::directory::Directory;
use crate::spec::{Endpoint, EndpointPort, ServicePort, ServiceSpec, SliceSpec};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::sync::Arc;

fn directory() -> Arc<Directory> {
    let d = Directory::new();
    let port = |name: &str, port| ServicePort { name: name.into(), port, ..ServicePort::default() };
    d.apply_service(ServiceSpec {
        namespace: "n".into(),
        name: "web".into(),
        cluster_ips: vec!["10.96.0.5".parse().unwrap()],
        ports: vec![port("http", 80), port("https", 443)],
        ..ServiceSpec::default()
    });
    d.apply_service(ServiceSpec {
        namespace: "n".into(),
        name: "db".into(),
        headless: true,
        ports: vec![port("peer", 7000)],
        ..ServiceSpec::default()
    });
    let endpoint = |ip: &str, ready, hostname: Option<&str>| Endpoint {
        addresses: vec![ip.parse().unwrap()],
        ready,
        hostname: hostname.map(String::from),
        ..Endpoint::default()
    };
    d.apply_slice(SliceSpec {
        namespace: "n".into(),
        name: "db-x".into(),
        service: "db".into(),
        ports: vec![EndpointPort { name: "peer".into(), port: 7001, ..EndpointPort::default() }],
        endpoints: vec![
            endpoint("10.244.0.8", true, Some("db-0")),
            endpoint("10.244.0.9", false, Some("db-1")),
            endpoint("fd00::9", true, None),
        ],
    });
    d.apply_service(ServiceSpec {
        namespace: "n".into(),
        name: "ext".into(),
        external_name: Some("example.com".into()),
        ..ServiceSpec::default()
    });
    d.set_synced();
    d
}

fn zone() -> Zone {
    Zone::new("cluster.local", vec!["10.96.0.10".parse().unwrap()], vec!["10.96.0.0/12".parse().unwrap()])
}

/// The answer as one line: records, or `forward`, `nxdomain`, `nodata`.
fn ask(name: &str, kind: RecordType) -> String {
    let d = directory();
    match zone().answer(&d.read(), &Name::from_ascii(name).unwrap(), kind) {
        Answer::Forward => "forward".into(),
        Answer::NoSuchName => "nxdomain".into(),
        Answer::Alias { target, .. } => format!("alias {target}"),
        Answer::Found { answers, .. } if answers.is_empty() => "nodata".into(),
        Answer::Found { answers, .. } => {
            answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(", ")
        }
    }
}

#[test]
fn names_of_the_specification() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SRV, TXT};
    let table = [
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("web.n.svc.cluster.local.", A, "10.96.0.5"),
        ("WEB.N.svc.Cluster.Local.", A, "10.96.0.5"),
        ("web.n.svc.cluster.local.", AAAA, "nodata"),
        ("_http._tcp.web.n.svc.cluster.local.", SRV, "0 100 80 web.n.svc.cluster.local."),
        ("_http._udp.web.n.svc.cluster.local.", SRV, "nxdomain"),
        ("_tcp.web.n.svc.cluster.local.", SRV, "nodata"),
        ("db.n.svc.cluster.local.", A, "10.244.0.8"),
        ("db.n.svc.cluster.local.", AAAA, "fd00::9"),
        ("db-0.db.n.svc.cluster.local.", A, "10.244.0.8"),
        ("db-1.db.n.svc.cluster.local.", A, "nxdomain"),
        ("fd00--9.db.n.svc.cluster.local.", AAAA, "fd00::9"),
        (
            "_peer._tcp.db.n.svc.cluster.local.",
            SRV,
            "0 100 7001 db-0.db.n.svc.cluster.local., 0 100 7001 fd00--9.db.n.svc.cluster.local.",
        ),
        ("ext.n.svc.cluster.local.", A, "alias example.com."),
        ("ext.n.svc.cluster.local.", CNAME, "example.com."),
        ("10-1-2-3.n.pod.cluster.local.", A, "10.1.2.3"),
        ("10-1-2-3.n.pod.cluster.local.", AAAA, "nodata"),
        ("nope.n.pod.cluster.local.", A, "nxdomain"),
        ("5.0.96.10.in-addr.arpa.", PTR, "web.n.svc.cluster.local."),
        ("8.0.244.10.in-addr.arpa.", PTR, "db-0.db.n.svc.cluster.local."),
        ("9.9.96.10.in-addr.arpa.", PTR, "nxdomain"),
        ("8.8.8.8.in-addr.arpa.", PTR, "forward"),
        ("n.svc.cluster.local.", A, "nodata"),
        ("other.svc.cluster.local.", A, "nxdomain"),
        ("svc.cluster.local.", A, "nodata"),
        ("cluster.local.", NS, "ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", A, "10.96.0.10"),
        ("google.com.cluster.local.", A, "nxdomain"),
        ("google.com.", A, "forward"),
        ("xcluster.local.", A, "forward"),
    ];
    for (name, kind, want) in table {
        assert_eq!(ask(name, kind), want, "{name} {kind}");
    }
}

fn respond(directory: Arc<Directory>, bytes: &[u8]) -> Option<Message> {
    let forwarder = Forwarder::new(Upstream::Fixed(vec![]), vec![]);
    match (Responder { zone: zone(), directory, forwarder }).respond(bytes, true) {
        Reply::Send(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Reply::None | Reply::Later(_) => None,
    }
}

fn query(name: &str) -> Message {
    let mut m = Message::new(42, MessageType::Query, OpCode::Query);
    m.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    m
}

#[test]
fn bad_messages_are_answered_as_such_or_not_at_all() {
    let ok = query("web.n.svc.cluster.local.");
    let answer = respond(directory(), &ok.to_vec().unwrap()).unwrap();
    assert_eq!((answer.metadata.id, answer.answers.len()), (42, 1));
    assert_eq!(answer.queries, ok.queries);
    // Before the first sync nothing can be said of the cluster's names.
    let unknown = respond(Directory::new(), &ok.to_vec().unwrap()).unwrap();
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
    let mut response = ok.clone();
    response.metadata.message_type = MessageType::Response;
    assert!(respond(directory(), &response.to_vec().unwrap()).is_none());
    let mut update = ok.clone();
    update.metadata.op_code = OpCode::Notify;
    let refused = respond(directory(), &update.to_vec().unwrap()).unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::NotImp);
    let torn = &ok.to_vec().unwrap()[..14];
    assert_eq!(respond(directory(), torn).unwrap().metadata.response_code, ResponseCode::FormErr);
    assert!(respond(directory(), &[1, 2, 3]).is_none());
    let negative = respond(directory(), &query("x.n.svc.cluster.local.").to_vec().unwrap()).unwrap();
    assert_eq!(negative.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(negative.authorities[0].name.to_string(), "cluster.local.");
    assert_eq!(negative.authorities[0].record_type(), RecordType::SOA);
}
