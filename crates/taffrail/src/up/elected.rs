//! Controllers and scheduler: at once where this server is the only one, after an election where others share its etcd.
//!
//! Invariant: of all servers on one etcd one runs each of them; who loses an election's lease stops them, and starts them
//! anew with fresh copies of all objects when it is elected again. (Upstream's programs end themselves then.)

use crate::config::UpOptions;
use apiserver::Server;
use apiserver::inprocess::InProcess;
use auth::identity::{CONTROLLER_MANAGER, Identity, SCHEDULER};
use auth::pki::Pki;
use base::clock::SharedClock;
use base::metrics::Family;
use base::rng::Rng;
use client::Client;
use client::events::{Flavor, Recorder};
use client::informer::Informers;
use client::leader::{Elector, Times};
use controllers::api_services::available::Reach;
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What both are started from.
#[derive(Clone)]
pub struct Components {
    pub server: Arc<Server>,
    /// The API server's own client.
    pub system: Client,
    pub config: controllers::Config,
    pub clock: SharedClock,
    pub rng: Arc<Rng>,
    pub cancel: CancellationToken,
    /// `None`: there is nobody else.
    pub election: Option<Times>,
}

impl Components {
    /// Starts both, or stands for election, and starts what every API server runs itself; what is to be waited for after
    /// `cancel`.
    pub fn start(self) -> Result<Vec<JoinHandle<()>>, String> {
        let host = super::nodes::host_name()?;
        let own = controllers::start_in_server(
            self.clients(),
            self.system.clone(),
            self.config.clone(),
            self.clock.clone(),
            self.rng.clone(),
            self.cancel.clone(),
        );
        let manager = Identity::system(CONTROLLER_MANAGER, &[]);
        let scheduler = Identity::system(SCHEDULER, &[]);
        let masters = Arc::new(Family::gauge(
            "leader_election_master_status",
            "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master.",
        ));
        let told = masters.clone();
        self.server.metrics.include(move |out| told.render(out));
        let controllers = self.clone();
        let controllers =
            self.elect("kube-controller-manager", &manager, &host, ("", &masters), move |term| {
                let (handles, informers) = controllers.controllers(&term);
                async move {
                    term.cancelled().await;
                    handles.stopped().await;
                    // The next term has copies of its own.
                    informers.stop();
                }
            });
        let of_scheduler = self.clone();
        let scheduler =
            self.elect("kube-scheduler", &scheduler, &host, ("default-scheduler", &masters), move |term| {
                let (running, informers) = of_scheduler.scheduler(term);
                async move {
                    let _ = running.await;
                    informers.stop();
                }
            });
        Ok(vec![tokio::spawn(own.stopped()), controllers, scheduler])
    }

    /// Runs work now, or whenever this server is elected for it. `source` is whom the events come from, when not from
    /// the component (upstream's scheduler: `DeprecatedNewLegacyRecorder` with its first profile's name); `masters` says
    /// who leads.
    fn elect<W: Future<Output = ()> + Send + 'static>(
        &self,
        name: &str,
        identity: &Identity,
        host: &str,
        (source, masters): (&str, &Family),
        mut work: impl FnMut(CancellationToken) -> W + Send + 'static,
    ) -> JoinHandle<()> {
        let cancel = self.cancel.clone();
        let Some(times) = self.election else { return tokio::spawn(work(cancel)) };
        let client = Client::new(InProcess::new(self.server.clone(), identity.clone(), "leader-election"));
        let source = if source.is_empty() { name } else { source };
        let recorder = Recorder::new(client.clone(), source, "", Flavor::Core, self.clock.clone());
        // Upstream's: the host and what is no other's.
        let me = format!("{host}_{}", uuid::Uuid::new_v4());
        let mut elector = Elector::new(client, ("kube-system", name), me, recorder);
        elector.times = times;
        elector.clock = self.clock.clone();
        elector.rng = self.rng.clone();
        elector.leading = masters.of(&[("name", name)]);
        tokio::spawn(elector.run(cancel, work))
    }

    fn scheduler(&self, term: CancellationToken) -> (JoinHandle<()>, Informers) {
        let identity = Identity::system(SCHEDULER, &[]);
        let client = Client::new(InProcess::new(self.server.clone(), identity, "scheduler"));
        let informers = Informers::new(client.clone(), self.clock.clone());
        let (clock, rng) = (self.clock.clone(), self.rng.clone());
        (scheduler::start(client, informers.clone(), clock, rng, term), informers)
    }

    /// Each controller has its own account.
    fn clients(&self) -> Arc<dyn controllers::Clients> {
        let server = self.server.clone();
        Arc::new(move |name: &str| {
            let identity = match name {
                "tokens-controller" => Identity::system(CONTROLLER_MANAGER, &[]),
                name => Identity::service_account("kube-system", name),
            };
            Client::new(InProcess::new(server.clone(), identity, name))
        })
    }

    fn controllers(&self, term: &CancellationToken) -> (controllers::Handles, Informers) {
        // Copies of objects are shared by all controllers, under the controller manager's own name.
        let manager = Identity::system(CONTROLLER_MANAGER, &[]);
        let informers = Informers::new(
            Client::new(InProcess::new(self.server.clone(), manager, "controller-manager")),
            self.clock.clone(),
        );
        let handles = controllers::start(
            self.clients(),
            self.system.clone(),
            informers.clone(),
            self.config.clone(),
            self.clock.clone(),
            self.rng.clone(),
            term.clone(),
        );
        (handles, informers)
    }
}

/// What the flags and keys say to the controllers.
pub fn config(
    options: &UpOptions,
    server: &Server,
    pki: &Pki,
    reach: Reach,
) -> Result<controllers::Config, String> {
    let cluster_cidrs = super::nodes::cidrs("cluster-cidr", &options.cluster_cidr)?;
    let cluster_cidrs = cluster_cidrs.iter().map(ToString::to_string).collect();
    let service_cidrs = super::control_plane::service_ranges(options)?;
    let service_cidrs = service_cidrs.iter().map(ToString::to_string).collect();
    Ok(controllers::Config {
        root_ca_pem: pki.ca_pem().to_owned(),
        signing: Some(Arc::new(pki.authority().map_err(|e| e.to_string())?)),
        tokens: Some(server.tokens.signer.clone()),
        cluster_cidrs,
        service_cidrs,
        node_ports: super::control_plane::node_ports(options)?,
        // Servers that share a store say that they are there by `presence`.
        hostname: if server.registry.store().is_shared() {
            String::new()
        } else {
            super::nodes::host_name()?
        },
        aggregation: Some(reach),
        trust: Some(super::aggregation::trust(options, pki)?),
        ..controllers::Config::default()
    })
}
