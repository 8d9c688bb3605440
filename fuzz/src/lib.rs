//! What is done with bytes from outside, one function per parser: each must end, without a panic, whatever comes.
//!
//! `cargo fuzz` drives them through `fuzz_targets`; the program's tests run each on a while of damaged samples
//! (`crates/taffrail/tests/hostile.rs`).

use jiff::Timestamp;
use meta::schema::Strictness;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A parser, and a good sample to start from.
pub type Target = (&'static str, fn(&[u8]), &'static [u8]);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("url", url, b"/apis/apps/v1/namespaces/n/deployments/d/status?fieldManager=a&limit=5"),
    ("body", body, br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#),
    ("yaml", yaml, b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, labels: &l {a: b}}\ndata: {<<: *l, n: \"1\"}\n"),
    ("proto", proto, b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x07\x0a\x05\x0a\x01a"),
    ("patch", patch, br#"[{"op":"add","path":"/spec/containers/0/env","value":[{"name":"A"}]},{"op":"remove","path":"/data"}]"#),
    ("selector", selector, b"a=b,c!=d,e in (f,g),!h\nmetadata.name=x,spec.nodeName!=y"),
    ("scalar", scalar, b"1.5Gi\n2026-11-23T10:20:30.000001Z\n1h30m"),
    ("policy", policy, b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, resources: [{group: '', resources: [pods/*]}]}]\n"),
    ("query", query, b"system:serviceaccount:*\n10m"),
    ("credentials", credentials, b"token,user,uid,\"a,b\"\nBearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA"),
    ("token", token, b"eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJhdWQiOlsiYXBpIl0sImV4cCI6OTk5OTk5OTk5OSwiaXNzIjoiaHR0cHM6Ly9oIiwic3ViIjoieCJ9.AAAA"),
    ("spdy", spdy, b"\x80\x03\0\x01\x01\0\0\x0e\0\0\0\x01\0\0\0\0\0\0\x78\xbb\xe3\xc6\0\0\0\x01\x01\0\0\x03abc"),
    ("kubeconfig", kubeconfig, b"apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: https://h}}]\ncontexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n"),
    ("image_name", image_name, b"registry.example:5000/a/b:tag@sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    ("layer", layer, b""),
    ("archive", archive, b""),
    ("seccomp", seccomp, br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#),
    ("dns", dns, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01"),
    ("log", log, b""),
];

fn lines(data: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(data).split('\n').map(str::to_owned).collect()
}

/// The request line of an API request.
pub fn url(data: &[u8]) {
    let Ok(uri) = String::from_utf8_lossy(data).parse::<http::Uri>() else { return };
    for method in [http::Method::GET, http::Method::DELETE, http::Method::PATCH] {
        let info = apiserver::request_info::RequestInfo::parse(&method, &uri);
        assert!(!info.is_resource || !info.version.is_empty());
    }
}

/// A JSON body as every kind of the table: decoded, defaulted, validated.
pub fn body(data: &[u8]) {
    let Ok((value, _)) = meta::yaml::parse_json(data) else { return };
    object(&value);
}

fn object(value: &Value) {
    static TABLE: OnceLock<Vec<Arc<kinds::KindDef>>> = OnceLock::new();
    let schema = kinds::schema::schema();
    for row in TABLE.get_or_init(kinds::table) {
        let Ok((mut obj, _)) = schema.decode(value.clone(), &row.schema, Strictness::Strict) else {
            continue;
        };
        if !obj.is_object() {
            continue;
        }
        row.strategy.default(&mut obj);
        let once = obj.clone();
        row.strategy.default(&mut obj);
        assert_eq!(once, obj, "{} is defaulted twice to something else", row.kind);
        let errors = row.strategy.validate(&obj);
        drop(row.strategy.validate_update(
            &obj,
            &once,
            &kinds::Ctx { now: Timestamp::UNIX_EPOCH, subresource: "" },
        ));
        drop(errors);
    }
}

/// A YAML body.
pub fn yaml(data: &[u8]) {
    if let Ok((value, _)) = meta::yaml::parse_yaml(data, 1 << 20) {
        object(&value);
    }
    drop(meta::yaml::documents(data, 1 << 20));
}

/// A protobuf body.
pub fn proto(data: &[u8]) {
    let schema = kinds::schema::schema();
    for ty in ["io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.ConfigMap", "io.k8s.api.apps.v1.Deployment"] {
        drop(meta::proto::decode(schema, ty, data));
    }
}

/// The three kinds of patches, on a pod.
pub fn patch(data: &[u8]) {
    let Ok(patch) = serde_json::from_slice::<Value>(data) else { return };
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}], "tolerations": [{"key": "k"}]},
    });
    let schema = kinds::schema::schema();
    drop(meta::patch::json::apply(&mut pod.clone(), &patch));
    meta::patch::merge::apply(&mut pod.clone(), &patch);
    drop(meta::patch::strategic::apply(&mut pod.clone(), &patch, schema, "io.k8s.api.core.v1.Pod"));
}

/// Label and field selectors.
pub fn selector(data: &[u8]) {
    for line in lines(data) {
        drop(meta::selector::LabelSelector::parse(&line));
        drop(meta::selector::FieldSelector::parse(&line));
    }
}

/// Quantities, times and durations. What is read must be writable and read again as the same.
pub fn scalar(data: &[u8]) {
    for line in lines(data) {
        if let Ok(quantity) = meta::quantity::Quantity::parse(&line) {
            let text = quantity.to_string();
            let again = meta::quantity::Quantity::parse(&text);
            assert!(again.is_ok_and(|q| q.cmp(&quantity).is_eq()), "{line:?} became {text:?}");
        }
        drop(meta::time::parse(&line));
        drop(meta::time::parse_micro(&line));
        drop(meta::time::parse_duration(&line));
    }
}

/// An audit policy file.
pub fn policy(data: &[u8]) {
    drop(audit::Policy::parse(data));
}

/// What a query of the record is asked.
pub fn query(data: &[u8]) {
    for line in lines(data) {
        if let Ok(pattern) = trail::query::Pattern::new(&line) {
            pattern.matches("system:serviceaccount:kube-system:deployment-controller");
        }
        drop(trail::query::time(&line, Timestamp::UNIX_EPOCH));
    }
}

/// Token files, bearer headers, certificates.
pub fn credentials(data: &[u8]) {
    drop(auth::authenticate::parse_tokens(&String::from_utf8_lossy(data)));
    drop(auth::authenticate::from_certificate(data, Timestamp::UNIX_EPOCH));
    let headers: HashMap<_, _> = lines(data).into_iter().enumerate().collect();
    for line in headers.values() {
        auth::authenticate::bearer(line);
    }
}

/// A service account's token.
pub fn token(data: &[u8]) {
    struct Nothing;
    impl auth::tokens::Objects for Nothing {
        fn service_account(&self, _: &str, _: &str) -> Option<auth::tokens::Live> {
            None
        }
        fn pod(&self, _: &str, _: &str) -> Option<auth::tokens::Live> {
            None
        }
        fn secret(&self, _: &str, _: &str) -> Option<auth::tokens::Live> {
            None
        }
        fn node(&self, _: &str) -> Option<auth::tokens::Live> {
            None
        }
    }
    static SIGNER: OnceLock<Option<auth::tokens::Signer>> = OnceLock::new();
    let signer = SIGNER.get_or_init(|| {
        let dir = tempfile::tempdir().ok()?;
        let pki = auth::pki::Pki::open(dir.path(), base::clock::SystemClock::shared()).ok()?;
        auth::tokens::Signer::new("https://h", &pki.service_account_key().ok()?).ok()
    });
    let Some(signer) = signer else { return };
    let own = ["api".to_owned()];
    let known = signer.verify(&String::from_utf8_lossy(data), &own, &own, &Nothing, Timestamp::UNIX_EPOCH);
    assert!(known.is_err(), "a token was good that nobody signed");
}

/// What a client of exec or port-forward sends over an upgraded connection.
pub fn spdy(data: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let mut streams = node::server::spdy::serve(server);
        let sent = tokio::io::AsyncWriteExt::write_all(&mut client, data).await;
        drop((sent, client));
        let ended = async {
            while let Some(mut stream) = streams.recv().await {
                drop(stream.header("streamtype").to_owned());
                while stream.read().await.is_some() {}
            }
        };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await;
        assert!(ended.is_ok(), "a session outlived its connection");
    });
}

/// A user's kubeconfig.
pub fn kubeconfig(data: &[u8]) {
    with_file(data, |path| drop(client::kubeconfig::load(path, None)));
}

/// An image's name. What is read must be readable again as the same.
pub fn image_name(data: &[u8]) {
    for line in lines(data) {
        if let Ok(reference) = oci::Reference::parse(&line) {
            assert_eq!(oci::Reference::parse(&reference.to_string()).ok(), Some(reference), "{line:?}");
        }
    }
}

/// A layer: nothing of it may come to be outside of its directory.
pub fn layer(data: &[u8]) {
    with_file(data, |path| {
        let Some(parent) = path.parent() else { return };
        let dir = parent.join("layer");
        drop(std::fs::create_dir(&dir));
        drop(oci::unpack::layer(path, &dir, &[]));
        let beside = std::fs::read_dir(parent).map_or(0, Iterator::count);
        assert_eq!(beside, 2, "something was unpacked beside the layer");
    });
}

/// An image archive.
pub fn archive(data: &[u8]) {
    with_file(data, |path| {
        let Some(parent) = path.parent() else { return };
        if let Ok(store) = oci::ImageStore::open(&parent.join("images")) {
            drop(oci::import::import(&store, path, &|_| {}));
        }
    });
}

/// A seccomp profile.
pub fn seccomp(data: &[u8]) {
    if let Ok(profile) = sys::seccomp::parse_profile(&String::from_utf8_lossy(data), &[]) {
        drop(sys::seccomp::compile(&profile));
    }
}

/// A DNS question.
pub fn dns(data: &[u8]) {
    static RESPONDER: OnceLock<network::dns::Responder> = OnceLock::new();
    let responder = RESPONDER.get_or_init(|| {
        let directory = network::Directory::new();
        directory.set_synced();
        network::dns::Responder {
            zone: network::dns::answer::Zone::new("cluster.local", Vec::new(), Vec::new()),
            directory,
            forwarder: network::dns::forward::Forwarder::new(
                network::dns::Upstream::Fixed(Vec::new()),
                Vec::new(),
            ),
        }
    });
    drop(responder.respond(data, true));
    drop(responder.respond(data, false));
}

/// Files of the store's log: what is damaged is refused, never read as something else.
pub fn log(data: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let open = || {
        let mut options = store::Options::new(dir.path().join("store"));
        options.data_dir = dir.path().to_owned();
        store::Embedded::open(options, Arc::new(store::disk::RealDisk), base::clock::SystemClock::shared())
    };
    let Ok(first) = open() else { return };
    let put = store::Op::Put {
        key: "/a".to_owned(),
        value: store::Stamped { bytes: b"good".to_vec(), stamp: None },
        expect: store::Expect::Any,
    };
    drop(store::block_on(store::Store::commit(&*first, store::Txn { ops: vec![put], record: None })));
    first.close();
    drop(first);
    let Some(segment) =
        std::fs::read_dir(dir.path().join("store")).into_iter().flatten().flatten().find(|e| {
            e.file_name().to_string_lossy().ends_with(".log")
                || e.file_name().to_string_lossy().starts_with("wal")
        })
    else {
        return;
    };
    let Ok(mut bytes) = std::fs::read(segment.path()) else { return };
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len().clamp(1, 4096);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= change[2];
        }
    }
    drop(std::fs::write(segment.path(), bytes));
    if let Ok(again) = open() {
        let found = store::Store::get(&*again, "/a");
        assert!(found.is_none_or(|e| e.value == "good"), "a damaged value was read");
        again.close();
    }
}

fn with_file(data: &[u8], work: impl FnOnce(&Path)) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("input");
    if std::fs::write(&path, data).is_ok() {
        work(&path);
    }
}
