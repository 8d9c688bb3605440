//! Pulling from a registry on loopback: one of the test's own, and a real one when `TAFFRAIL_TEST_REGISTRY` names its
//! program (CNCF distribution's `registry`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use oci::{Error, ImageStore, Login};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// An image as its parts by digest, the index first in `manifests`.
struct Sample {
    manifests: Vec<(String, Bytes)>,
    blobs: Vec<Bytes>,
    config: String,
}

fn sample() -> Sample {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "greeting", &b"hello"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let layer = Bytes::from(gzip.finish().unwrap());
    let config = json!({
        "architecture": oci::import::architecture(), "os": "linux", "config": {"Cmd": ["/greeting"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
    });
    let config = Bytes::from(config.to_string());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&layer), "size": layer.len()}],
    });
    let manifest = Bytes::from(manifest.to_string());
    let entry = |arch: &str, digest: String| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            "platform": {"os": "linux", "architecture": arch}})
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(oci::import::architecture(), digest(&manifest))],
    });
    let index = Bytes::from(index.to_string());
    Sample {
        config: digest(&config),
        manifests: vec![
            ("application/vnd.oci.image.index.v1+json".into(), index),
            ("application/vnd.oci.image.manifest.v1+json".into(), manifest),
        ],
        blobs: vec![config, layer],
    }
}

/// What the registry of the test asks for.
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Nothing,
    Password,
    Token,
}

struct Registry {
    asks: Asks,
    address: SocketAddr,
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    seen: Mutex<Vec<String>>,
}

impl Registry {
    async fn start(asks: Asks, sample: &Sample, damage: bool) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut manifests = HashMap::new();
        for (kind, bytes) in &sample.manifests {
            manifests.insert(digest(bytes), (kind.clone(), bytes.clone()));
        }
        manifests.insert("v1".to_owned(), sample.manifests[0].clone());
        let mut blobs: HashMap<_, _> = sample.blobs.iter().map(|b| (digest(b), b.clone())).collect();
        if damage {
            let layer = digest(&sample.blobs[1]);
            blobs.insert(layer, Bytes::from(vec![0; sample.blobs[1].len()]));
        }
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(Self { asks, address, manifests, blobs, seen: Mutex::default() });
        let server = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |r: Request<Incoming>| {
                        let server = server.clone();
                        async move { Ok::<_, std::convert::Infallible>(server.answer(&r)) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        registry
    }

    fn answer(&self, r: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = r.uri().path();
        let given = r.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("");
        self.seen.lock().unwrap().push(format!("{} {path}", r.method()));
        let reply = |code: StatusCode, kind: &str, body: Bytes| {
            Response::builder().status(code).header(header::CONTENT_TYPE, kind).body(Full::new(body)).unwrap()
        };
        let password = "Basic dXNlcjpzZWNyZXQ="; // user:secret
        if path == "/token" {
            let ok = given == password;
            let body = if ok { json!({"token": "t0ken", "expires_in": 300}) } else { json!({"errors": []}) };
            let code = if ok { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            return reply(code, "application/json", body.to_string().into());
        }
        let challenge = match self.asks {
            Asks::Password if given != password => Some("Basic realm=\"here\"".to_owned()),
            Asks::Token if given != "Bearer t0ken" => {
                Some(format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address))
            }
            _ => None,
        };
        if let Some(challenge) = challenge {
            let errors = json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]});
            let mut refused = reply(StatusCode::UNAUTHORIZED, "application/json", errors.to_string().into());
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
            return refused;
        }
        if path == "/v2/" {
            return reply(StatusCode::OK, "application/json", "{}".into());
        }
        let last = path.rsplit('/').next().unwrap_or("");
        let found = if path.contains("/manifests/") {
            self.manifests.get(last).cloned()
        } else {
            self.blobs.get(last).map(|b| ("application/octet-stream".to_owned(), b.clone()))
        };
        match found {
            Some((kind, bytes)) => reply(StatusCode::OK, &kind, bytes),
            None => {
                let errors = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
                reply(StatusCode::NOT_FOUND, "application/json", errors.to_string().into())
            }
        }
    }
}

fn store() -> (tempfile::TempDir, Arc<ImageStore>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(ImageStore::open(dir.path()).unwrap());
    (dir, store)
}

fn login() -> Login {
    Login { username: "user".into(), password: "secret".into(), token: String::new() }
}

/// What every registry must give: the image by tag and by digest, complete, with its names and digests.
async fn pulls(registry: &str, logins: &[Login], sample: &Sample) {
    let (_dir, store) = store();
    let name = format!("{registry}/demo/greeting:v1");
    let (done, total) = (Mutex::new(0), Mutex::new(0));
    let progress = |d: u64, t: u64| {
        let mut done = done.lock().unwrap();
        *done = d.max(*done);
        *total.lock().unwrap() = t;
    };
    let image = oci::pull(&store, &name, logins, &progress).await.unwrap();
    assert_eq!(image.id, sample.config);
    assert_eq!(image.names, std::slice::from_ref(&name));
    let index = digest(&sample.manifests[0].1);
    assert_eq!(image.repo_digests, [format!("{registry}/demo/greeting@{index}")]);
    assert_eq!(*done.lock().unwrap(), *total.lock().unwrap());
    let layers = store.layer_dirs(&image).unwrap();
    assert_eq!(std::fs::read_to_string(layers[0].join("greeting")).unwrap(), "hello");
    assert!(store.find(&format!("{registry}/demo/greeting@{index}")).is_some());
    // By the digest of the manifest itself.
    let by_digest = format!("{registry}/demo/greeting@{}", digest(&sample.manifests[1].1));
    let again = oci::pull(&store, &by_digest, logins, &|_, _| {}).await.unwrap();
    assert_eq!(again.id, image.id);
    assert!(store.find(&by_digest).is_some());
    let none = oci::pull(&store, &format!("{registry}/demo/greeting:v2"), logins, &|_, _| {}).await;
    assert!(matches!(none, Err(Error::Unknown { .. })), "{none:?}");
}

#[tokio::test]
async fn images_come_by_tag_and_digest_however_the_registry_asks() {
    let sample = sample();
    for asks in [Asks::Nothing, Asks::Password, Asks::Token] {
        let registry = Registry::start(asks, &sample, false).await;
        pulls(&registry.address.to_string(), &[login()], &sample).await;
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_the_right_one_found() {
    let sample = sample();
    let registry = Registry::start(Asks::Password, &sample, false).await;
    let name = format!("{}/demo/greeting:v1", registry.address);
    let wrong = Login { password: "guess".into(), ..login() };
    let (_dir, store) = store();
    let refused = oci::pull(&store, &name, std::slice::from_ref(&wrong), &|_, _| {}).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    oci::pull(&store, &name, &[wrong, login()], &|_, _| {}).await.unwrap();
}

#[tokio::test]
async fn damage_is_refused_and_leaves_nothing() {
    let sample = sample();
    let registry = Registry::start(Asks::Nothing, &sample, true).await;
    let (_dir, store) = store();
    let refused = oci::pull(&store, &format!("{}/demo/greeting:v1", registry.address), &[], &|_, _| {}).await;
    assert!(refused.is_err());
    assert!(!store.has_blob(&digest(&sample.blobs[1])));
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_apart() {
    let (_dir, store) = store();
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = oci::pull(&store, &format!("{gone}/demo/greeting:v1"), &[], &|_, _| {}).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
}

/// A real registry server with a password file, on loopback in this test's network.
struct Real {
    process: std::process::Child,
    _dir: tempfile::TempDir,
    address: String,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn real() -> Option<Real> {
    #[allow(clippy::disallowed_methods)] // which program it is, only the tester knows
    let program = std::env::var("TAFFRAIL_TEST_REGISTRY").ok()?;
    let dir = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // user:secret
    let users = dir.path().join("users");
    std::fs::write(&users, "user:$2a$04$lDmAAu2ackGfKEj8TGe5dOkoK7TJ8EQi9xf.I5m1niFVgCV7aOvvG\n").unwrap();
    let config = dir.path().join("config.yml");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{free}'}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\nlog: {{level: error}}\n",
        dir.path().join("data").display(),
        users.display()
    );
    std::fs::write(&config, text).unwrap();
    let process = std::process::Command::new(program).arg("serve").arg(&config).spawn().unwrap();
    let begun = std::time::Instant::now();
    while std::net::TcpStream::connect(free).is_err() {
        assert!(begun.elapsed().as_secs() < 20, "the registry did not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Some(Real { process, _dir: dir, address: free.to_string() })
}

/// Sends one request of the distribution API.
async fn put(address: &str, method: &str, path: &str, kind: &str, body: Bytes) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address)
        .header(header::AUTHORIZATION, "Basic dXNlcjpzZWNyZXQ=")
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(body))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn a_real_registry_serves_the_same() {
    let Some(real) = real() else {
        let _ = writeln!(std::io::stderr(), "skipped: TAFFRAIL_TEST_REGISTRY names no registry program");
        return;
    };
    let sample = sample();
    let at = &real.address;
    for blob in &sample.blobs {
        let begun =
            put(at, "POST", "/v2/demo/greeting/blobs/uploads/", "application/octet-stream", Bytes::new())
                .await;
        assert_eq!(begun.status(), 202);
        let location = begun.headers()[header::LOCATION].to_str().unwrap();
        let path = location.split_once(at.as_str()).map_or(location, |(_, path)| path);
        let path = format!("{path}&digest={}", digest(blob));
        assert_eq!(put(at, "PUT", &path, "application/octet-stream", blob.clone()).await.status(), 201);
    }
    for (kind, bytes) in sample.manifests.iter().rev() {
        let reference = if kind.contains("index") { "v1".to_owned() } else { digest(bytes) };
        let path = format!("/v2/demo/greeting/manifests/{reference}");
        let stored = put(at, "PUT", &path, kind, bytes.clone()).await;
        let code = stored.status();
        let body = stored.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(code, 201, "{:?}", serde_json::from_slice::<Value>(&body));
    }
    pulls(at, &[login()], &sample).await;
    let (_dir, store) = store();
    let refused = oci::pull(&store, &format!("{at}/demo/greeting:v1"), &[], &|_, _| {}).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
}
