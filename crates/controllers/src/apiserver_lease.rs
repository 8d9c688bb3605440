//! Each API server says by a Lease that it is there; Leases of servers that are not go. A server that has its store to
//! itself does both here; who shares one has more to say with its lease, and does it together with that.
//!
//! upstream: `pkg/controlplane/apiserver/server.go`, `pkg/controlplane/controller/apiserverleasegc`, component-helpers
//! `apimachinery/lease`

use crate::start::Setup;
use base::clock::SharedClock;
use client::controller::Handle;
use client::{Client, DeleteOptions, Kind, ListOptions};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use meta::Status;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const COMPONENT: &str = "kube-apiserver";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Upstream: `IdentityLeaseRenewIntervalPeriod`, `IdentityLeaseDurationSeconds`, `IdentityLeaseGCPeriod`.
const RENEW_EVERY: Duration = Duration::from_secs(10);
const DURATION_SECONDS: i32 = 3600;
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
/// The longest that the lease's end is waited for when the server stops.
const FAREWELL: Duration = Duration::from_secs(10);

/// Starts both; nothing for a server without a name.
pub(crate) fn start(setup: &Setup) -> Vec<Handle> {
    let hostname = setup.config.hostname.clone();
    if hostname.is_empty() {
        return Vec::new();
    }
    let (name, run) = (name(&hostname), run(setup));
    let identity = Identity::new(setup.system.clone(), setup.clock.clone(), name, hostname, &run);
    let (client, clock, cancel) = (setup.system.clone(), setup.clock.clone(), setup.cancel.clone());
    let own = tokio::spawn(alone(identity, setup.cancel.clone()));
    let others = tokio::spawn(collect_all(client, clock, cancel));
    vec![Handle::of_task("apiserver-lease", own), Handle::of_task("apiserver-lease-gc", others)]
}

/// A text that no other run has.
fn run(setup: &Setup) -> String {
    let [a, b] = [setup.rng.below(u64::MAX), setup.rng.below(u64::MAX)];
    // the bits that say that it is a random uuid
    let (a, b) = (a & !0xf000 | 0x4000, b >> 2 | 1 << 63);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

/// The server's name, from that of its machine (upstream: `server.NewConfig`).
fn name(hostname: &str) -> String {
    let mut hash = Sha256::new();
    for part in [hostname, COMPONENT] {
        hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        hash.update(part);
    }
    format!("apiserver-{}", base32(&hash.finalize()[..16]))
}

/// Lower-case base32 without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut out, mut held, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(LETTERS[(held >> bits & 31) as usize] as char);
        }
    }
    if bits > 0 {
        out.push(LETTERS[(held << (5 - bits) & 31) as usize] as char);
    }
    out
}

/// One server's lease.
pub struct Identity {
    client: Client,
    clock: SharedClock,
    name: String,
    holder: String,
    hostname: String,
    /// What else the lease says of the server.
    pub annotations: BTreeMap<String, String>,
    /// The lease as it was last written.
    latest: Option<Lease>,
}

impl Identity {
    /// `run` is a text that no other run of the server has.
    #[must_use]
    pub fn new(client: Client, clock: SharedClock, name: String, hostname: String, run: &str) -> Self {
        let holder = format!("{name}_{run}");
        Self { client, clock, name, holder, hostname, annotations: BTreeMap::new(), latest: None }
    }

    /// Says that the server is not there any more.
    ///
    /// # Errors
    /// The lease is not deleted.
    pub async fn end(&self) -> Result<(), Status> {
        let gone = self.client.delete::<Lease>(NAMESPACE, &self.name, &DeleteOptions::default()).await;
        gone.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
    }

    /// Says that the server is there.
    ///
    /// # Errors
    /// The lease is not written.
    pub async fn renew(&mut self) -> Result<(), Status> {
        if let Some(latest) = self.latest.take()
            && let Ok(renewed) = self.client.update(&self.lease(latest)).await
        {
            self.latest = Some(renewed);
            return Ok(());
        }
        let renewed = match self.client.get::<Lease>(NAMESPACE, &self.name).await {
            Err(e) if e.is_not_found() => self.client.create(&self.lease(Lease::default())).await,
            Err(e) => Err(e),
            Ok(there) => self.client.update(&self.lease(there)).await,
        };
        self.latest = Some(renewed?);
        Ok(())
    }

    /// The lease as of now, on what it was.
    fn lease(&self, mut lease: Lease) -> Lease {
        if lease.metadata.name.is_none() {
            let (namespace, name) = (Some(NAMESPACE.into()), Some(self.name.clone()));
            lease.metadata = ObjectMeta { namespace, name, ..ObjectMeta::default() };
        }
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(self.holder.clone());
        spec.lease_duration_seconds = Some(DURATION_SECONDS);
        spec.renew_time = Some(MicroTime(self.clock.now()));
        let labels = lease.metadata.labels.get_or_insert_default();
        labels.insert(LABEL.into(), COMPONENT.into());
        labels.insert(HOSTNAME.into(), self.hostname.clone());
        if !self.annotations.is_empty() {
            lease.metadata.annotations.get_or_insert_default().extend(self.annotations.clone());
        }
        lease
    }
}

/// Renews the lease of a server that has its store to itself until cancelled, and then ends it.
async fn alone(mut identity: Identity, cancel: CancellationToken) {
    let end = async |identity: &Identity| {
        if let Err(e) = identity.end().await {
            tracing::warn!(target: "controllers", lease = identity.name, "old lease not deleted: {e}");
        }
    };
    // what an earlier run left says nothing of this one
    end(&identity).await;
    loop {
        if let Err(e) = identity.renew().await {
            tracing::warn!(target: "controllers", lease = identity.name, "lease not renewed: {e}");
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
    }
    let _ = tokio::time::timeout(FAREWELL, end(&identity)).await;
}

/// Whether nobody holds a lease any more; one that does not say how long it lasts is nobody's.
fn has_expired(lease: &Lease, now: Timestamp) -> bool {
    let spec = lease.spec.as_ref();
    let renewed = spec.and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
    let seconds = spec.and_then(|s| s.lease_duration_seconds);
    match (renewed, seconds) {
        (Some(renewed), Some(seconds)) => now.duration_since(renewed).as_secs() > i64::from(seconds),
        _ => true,
    }
}

/// Deletes leases of servers that are gone, until cancelled.
async fn collect_all(client: Client, clock: SharedClock, cancel: CancellationToken) {
    loop {
        let done = match all(&client).await {
            Ok(leases) => collect(&client, &leases, clock.now()).await,
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            tracing::warn!(target: "controllers", "leases not collected: {e}");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(COLLECT_EVERY) => {}
        }
    }
}

/// The leases of all servers.
///
/// # Errors
/// They are not known.
pub async fn all(client: &Client) -> Result<Vec<Lease>, Status> {
    let ours = ListOptions::labels(format!("{LABEL}={COMPONENT}"));
    Ok(client.list::<Lease>(Some(NAMESPACE), &ours).await?.items)
}

/// Deletes those of servers that are long gone.
///
/// # Errors
/// One is not deleted.
pub async fn collect(client: &Client, leases: &[Lease], now: Timestamp) -> Result<(), Status> {
    for lease in leases.iter().filter(|l| has_expired(l, now)) {
        match client.delete::<Lease>(NAMESPACE, lease.name(), &DeleteOptions::default()).await {
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;
    use client::fake::FakeApi;
    use serde_json::json;
    use std::sync::Arc;

    const ALL: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

    #[test]
    fn names_are_of_the_machine() {
        // RFC 4648, section 10
        for (text, want) in [("f", "my"), ("fo", "mzxq"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(text.as_bytes()), want);
        }
        assert_eq!(name("a").len(), "apiserver-".len() + 26);
        assert_ne!(name("a"), name("b"));
    }

    #[tokio::test]
    async fn a_server_holds_its_lease_and_collects_those_of_others() {
        let api = Arc::new(FakeApi::new());
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let lease = |name: &str, renewed: Option<&str>| {
            json!({"metadata": {"namespace": NAMESPACE, "name": name, "labels": {LABEL: COMPONENT}},
                "spec": {"renewTime": renewed, "leaseDurationSeconds": 3600}})
        };
        api.seed(ALL, &lease("old", Some("2026-01-01T10:59:58.000000Z")));
        api.seed(ALL, &lease("live", Some("2026-01-01T11:00:01.000000Z")));
        api.seed(ALL, &lease("odd", None));
        let mut setup = Setup::of_fake(&api, Arc::new(ManualClock::new(now)));
        setup.config.hostname = "m".into();
        let handles = start(&setup);
        let names =
            || -> Vec<String> { api.objects(ALL).iter().map(|l| meta::object::name(l).to_owned()).collect() };
        for _ in 0..300 {
            if names().len() == 2 && names().contains(&name("m")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(names(), [name("m"), "live".to_owned()]);
        let own = api.object(&format!("{ALL}/{}", name("m"))).unwrap();
        assert_eq!(own["metadata"]["labels"], json!({LABEL: COMPONENT, HOSTNAME: "m"}));
        assert!(own["spec"]["holderIdentity"].as_str().unwrap().starts_with(&format!("{}_", name("m"))));
        setup.cancel.cancel();
        for handle in handles {
            handle.stopped().await;
        }
        assert_eq!(names(), ["live"]);
    }
}
