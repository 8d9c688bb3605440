//! The server side: store, registry, authorisation, record, API server, controllers; built in that order, stopped in
//! reverse.

use super::backend::Backend;
use super::elected::{self, Components};
use super::identity::{self, Callers};
use super::presence::Presence;
use super::{aggregation, bootstrap, expire, feed, record};
use crate::config::UpOptions;
use crate::steps::Steps;
use apiserver::health::Check;
use apiserver::inprocess::InProcess;
use apiserver::kubelet::KubeletClient;
use apiserver::services::{Range, Services, claims};
use apiserver::serving::ServingThreads;
use apiserver::tokens::{LastUsed, Stored, Tokens};
use apiserver::{Server, ServerOptions};
use auth::authenticate::token_file;
use auth::authorize::Authorizer;
use auth::identity::{APISERVER, Identity, SYSTEM_MASTERS};
use auth::node::NodeAuthorizer;
use auth::pki::{Pki, fingerprint};
use auth::rbac::Rbac;
use auth::tokens::Signer;
use base::clock::{SharedClock, SystemClock};
use base::rng::Rng;
use client::Client;
use controllers::api_services::available::Reach;
use controllers::apiserver_lease;
use meta::permit::PermitMaker;
use registry::{Kinds, Registry};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use store::{Mark, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use trail::Trail;

/// The issuer of service account tokens, and the audience of the API server.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The administrator whom the kubeconfig is for (upstream: kubeadm's).
const ADMIN: &str = "kubernetes-admin";

/// The running server side.
pub struct ControlPlane {
    pub pki: Pki,
    pub server: Arc<Server>,
    pub port: u16,
    /// The administrator's token.
    pub admin_token: String,
    backend: Backend,
    trail: Arc<Trail>,
    /// Controllers, scheduler, and what says that this server is there.
    components: Vec<tokio::task::JoinHandle<()>>,
    cancel: CancellationToken,
    serving: Vec<tokio::task::JoinHandle<()>>,
}

impl ControlPlane {
    /// `addresses` are those under which the server is reached from pods and nodes, the primary family first.
    pub async fn start(options: &UpOptions, addresses: &[IpAddr], steps: &Steps) -> Result<Self, String> {
        let clock = SystemClock::shared();
        let rng = Arc::new(Rng::from_os());
        let at = Instant::now();
        let pki = Pki::open(&options.data_dir.join("pki"), clock.clone()).map_err(text)?;
        steps.done("certificates", at);

        let at = Instant::now();
        let election = options.leader.times()?;
        let backend = Backend::open(options, &clock, &rng, marks(&pki)?)?;
        let store = backend.store();
        steps.done(&format!("store at revision {}", store.revision()), at);

        let at = Instant::now();
        // Sockets are bound before anything runs: a port in use is told at once.
        let listeners = bind(options).await?;
        let ranges = service_ranges(options)?;
        let cancel = CancellationToken::new();
        let loopback = admission::Loopback::default();
        let (registry, services) =
            make_registry(options, &ranges, &store, &loopback, &clock, &rng, &cancel).await?;

        let (rbac, nodes) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::default()));
        feed::start(&registry, &rbac, &nodes, cancel.clone())?;
        let authorizer = Arc::new(identity::authorizer(options, Authorizer::new(nodes, rbac), &clock)?);

        let reach = aggregation::reach(options, &registry, &rng, &pki)?;
        let webhooks = aggregation::webhooks(&reach);
        let aggregator = aggregation::start(&registry, &reach, &cancel);
        apiserver::custom::start(&registry, &webhooks, cancel.clone());
        let signer = Arc::new(Signer::new(ISSUER, &pki.service_account_key().map_err(text)?).map_err(text)?);
        let admin_token = pki.admin_token().map_err(text)?;
        let audiences = vec![ISSUER.to_owned()];
        let callers = Callers::load(options, &pki, ISSUER, &audiences)?;
        let proxy_authorities = callers.proxy_authorities.clone();
        let tokens = static_tokens(options, &admin_token)?;
        let last_used = LastUsed::start(loopback.clone(), cancel.clone());
        let stored = Arc::new(Stored::tracking(registry.clone(), last_used));
        let authenticator = Arc::new(callers.join(tokens, &signer, &audiences, stored));
        let (trail, audit) = record::open(options, &store, &clock, &rng)?;
        let own = addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let advertise = SocketAddr::new(own, options.secure_port).to_string();
        let flow = super::flow::follow(options, &registry, &clock, &cancel);
        let bootstrapped = Arc::new(AtomicBool::new(false));
        let chain = admission::default_chain(&registry, &authorizer, &webhooks, &loopback, &clock, &cancel);
        let server = Server::new(
            ServerOptions {
                registry: registry.clone(),
                admission: chain,
                authenticator,
                authorizer,
                audit,
                tokens: Arc::new(Tokens {
                    signer,
                    audiences,
                    jwks_uri: format!("https://{advertise}/openid/v1/jwks"),
                }),
                kubelet: Arc::new(KubeletClient::new(kubelet_tls(&pki)?)),
                clock: clock.clone(),
                rng: rng.clone(),
                checks: checks(&store, bootstrapped.clone()),
                extensions: vec![record::queries(trail.clone())],
                advertise,
                flow,
                aggregator: aggregator.clone(),
            },
            PermitMaker::take().ok_or("the permit maker is already taken")?,
        );
        tell(&server, services, &reach);
        let system = Client::new(InProcess::new(
            server.clone(),
            Identity::system(APISERVER, &[SYSTEM_MASTERS]),
            "apiserver",
        ));
        let _ = loopback.set(system.clone());
        let tls = server_tls(&pki, &names(options, &ranges, addresses), &proxy_authorities)?;
        let serving = serve(&server, listeners, &tls)?;
        steps.done(&format!("API server on port {}", options.secure_port), at);

        let at = Instant::now();
        let presence = presence(options, &system, &backend, &clock, &ranges, addresses)?;
        let there = first_objects(options, &system, &server, &ranges, addresses, presence, &cancel).await?;
        let mut components: Vec<_> = there.into_iter().collect();
        bootstrapped.store(true, Ordering::Release);
        steps.done("first objects", at);

        let at = Instant::now();
        components.push(tokio::spawn(aggregation::follow(aggregator, clock.clone(), cancel.clone())));
        let shown = reach.identity.clone();
        components.push(tokio::spawn(aggregation::renew(options.identity.clone(), shown, cancel.clone())));
        keep_house(options, &backend, &clock, &cancel);
        let config = elected::config(options, &server, &pki, reach)?;
        // The embedded store is this server's alone, and so are these.
        let election = election.filter(|_| store.is_shared());
        let (server_too, until) = (server.clone(), cancel.clone());
        let both = Components { server: server_too, system, config, clock, rng, cancel: until, election };
        components.extend(both.start()?);
        steps.done("controllers and scheduler", at);
        Ok(Self {
            pki,
            server,
            port: options.secure_port,
            admin_token,
            backend,
            trail,
            components,
            cancel,
            serving,
        })
    }

    /// Stops what was started, last first.
    pub async fn stop(self) {
        self.cancel.cancel();
        for component in self.components {
            let _ = component.await;
        }
        self.server.draining.cancel();
        for task in self.serving {
            let _ = task.await;
        }
        self.server.audit.close().await;
        self.trail.close();
        self.backend.store().close();
    }
}

/// What else is told with the server's metrics.
fn tell(server: &Server, services: Arc<Services>, reach: &Reach) {
    let unavailable = reach.unavailable.clone();
    server.metrics.include(move |out| services.metrics(out));
    server.metrics.include(move |out| unavailable.render(out));
}

/// Forgets what is old: history, and Events.
fn keep_house(options: &UpOptions, backend: &Backend, clock: &SharedClock, cancel: &CancellationToken) {
    tokio::spawn(backend.clone().compact(cancel.clone()));
    let (store, events) = (backend.store(), "/registry/events/".to_owned());
    tokio::spawn(expire::run(store, events, options.event_ttl, clock.clone(), cancel.clone()));
}

/// Serves all listeners with the same threads.
fn serve(
    server: &Arc<Server>,
    listeners: Vec<TcpListener>,
    tls: &Arc<rustls::ServerConfig>,
) -> Result<Vec<tokio::task::JoinHandle<()>>, String> {
    let threads = ServingThreads::start().map_err(|e| format!("cannot start threads that serve: {e}"))?;
    let threads = Arc::new(threads);
    let serve = |listener| tokio::spawn(server.clone().serve(listener, tls.clone(), threads.clone()));
    Ok(listeners.into_iter().map(serve).collect())
}

/// The tokens of the token file, and the administrator's.
fn static_tokens(options: &UpOptions, admin: &str) -> Result<HashMap<String, Identity>, String> {
    let mut tokens = match &options.identity.token_auth_file {
        Some(path) => token_file(path)?,
        None => HashMap::new(),
    };
    tokens.insert(admin.to_owned(), Identity::new(ADMIN, &[SYSTEM_MASTERS]));
    Ok(tokens)
}

pub fn text(e: impl std::error::Error + 'static) -> String {
    base::error::chain(&e)
}

/// Binds the secure port: the address asked for, or every address of both families.
async fn bind(options: &UpOptions) -> Result<Vec<TcpListener>, String> {
    let port = options.secure_port;
    let failed = |a: SocketAddr, e: std::io::Error| {
        format!("cannot listen on {a}: {e}; stop what uses the port, or choose another with --secure-port")
    };
    if !options.bind_address.is_empty() {
        let ip: IpAddr = options
            .bind_address
            .parse()
            .map_err(|_| format!("--bind-address {:?} is not an address", options.bind_address))?;
        let address = SocketAddr::new(ip, port);
        return Ok(vec![TcpListener::bind(address).await.map_err(|e| failed(address, e))?]);
    }
    let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match TcpListener::bind(v6).await {
        Ok(both) => Ok(vec![both]),
        // No IPv6 here; a port in use fails again below.
        Err(_) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            Ok(vec![TcpListener::bind(v4).await.map_err(|e| failed(v4, e))?])
        }
    }
}

pub fn service_ranges(options: &UpOptions) -> Result<Vec<Range>, String> {
    const FLAG: &str = "service-cluster-ip-range";
    super::nodes::cidrs(FLAG, &options.service_cluster_ip_range)?
        .iter()
        .map(|c| Range::parse(&c.to_string()).map_err(|e| format!("--{FLAG}: {e}")))
        .collect()
}

pub fn node_ports(options: &UpOptions) -> Result<std::ops::RangeInclusive<u16>, String> {
    let bad = || {
        format!(
            "--service-node-port-range {:?}: expected FROM-TO such as 30000-32767",
            options.service_node_port_range
        )
    };
    let (from, to) = options.service_node_port_range.split_once('-').ok_or_else(bad)?;
    let (from, to) = (from.trim().parse().map_err(|_| bad())?, to.trim().parse().map_err(|_| bad())?);
    if from == 0 || from > to { Err(bad()) } else { Ok(from..=to) }
}

async fn make_registry(
    options: &UpOptions,
    ranges: &[Range],
    store: &Arc<dyn Store>,
    loopback: &admission::Loopback,
    clock: &SharedClock,
    rng: &Arc<Rng>,
    cancel: &CancellationToken,
) -> Result<(Arc<Registry>, Arc<Services>), String> {
    let ports = node_ports(options)?;
    let services = Arc::new(Services::new(ranges, ports, store.clone(), loopback.clone(), rng.clone()));
    let registry = Registry::new(store.clone(), clock.clone(), rng.clone(), Kinds::new(kinds::table()))
        .with_companion(meta::GroupResource::new("", "services"), services.clone());
    let registry = Arc::new(registry);
    restore_services(&registry, &services).await;
    tokio::spawn(claims::follow(services.clone(), store.clone(), cancel.clone()));
    Ok((registry, services))
}

/// What every cluster has, made through the API; and the endpoint by which this server is reached, or the task that
/// looks after the endpoints of several.
async fn first_objects(
    options: &UpOptions,
    system: &Client,
    server: &Server,
    ranges: &[Range],
    addresses: &[IpAddr],
    presence: Option<Presence>,
    cancel: &CancellationToken,
) -> Result<Option<tokio::task::JoinHandle<()>>, String> {
    bootstrap::namespaces(system).await?;
    record::changes(options, system, &server.audit.policy_hash()).await;
    bootstrap::run(system, ranges, options, server.clock.now()).await?;
    super::flow::defaults(system).await?;
    let failed = |e| format!("cannot bring the endpoints of the Service kubernetes up to date: {e}");
    if let Some(mut presence) = presence {
        presence.round().await.map_err(failed)?;
        return Ok(Some(tokio::spawn(presence.run(cancel.clone()))));
    }
    let v4 = ranges.first().is_none_or(Range::is_ipv4);
    // An endpoint may not be a loopback address: a machine with no other has none.
    let fits = |ip: &&IpAddr| ip.is_ipv4() == v4 && !ip.is_loopback();
    let own: Vec<IpAddr> = addresses.iter().find(fits).into_iter().copied().collect();
    bootstrap::endpoints(system, v4, &own, options.secure_port).await.map_err(failed)?;
    Ok(None)
}

async fn restore_services(registry: &Registry, services: &Services) {
    let Some(row) = registry.kinds().resource("", "v1", "services") else { return };
    let range = store::Range { prefix: &row.key_prefix(), ..store::Range::default() };
    let Ok(page) = registry.store().list(&range) else { return };
    let all: Vec<Value> = page.entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
    services.restore(&all);
    claims::repair(&**registry.store(), &all).await;
}

/// The address of this machine, for a control plane without nodes.
pub fn machine_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it asks the kernel which address it would use.
    let ask = || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        socket.local_addr().ok().map(|a| a.ip())
    };
    ask().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Names that the serving certificate is good for.
fn names(options: &UpOptions, ranges: &[Range], addresses: &[IpAddr]) -> Vec<String> {
    let domain = &options.cluster_domain;
    let mut names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .map(String::from)
        .to_vec();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(Ipv4Addr::LOCALHOST.to_string());
    names.push(Ipv6Addr::LOCALHOST.to_string());
    names.extend(ranges.iter().map(|r| r.nth(1).to_string()));
    for own in addresses.iter().copied().chain([machine_address()]).map(|ip| ip.to_string()) {
        if !names.contains(&own) {
            names.push(own);
        }
    }
    names
}

fn roots(pki: &Pki) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der().map_err(text)?).map_err(text)?;
    Ok(Arc::new(roots))
}

/// TLS of the API server: client certificates are optional, and verified when given. Which of the authorities vouches
/// for one is looked at again when it is taken for somebody.
fn server_tls(
    pki: &Pki,
    names: &[String],
    proxies: &[CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, String> {
    let leaf = pki.server("apiserver", "kube-apiserver", names).map_err(text)?;
    let mut trusted = RootCertStore::clone(&*roots(pki)?);
    for authority in proxies {
        trusted.add(authority.clone()).map_err(text)?;
    }
    let verifier =
        WebPkiClientVerifier::builder(Arc::new(trusted)).allow_unauthenticated().build().map_err(text)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ciphers()))
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.certificate_der().map_err(text)?], leaf.key_der().map_err(text)?)
        .map_err(text)?;
    config.ignore_client_order = true;
    config.max_fragment_size = Some(RECORD_PLAIN_BYTES_MAX);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The most of a record that is not its cipher's. A record then takes a little less than four pages of memory. In the usual size
/// it is a little more: the kernel would copy the second and third of a row, of which each begins with a page, to some
/// bytes behind the begin of a page, which AMD's processors do 15 times as slowly as any other copy (see
/// `apiserver::reply::wire::piece_memory`).
const RECORD_PLAIN_BYTES_MAX: usize = (16 << 10) - 80;

/// AES with the short key first, as kube-apiserver chooses whatever the client's order (Go: crypto/tls
/// `defaultCipherSuitesTLS13`): ten rounds for each block instead of fourteen.
fn ciphers() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    let short = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    provider.cipher_suites.sort_by_key(|s| !short.contains(&s.suite()));
    provider
}

/// TLS towards kubelets, with the API server's own certificate.
fn kubelet_tls(pki: &Pki) -> Result<Arc<ClientConfig>, String> {
    let leaf = pki
        .client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &[SYSTEM_MASTERS])
        .map_err(text)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(vec![leaf.certificate_der().map_err(text)?], leaf.key_der().map_err(text)?)
        .map_err(text)?;
    Ok(Arc::new(config))
}

fn checks(store: &Arc<dyn Store>, bootstrapped: Arc<AtomicBool>) -> Vec<Check> {
    let of_store = store.clone();
    vec![
        Check { name: "ping", live: true, run: Arc::new(|| Ok(())) },
        Check { name: "etcd", live: true, run: Arc::new(move || of_store.problem().map_or(Ok(()), Err)) },
        Check {
            name: "poststarthook/rbac/bootstrap-roles",
            live: false,
            run: Arc::new(move || match bootstrapped.load(Ordering::Acquire) {
                true => Ok(()),
                false => Err("not finished".to_owned()),
            }),
        },
    ]
}

/// What says that this server is there, where there may be others.
fn presence(
    options: &UpOptions,
    system: &Client,
    backend: &Backend,
    clock: &SharedClock,
    ranges: &[Range],
    addresses: &[IpAddr],
) -> Result<Option<Presence>, String> {
    let Some(identity) = backend.identity() else { return Ok(None) };
    let host = super::nodes::host_name()?;
    let name = format!("apiserver-{identity}");
    let run = uuid::Uuid::new_v4().to_string();
    let lease = apiserver_lease::Identity::new(system.clone(), clock.clone(), name, host, &run);
    let (at, v4) = ((addresses, options.secure_port), ranges.first().is_none_or(Range::is_ipv4));
    let presence = Presence::new(system.clone(), clock.clone(), lease, at, v4);
    Ok(Some(presence))
}

/// What all servers of one cluster have in common: who vouches for whom.
fn marks(pki: &Pki) -> Result<Vec<Mark>, String> {
    const COPY: &str =
        "copy the directory pki of one of the cluster's servers into this one's data directory";
    let signer = pki.service_account_key().map_err(text)?;
    let mark = |name: &str, value: String, what: &str| Mark {
        name: name.to_owned(),
        value,
        otherwise: format!("its {what} is another; {COPY}"),
    };
    Ok(vec![
        mark("authority", pki.ca_fingerprint(), "certificate authority (pki/ca.crt, ca.key)"),
        mark("service-accounts", fingerprint(&signer), "key for service account tokens (pki/sa.key)"),
    ])
}
