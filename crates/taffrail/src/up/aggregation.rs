//! What aggregated API servers need: how they are found and reached, and what they are told of authentication.

use super::control_plane::text;
use super::identity;
use crate::config::{IdentityOptions, UpOptions};
use admission::webhook::Caller;
use apiserver::aggregator::Aggregator;
use apiserver::resolver::Resolver;
use auth::pki::{FRONT_PROXY_CLIENT, Pki};
use base::clock::SharedClock;
use base::rng::Rng;
use client::outbound::Credentials;
use controllers::api_services::available::{self, Reach};
use controllers::authentication_trust::Trust;
use registry::Registry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// upstream: `dynamiccertificates.FileRefreshDuration`.
const REREAD: Duration = Duration::from_secs(60);

/// How servers behind Services are reached, webhooks too: as the front proxy where they ask who that is.
pub fn reach(
    options: &UpOptions,
    registry: &Arc<Registry>,
    rng: &Arc<Rng>,
    pki: &Pki,
) -> Result<Reach, String> {
    let bound: Option<IpAddr> = options.bind_address.parse().ok();
    let own = bound.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let identity = match &options.identity.proxy_client_cert_file {
        Some(cert) => {
            let named = |e| format!("--proxy-client-cert-file {}: {e}", cert.display());
            Credentials::new(files(&options.identity)?).map_err(text).map_err(named)?
        }
        None => {
            let leaf = pki.front_proxy_client().map_err(text)?;
            Credentials::new((leaf.certificate_pem.into_bytes(), leaf.key_pem.into_bytes())).map_err(text)?
        }
    };
    Ok(Reach {
        outbound: Arc::default(),
        resolve: Arc::new(Resolver {
            registry: registry.clone(),
            to_endpoints: options.enable_aggregator_routing,
            own: SocketAddr::new(own, options.secure_port).to_string(),
            rng: rng.clone(),
        }),
        identity: Arc::new(identity),
        unavailable: Arc::new(available::unavailable()),
    })
}

/// What the flags name to be shown to other servers.
fn files(o: &IdentityOptions) -> Result<(Vec<u8>, Vec<u8>), String> {
    let read = |flag: &str, file: &Option<PathBuf>| match file {
        Some(file) => identity::read(flag, file).map(String::into_bytes),
        None => Err(format!("--{flag} is missing")),
    };
    Ok((
        read("proxy-client-cert-file", &o.proxy_client_cert_file)?,
        read("proxy-client-key-file", &o.proxy_client_key_file)?,
    ))
}

/// Reads the files of the flags again until cancelled, as certificates end
/// (upstream: the hook `aggregator-reload-proxy-client-cert`).
pub async fn renew(options: IdentityOptions, shown: Arc<Credentials>, cancel: CancellationToken) {
    if options.proxy_client_cert_file.is_none() {
        return;
    }
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(REREAD) => {}
        }
        // Files that are being replaced may not fit each other for a moment.
        match files(&options).and_then(|pem| shown.replace(pem).map_err(text)) {
            Ok(true) => tracing::info!("aggregated API servers are shown the new certificate"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the certificate for aggregated API servers stays as it was")
            }
        }
    }
}

/// Webhooks are reached in the same way.
pub fn webhooks(reach: &Reach) -> Arc<Caller> {
    Arc::new(Caller { outbound: reach.outbound.clone(), resolve: reach.resolve.clone() })
}

/// Begins to follow the APIServices.
pub fn start(registry: &Arc<Registry>, reach: &Reach, cancel: &CancellationToken) -> Arc<Aggregator> {
    let Reach { outbound, resolve, identity, .. } = reach.clone();
    Aggregator::start(registry, outbound, resolve, identity, cancel.clone())
}

/// Keeps what aggregated servers say of themselves up to date until cancelled.
pub async fn follow(aggregator: Arc<Aggregator>, clock: SharedClock, cancel: CancellationToken) {
    for part in apiserver::aggregator::follow(&aggregator, &clock, &cancel) {
        part.stopped().await;
    }
}

/// By whom other API servers know clients, and proxies in front: this server, and those that the flags name. Where this
/// server shows a certificate of the flags and they name its authority, that is all, as it is upstream.
pub fn trust(options: &UpOptions, pki: &Pki) -> Result<Trust, String> {
    let o = &options.identity;
    let (mut proxy_ca_pem, mut allowed_names) = (String::new(), Vec::new());
    if o.proxy_client_cert_file.is_none() || o.requestheader_client_ca_file.is_none() {
        proxy_ca_pem.push_str(pki.front_proxy_ca_pem());
        allowed_names.push(FRONT_PROXY_CLIENT.to_owned());
    }
    if let Some(file) = &o.requestheader_client_ca_file {
        proxy_ca_pem.push('\n');
        proxy_ca_pem.push_str(&identity::read("requestheader-client-ca-file", file)?);
        // No name given is any name.
        match o.requestheader_allowed_names.as_slice() {
            [] => allowed_names.clear(),
            names => allowed_names.extend_from_slice(names),
        }
    }
    Ok(Trust {
        client_ca_pem: pki.ca_pem().to_owned(),
        proxy_ca_pem,
        allowed_names,
        username_headers: o.requestheader_username_headers.clone(),
        uid_headers: o.requestheader_uid_headers.clone(),
        group_headers: o.requestheader_group_headers.clone(),
        extra_prefixes: o.requestheader_extra_headers_prefix.clone(),
    })
}
