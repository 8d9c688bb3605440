//! A real etcd over TLS in a test's namespace; its program is named by `TAFFRAIL_TEST_ETCD`.
//!
//! Invariant: it ends with the value, by its own process id.

use super::SOON;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The link that servers which share an etcd have their addresses on.
pub const LINK: &str = "peers0";
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

pub struct Etcd {
    dir: tempfile::TempDir,
    netns: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Etcd {
    /// The program; says so when there is none.
    pub fn program() -> Option<PathBuf> {
        let program = std::env::var_os("TAFFRAIL_TEST_ETCD").map(PathBuf::from);
        if program.is_none() {
            let why = "skipped on etcd: TAFFRAIL_TEST_ETCD does not name an etcd program";
            let _ = writeln!(std::io::stderr(), "{why}");
        }
        program
    }

    /// The address of the `n`th of several servers.
    pub fn address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, n)
    }

    pub fn start(netns: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd = Self { dir, netns: netns.to_owned(), child: Mutex::default() };
        etcd.make_certificates();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
        let addresses: Vec<network::Cidr> =
            (1..=2).map(|n| format!("{}/24", Self::address(n)).parse().expect("an address")).collect();
        tokio.block_on(network::NodeLink::ensure(Some(netns), LINK, &addresses)).expect("a link");
        etcd.restart();
        etcd
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// How a server is told of it.
    pub fn flags(&self) -> Vec<String> {
        let flag = |name: &str, file: &str| format!("--etcd-{name}={}", self.path(file));
        vec![
            format!("--store=etcd=https://127.0.0.1:{CLIENT_PORT}"),
            flag("cafile", "ca.pem"),
            flag("certfile", "client.pem"),
            flag("keyfile", "client.key"),
        ]
    }

    /// Starts it, again after [`Self::kill`].
    pub fn restart(&self) {
        let program = Self::program().expect("an etcd program");
        let client = format!("https://127.0.0.1:{CLIENT_PORT}");
        let peer = format!("http://127.0.0.1:{PEER_PORT}");
        let mut command = Command::new(program);
        command.args(["--name", "one", "--log-level", "error", "--unsafe-no-fsync"]);
        command.args(["--data-dir", &self.path("data"), "--initial-cluster", &format!("one={peer}")]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--cert-file", &self.path("server.pem"), "--key-file", &self.path("server.key")]);
        command.args(["--trusted-ca-file", &self.path("ca.pem"), "--client-cert-auth"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let inside = || {
            let child = command.spawn().expect("etcd started");
            let begun = Instant::now();
            while TcpStream::connect((Ipv4Addr::LOCALHOST, CLIENT_PORT)).is_err() {
                assert!(begun.elapsed() < SOON, "etcd does not listen");
                std::thread::sleep(Duration::from_millis(20));
            }
            child
        };
        let child = sys::netns::run_in(Some(&self.netns), inside).expect("inside the namespace");
        *self.child.lock().expect("a lock") = Some(child);
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().expect("a lock").take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether its files have some bytes in them anywhere.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        fn any(dir: &Path, bytes: &[u8]) -> bool {
            std::fs::read_dir(dir).expect("files").flatten().any(|entry| {
                if entry.path().is_dir() {
                    return any(&entry.path(), bytes);
                }
                let file = std::fs::read(entry.path()).unwrap_or_default();
                // A sparse file's zeros are most of it.
                file.split(|b| *b == 0).any(|part| part.windows(bytes.len()).any(|w| w == bytes))
            })
        }
        any(&self.dir.path().join("data"), bytes)
    }

    fn make_certificates(&self) {
        let write = |name: &str, text: String| std::fs::write(self.path(name), text).expect("written");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "etcd-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", params.self_signed(&key).expect("signed").pem());
        let issuer = Issuer::new(params, key);
        for who in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
            params.distinguished_name.push(DnType::CommonName, who);
            write(&format!("{who}.pem"), params.signed_by(&key, &issuer).expect("signed").pem());
            write(&format!("{who}.key"), key.serialize_pem());
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
