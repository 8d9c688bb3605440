//! Authentication and authorisation as the flags want them.

mod remote;

use super::control_plane::text;
use crate::config::{IdentityOptions, UpOptions};
use auth::authenticate::oidc::config::{Configured, Flags, Provider};
use auth::authenticate::oidc::{Algorithm, Oidc, algorithm, config};
use auth::authenticate::{Authenticator, FrontProxy, TokenSource, WebhookTokens};
use auth::authorize::{Authorizer, Mode, Webhook};
use auth::identity::Identity;
use auth::pki::Pki;
use auth::remote::Fetch;
use auth::tokens::{Objects, Signer};
use base::clock::SharedClock;
use remote::{Documents, Hook};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the flags say of callers.
pub struct Callers {
    sources: Vec<Arc<dyn TokenSource>>,
    proxy: Option<FrontProxy>,
    /// Certificates of the authority of proxies in front, which TLS has to accept too.
    pub proxy_authorities: Vec<CertificateDer<'static>>,
    /// The only paths for anonymous callers; `None` leaves it to authorisation.
    anonymous_paths: Option<HashSet<String>>,
}

impl Callers {
    /// Reads what the flags name. `issuer` is that of service accounts, `audiences` are the API server's own.
    pub fn load(options: &UpOptions, pki: &Pki, issuer: &str, audiences: &[String]) -> Result<Self, String> {
        let o = &options.identity;
        check_headers(o)?;
        let configured = providers(o, issuer)?;
        let mut sources: Vec<Arc<dyn TokenSource>> = Vec::new();
        let mut with = Vec::new();
        for provider in configured.providers {
            let fetch: Arc<dyn Fetch> = Arc::new(Documents::new(provider.ca_pem.as_deref())?);
            with.push((provider, fetch));
        }
        if !with.is_empty() {
            sources.push(Arc::new(Oidc::new(with, audiences.to_vec())));
        }
        if let Some(file) = &o.authentication_token_webhook_config_file {
            let hook = hook("authentication-token-webhook-config-file", file)?;
            let seconds = seconds(o.authentication_token_webhook_cache_ttl);
            let version = &o.authentication_token_webhook_version;
            sources.push(Arc::new(WebhookTokens::new(hook, version, seconds, audiences.to_vec())));
        }
        let (proxy, proxy_authorities) = match &o.requestheader_client_ca_file {
            Some(file) => {
                let authorities = authorities(file)?;
                (Some(front_proxy(o, pki, &authorities)?), authorities)
            }
            None => (None, Vec::new()),
        };
        let anonymous_paths = configured.anonymous.flatten();
        Ok(Self { sources, proxy, proxy_authorities, anonymous_paths })
    }

    /// All ways of authentication: these and the own ones.
    pub fn join(
        self,
        tokens: HashMap<String, Identity>,
        signer: &Arc<Signer>,
        audiences: &[String],
        objects: Arc<dyn Objects + Send + Sync>,
    ) -> Authenticator {
        // Without other word RBAC says what anonymous callers may: health and version.
        let anonymous = self.anonymous_paths;
        let own = Authenticator::new(tokens, signer.clone(), audiences.to_vec(), objects, anonymous);
        let authenticator = own.with_sources(self.sources);
        match self.proxy {
            Some(proxy) => authenticator.with_proxy(proxy),
            None => authenticator,
        }
    }
}

/// The authoriser in the modes of the flags.
pub fn authorizer(options: &UpOptions, own: Authorizer, clock: &SharedClock) -> Result<Authorizer, String> {
    let o = &options.identity;
    let modes = Mode::parse_list(&o.authorization_mode).map_err(|e| format!("--authorization-mode: {e}"))?;
    let webhook = match &o.authorization_webhook_config_file {
        Some(file) => Some(Webhook::new(
            hook("authorization-webhook-config-file", file)?,
            &o.authorization_webhook_version,
            seconds(o.authorization_webhook_cache_authorized_ttl),
            seconds(o.authorization_webhook_cache_unauthorized_ttl),
            clock.clone(),
        )),
        None => None,
    };
    own.with_modes(modes, webhook)
}

fn seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs()).unwrap_or(i64::MAX)
}

fn hook(flag: &str, file: &Path) -> Result<Arc<Hook>, String> {
    Hook::open(file).map(Arc::new).map_err(|e| format!("--{flag} {}: {e}", file.display()))
}

pub(super) fn read(flag: &str, path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|e| format!("--{flag} {}: {e}", path.display()))?;
    Ok(text)
}

fn providers(o: &IdentityOptions, issuer: &str) -> Result<Configured, String> {
    let algorithms = o.oidc_signing_algs.iter().map(|a| algorithm(a)).collect::<Result<Vec<_>, _>>()?;
    let own = [issuer.to_owned()];
    let flags = !o.oidc_issuer_url.is_empty() || !o.oidc_client_id.is_empty();
    if let Some(path) = &o.authentication_config {
        const FLAG: &str = "authentication-config";
        if flags {
            return Err("authentication-config file and oidc-* flags are mutually exclusive".to_owned());
        }
        let wrong = |e| format!("--{FLAG} {}: {e}", path.display());
        return config::parse(&read(FLAG, path)?, &algorithms, &own).map_err(wrong);
    }
    let providers = if flags { vec![from_flags(o, algorithms, &own)?] } else { Vec::new() };
    Ok(Configured { providers, anonymous: None })
}

fn from_flags(o: &IdentityOptions, algorithms: Vec<Algorithm>, own: &[String]) -> Result<Provider, String> {
    let mut required = BTreeMap::new();
    for claim in &o.oidc_required_claim {
        let (name, value) = claim
            .split_once('=')
            .ok_or_else(|| format!("--oidc-required-claim {claim:?}: expected CLAIM=VALUE"))?;
        required.insert(name.to_owned(), value.to_owned());
    }
    let ca_pem = o.oidc_ca_file.as_ref().map(|p| read("oidc-ca-file", p)).transpose()?;
    let flags = Flags {
        issuer_url: o.oidc_issuer_url.clone(),
        client_id: o.oidc_client_id.clone(),
        ca_pem,
        username_claim: o.oidc_username_claim.clone(),
        username_prefix: o.oidc_username_prefix.clone(),
        groups_claim: o.oidc_groups_claim.clone(),
        groups_prefix: o.oidc_groups_prefix.clone(),
        required,
        algorithms,
    };
    config::from_flags(flags, own).map_err(|e| format!("--oidc-issuer-url: {e}"))
}

/// Whether the headers of proxies can be headers, and are those that this server itself sends to others
/// (upstream: `RequestHeaderAuthenticationOptions.Validate`).
fn check_headers(o: &IdentityOptions) -> Result<(), String> {
    let lists = [
        ("requestheader-username-headers", &o.requestheader_username_headers, "X-Remote-User"),
        ("requestheader-uid-headers", &o.requestheader_uid_headers, "X-Remote-Uid"),
        ("requestheader-group-headers", &o.requestheader_group_headers, "X-Remote-Group"),
        ("requestheader-extra-headers-prefix", &o.requestheader_extra_headers_prefix, "X-Remote-Extra-"),
        ("requestheader-allowed-names", &o.requestheader_allowed_names, ""),
    ];
    for (flag, given, standard) in lists {
        if given.iter().any(|name| name.trim().is_empty()) {
            return Err(format!("--{flag}: empty value"));
        }
        if !standard.is_empty() && !given.iter().any(|name| name.eq_ignore_ascii_case(standard)) {
            tracing::warn!("--{flag} is without {standard}, which aggregated API servers get");
        }
    }
    Ok(())
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    const FLAG: &str = "requestheader-client-ca-file";
    let pem = read(FLAG, file)?;
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("--{FLAG} {}: there is no certificate in it", file.display())),
        Err(e) => Err(format!("--{FLAG} {}: {e}", file.display())),
    }
}

fn front_proxy(
    o: &IdentityOptions,
    pki: &Pki,
    authorities: &[CertificateDer<'static>],
) -> Result<FrontProxy, String> {
    let verifier = |certificates: &[CertificateDer<'static>]| {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|e| format!("--requestheader-client-ca-file: {e}"))?;
        }
        WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(text)
    };
    Ok(FrontProxy {
        proxy: verifier(authorities)?,
        clients: verifier(&[pki.ca_der().map_err(text)?])?,
        allowed: o.requestheader_allowed_names.clone(),
        user_headers: o.requestheader_username_headers.clone(),
        uid_headers: o.requestheader_uid_headers.clone(),
        group_headers: o.requestheader_group_headers.clone(),
        extra_prefixes: o.requestheader_extra_headers_prefix.clone(),
    })
}
