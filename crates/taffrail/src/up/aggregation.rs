//! What aggregated API servers need: how they are found and reached, and what they are told of authentication.

use super::control_plane::text;
use super::identity;
use crate::config::UpOptions;
use admission::webhook::Caller;
use apiserver::aggregator::Aggregator;
use apiserver::resolver::Resolver;
use auth::pki::{FRONT_PROXY_CLIENT, Pki};
use base::clock::SharedClock;
use base::rng::Rng;
use controllers::api_services::available::Reach;
use controllers::authentication_trust::Trust;
use registry::Registry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How servers behind Services are reached, webhooks too: as the front proxy where they ask who that is.
pub fn reach(
    options: &UpOptions,
    registry: &Arc<Registry>,
    rng: &Arc<Rng>,
    pki: &Pki,
) -> Result<Reach, String> {
    let bound: Option<IpAddr> = options.bind_address.parse().ok();
    let own = bound.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let leaf = pki.front_proxy_client().map_err(text)?;
    Ok(Reach {
        outbound: Arc::default(),
        resolve: Arc::new(Resolver {
            registry: registry.clone(),
            to_endpoints: options.enable_aggregator_routing,
            own: SocketAddr::new(own, options.secure_port).to_string(),
            rng: rng.clone(),
        }),
        identity_pem: Some((leaf.certificate_pem.into_bytes(), leaf.key_pem.into_bytes())),
    })
}

/// Webhooks are reached in the same way.
pub fn webhooks(reach: &Reach) -> Arc<Caller> {
    Arc::new(Caller { outbound: reach.outbound.clone(), resolve: reach.resolve.clone() })
}

/// Begins to follow the APIServices.
pub fn start(registry: &Arc<Registry>, reach: &Reach, cancel: &CancellationToken) -> Arc<Aggregator> {
    let Reach { outbound, resolve, identity_pem } = reach.clone();
    Aggregator::start(registry, outbound, resolve, identity_pem, cancel.clone())
}

/// Keeps what aggregated servers say of themselves up to date until cancelled.
pub async fn follow(aggregator: Arc<Aggregator>, clock: SharedClock, cancel: CancellationToken) {
    for part in apiserver::aggregator::follow(&aggregator, &clock, &cancel) {
        part.stopped().await;
    }
}

/// By whom other API servers know clients, and proxies in front: this server, and those that the flags name.
pub fn trust(options: &UpOptions, pki: &Pki) -> Result<Trust, String> {
    let o = &options.identity;
    let mut proxy_ca_pem = pki.front_proxy_ca_pem().to_owned();
    let mut allowed_names = vec![FRONT_PROXY_CLIENT.to_owned()];
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
