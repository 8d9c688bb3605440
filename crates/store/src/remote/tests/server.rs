//! A real etcd server on loopback, with its data in a temporary directory.
//!
//! Invariant: it ends with the value, by its own process id.

use crate::EtcdConfig;
use ::etcd::Client;
use ::etcd::proto::{DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, TxnRequest};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(10);

pub struct Server {
    dir: TempDir,
    program: PathBuf,
    extra: Vec<String>,
    port: u16,
    peer_port: u16,
    name: String,
    /// All members, as etcd wants to be told of them.
    members: String,
    tls: bool,
    child: Option<Child>,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub fn start_with(extra: &[&str]) -> Option<Self> {
        let mut server = Self::new(extra, false)?;
        server.restart();
        Some(server)
    }

    pub fn start_tls() -> Option<Self> {
        let mut server = Self::new(&[], true)?;
        server.make_certificates();
        server.restart();
        Some(server)
    }

    fn new(extra: &[&str], tls: bool) -> Option<Self> {
        let Some(program) = std::env::var_os("TAFFRAIL_TEST_ETCD") else {
            println!("skipped: TAFFRAIL_TEST_ETCD does not name an etcd program");
            return None;
        };
        let extra = extra.iter().map(|e| (*e).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let (port, peer_port) = (free_port(), free_port());
        let (name, members) = ("one".to_owned(), format!("one=http://127.0.0.1:{peer_port}"));
        Some(Self { dir, program: program.into(), extra, port, peer_port, name, members, tls, child: None })
    }

    /// Three members of one cluster.
    pub fn start_three() -> Option<Vec<Self>> {
        let mut all = (0..3).map(|_| Self::new(&[], false)).collect::<Option<Vec<_>>>()?;
        for (i, member) in all.iter_mut().enumerate() {
            member.name = format!("member{i}");
        }
        let members: Vec<_> =
            all.iter().map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer_port)).collect();
        for member in &mut all {
            member.members = members.join(",");
            member.spawn();
        }
        all.iter().for_each(Self::wait);
        Some(all)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, self.port)
    }

    pub fn config(&self) -> EtcdConfig {
        let mut config = EtcdConfig::parse(&format!("etcd={}", self.url())).unwrap();
        if self.tls {
            config.ca_file = Some(self.path("ca.pem"));
            config.cert_file = Some(self.path("client.pem"));
            config.key_file = Some(self.path("client.key"));
        }
        config
    }

    pub fn restart(&mut self) {
        self.spawn();
        self.wait();
    }

    fn wait(&self) {
        self.ask(async |client| client.current_revision(WITHIN).await.unwrap());
    }

    fn spawn(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--data-dir").arg(self.path("data"));
        command.args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.members, "--name", &self.name, "--log-level", "error"]);
        command.args(["--unsafe-no-fsync", "--max-txn-ops", "1024"]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "300"]);
        if self.tls {
            command
                .arg("--cert-file")
                .arg(self.path("server.pem"))
                .arg("--key-file")
                .arg(self.path("server.key"));
            command.arg("--trusted-ca-file").arg(self.path("ca.pem")).arg("--client-cert-auth");
        }
        command.args(&self.extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Takes another port until [`Server::move_back`].
    pub fn move_away(&mut self) -> u16 {
        std::mem::replace(&mut self.port, free_port())
    }

    pub fn move_back(&mut self, port: u16) {
        self.port = port;
    }

    pub fn wipe(&self) {
        let all = Bytes::from_static(b"\0");
        let range = DeleteRangeRequest { key: all.clone(), range_end: all, prev_kv: false };
        self.ask(async |client| drop(client.delete(&range, WITHIN).await.unwrap()));
    }

    pub fn raw(&self, key: &str) -> Option<Bytes> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
        self.ask(async |client| client.range(&request, WITHIN).await.unwrap().kvs.pop().map(|kv| kv.value))
    }

    pub fn put_raw(&self, key: &str, value: &str) {
        let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease: 0 };
        let success = vec![RequestOp { request: Some(Request::Put(put)) }];
        let request = TxnRequest { success, ..TxnRequest::default() };
        self.ask(async |client| drop(client.txn(&request, WITHIN).await.unwrap()));
    }

    pub fn compact(&self, revision: u64) {
        self.ask(async |client| client.compact(super::signed(revision), WITHIN).await.unwrap());
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(self.config()).unwrap();
        runtime.block_on(question(client))
    }

    fn make_certificates(&self) {
        let authority = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            (Issuer::new(params, key), pem)
        };
        let write = |name: &str, text: String| std::fs::write(self.path(name), text).unwrap();
        let (issuer, pem) = authority("etcd-ca");
        write("ca.pem", pem);
        write("other-ca.pem", authority("other").1);
        for who in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, who);
            write(&format!("{who}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{who}.key"), key.serialize_pem());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
