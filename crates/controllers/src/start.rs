//! Starting all controllers, and stopping them together.

use crate::all_kinds::AllKinds;
use crate::api_services::available::Reach;
use crate::api_services::{available, register};
use crate::authentication_trust::Trust;
use crate::certificates::{approve, clean, pod_requests, sign, trust_bundle};
use auth::signing::Authority;
use auth::tokens::Signer;
use base::clock::SharedClock;
use base::rng::Rng;
use client::Client;
use client::controller::Handle;
use client::events::{Flavor, Recorder};
use client::informer::Informers;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Makes the client of a controller, as `system:serviceaccount:kube-system:NAME`; that of `tokens-controller`, which
/// works before there are accounts, as the controller manager itself.
pub trait Clients: Send + Sync {
    fn for_controller(&self, name: &str) -> Client;
}

impl<F: Fn(&str) -> Client + Send + Sync> Clients for F {
    fn for_controller(&self, name: &str) -> Client {
        self(name)
    }
}

/// What the operator can set; the defaults are upstream's.
#[derive(Clone, Debug)]
pub struct Config {
    /// PEM certificates that pods trust the API server by (`--root-ca-file`).
    pub root_ca_pem: String,
    /// Networks that nodes get pod ranges from, at most one of each family (`--cluster-cidr`). Empty: no ranges are given.
    pub cluster_cidrs: Vec<String>,
    /// Ranges of service addresses, the default family's first (`--service-cluster-ip-range`). Empty: none is made.
    pub service_cidrs: Vec<String>,
    /// The range of node ports (`--service-node-port-range`).
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// The machine's name, by which the API server says that it is there. Empty: it does not.
    pub hostname: String,
    /// Prefix length of a node's range (`--node-cidr-mask-size-ipv4`, `-ipv6`).
    pub node_mask_v4: u8,
    pub node_mask_v6: u8,
    /// Time after which a silent node is Unknown (`--node-monitor-grace-period`).
    pub node_grace: Duration,
    /// How often nodes are looked at (`--node-monitor-period`).
    pub node_period: Duration,
    /// Ended pods that are kept (`--terminated-pod-gc-threshold`).
    pub ended_pods_kept: usize,
    /// Who signs approved certificate requests (`--cluster-signing-cert-file`, `-key-file`); `None`: nobody.
    pub signing: Option<Arc<Authority>>,
    /// Who signs the tokens of Secrets (`--service-account-private-key-file`); `None`: they get none.
    pub tokens: Option<Arc<Signer>>,
    /// After how long without use a token in an account's own Secret goes
    /// (`--legacy-service-account-token-clean-up-period`).
    pub unused_tokens_kept: Duration,
    /// The longest that a signed certificate lives (`--cluster-signing-duration`).
    pub signing_duration: SignedDuration,
    /// How other API servers are reached; `None`: only objects tell whether one is available.
    pub aggregation: Option<Reach>,
    /// What other API servers are told of authentication; `None`: nothing.
    pub trust: Option<Trust>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root_ca_pem: String::new(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_ports: 30_000..=32_767,
            hostname: String::new(),
            node_mask_v4: 24,
            node_mask_v6: 64,
            node_grace: Duration::from_secs(50),
            node_period: Duration::from_secs(5),
            ended_pods_kept: 12_500,
            signing: None,
            tokens: None,
            unused_tokens_kept: Duration::from_secs(365 * 24 * 3600),
            signing_duration: SignedDuration::from_hours(365 * 24),
            aggregation: None,
            trust: None,
        }
    }
}

/// What every controller is made from.
pub(crate) struct Setup {
    pub(crate) clients: Arc<dyn Clients>,
    /// The API server's own client, for the controllers that run as it.
    pub(crate) system: Client,
    pub(crate) informers: Informers,
    /// Filled by the garbage collector.
    pub(crate) all_kinds: Arc<AllKinds>,
    pub(crate) config: Config,
    pub(crate) clock: SharedClock,
    pub(crate) rng: Arc<Rng>,
    pub(crate) cancel: CancellationToken,
}

impl Setup {
    pub(crate) fn client(&self, name: &str) -> Client {
        self.clients.for_controller(name)
    }

    pub(crate) fn recorder(&self, client: &Client, component: &str) -> Recorder {
        Recorder::new(client.clone(), component, "", Flavor::Core, self.clock.clone())
    }
}

#[cfg(test)]
impl Setup {
    /// Of a fake server, which every controller calls alike.
    pub(crate) fn of_fake(api: &Arc<client::fake::FakeApi>, clock: SharedClock) -> Self {
        let client = Client::new(api.clone());
        let for_all = client.clone();
        Self {
            clients: Arc::new(move |_: &str| for_all.clone()),
            informers: Informers::new(client.clone(), clock.clone()),
            system: client,
            all_kinds: Arc::default(),
            config: Config::default(),
            clock,
            rng: Arc::new(Rng::seeded(1)),
            cancel: CancellationToken::new(),
        }
    }
}

/// The running controllers.
pub struct Handles(Vec<Handle>);

impl Handles {
    pub fn iter(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter()
    }

    /// Waits until all have finished what they were at, after the token was cancelled.
    pub async fn stopped(self) {
        for handle in self.0 {
            handle.stopped().await;
        }
    }
}

/// Starts the controllers that are the API server's own: where several servers share a cluster, each runs them, elected or
/// not, and the versions of objects keep them from undoing each other's work (upstream: kube-apiserver's post start hooks).
pub fn start_in_server(
    clients: Arc<dyn Clients>,
    system: Client,
    config: Config,
    clock: SharedClock,
    rng: Arc<Rng>,
    cancel: CancellationToken,
) -> Handles {
    let informers = Informers::new(system.clone(), clock.clone());
    let setup = Setup { clients, system, informers, all_kinds: Arc::default(), config, clock, rng, cancel };
    let mut handles = Vec::from(crate::custom_resources::start(&setup));
    handles.extend([register::start(&setup), available::start(&setup)]);
    handles.extend(crate::authentication_trust::start(&setup));
    Handles(handles)
}

/// Starts every other controller. `system` acts as the API server; `informers` carry the shared watches, and are the
/// caller's to stop.
pub fn start(
    clients: Arc<dyn Clients>,
    system: Client,
    informers: Informers,
    config: Config,
    clock: SharedClock,
    rng: Arc<Rng>,
    cancel: CancellationToken,
) -> Handles {
    let all_kinds = Arc::default();
    let setup = Setup { clients, system, informers, all_kinds, config, clock, rng, cancel };
    let mut handles = vec![
        crate::namespace::start(&setup),
        crate::service_account::start(&setup),
        crate::token_secrets::start(&setup),
        crate::root_ca::start(&setup),
        crate::cluster_role::start(&setup),
        crate::node_ipam::start(&setup),
        crate::node_lifecycle::start(&setup),
        crate::deployment::start(&setup),
        crate::replicaset::start::<ReplicaSet>(&setup),
        crate::replicaset::start::<ReplicationController>(&setup),
        crate::job::start(&setup),
        crate::cronjob::start(&setup),
        crate::ttl_after_finished::start(&setup),
        crate::disruption::start(&setup),
        crate::endpoint_slice::start(&setup),
        crate::endpoints::start(&setup),
        crate::endpoint_slice_mirroring::start(&setup),
        crate::policy_status::start(&setup),
        crate::resource_quota::start(&setup),
        crate::garbage::start(&setup),
        crate::pod_gc::start(&setup),
        crate::node_ports::start(&setup),
        approve::start(&setup),
        clean::start(&setup),
        pod_requests::start(&setup),
    ];
    handles.extend(crate::apiserver_lease::start(&setup));
    handles.extend(crate::legacy_tokens::start(&setup));
    handles.extend(crate::service_cidrs::start(&setup));
    handles.extend(crate::storage_migration::start(&setup));
    handles.extend(crate::volume_protection::start(&setup));
    handles.extend([sign::start(&setup), trust_bundle::start(&setup)].into_iter().flatten());
    Handles(handles)
}
