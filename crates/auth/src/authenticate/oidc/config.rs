//! Upstream's AuthenticationConfiguration (upstream: apiserver `pkg/apis/apiserver/v1/types.go`,
//! `pkg/apis/apiserver/validation/validation.go`).
//!
//! Claims are mapped by name. Invariant: an expression in CEL is refused, never passed over, because it may be what
//! keeps somebody out.

use jsonwebtoken::Algorithm;
use meta::field::{Error, ErrorList, Path};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

/// The largest file, in bytes.
const BYTES_MAX: usize = 1 << 20;
/// Providers in one configuration (upstream: `validation.go`, 64).
const PROVIDERS_MAX: usize = 64;

const CEL: &str = "CEL expressions are not supported yet: use a claim by its name";

/// A claim, and what is put before its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub claim: String,
    pub prefix: String,
}

/// An identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    pub url: String,
    pub discovery_url: Option<String>,
    /// PEM certificates that vouch for it; `None` for those of the system.
    pub ca_pem: Option<String>,
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub username: Mapping,
    pub groups: Option<Mapping>,
    pub uid: Option<String>,
    /// Claims that must be there with these values.
    pub required: BTreeMap<String, String>,
}

/// What a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    pub providers: Vec<Provider>,
    /// `None` when it says nothing of anonymous requests, else the only paths for them: `Some(None)` for all.
    pub anonymous: Option<Option<HashSet<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    jwt: Vec<Jwt>,
    anonymous: Option<Anonymous>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Anonymous {
    enabled: bool,
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Jwt {
    issuer: Issuer,
    claim_validation_rules: Vec<Rule>,
    claim_mappings: Mappings,
    user_validation_rules: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Issuer {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    #[serde(rename = "certificateAuthority")]
    certificate_authority: String,
    audiences: Vec<String>,
    #[serde(rename = "audienceMatchPolicy")]
    audience_match_policy: String,
    #[serde(rename = "egressSelectorType")]
    egress_selector_type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mappings {
    username: Prefixed,
    groups: Prefixed,
    uid: Prefixed,
    extra: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

/// Reads a configuration. `own_issuers` are those of service accounts, which no provider may be.
///
/// # Errors
/// What is wrong, with its place.
pub fn parse(text: &str, algorithms: &[Algorithm], own_issuers: &[String]) -> Result<Configured, String> {
    let (value, _) = meta::yaml::parse_yaml(text.as_bytes(), BYTES_MAX).map_err(|e| e.to_string())?;
    let document: Document = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let versions = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("apiserver.config.k8s.io/{v}"));
    if document.kind != "AuthenticationConfiguration" || !versions.contains(&document.api_version) {
        return Err(format!(
            "expected an AuthenticationConfiguration of apiserver.config.k8s.io/v1, found {:?} of {:?}",
            document.kind, document.api_version
        ));
    }
    let mut errors = ErrorList::new();
    let root = Path::new("jwt");
    if document.jwt.len() > PROVIDERS_MAX {
        errors.push(Error::too_many(&root, document.jwt.len(), PROVIDERS_MAX));
    }
    let mut seen = HashSet::new();
    let mut providers = Vec::new();
    for (i, jwt) in document.jwt.into_iter().enumerate() {
        let at = root.index(i);
        if !seen.insert(jwt.issuer.url.clone()) {
            errors.push(Error::duplicate(&at.child("issuer").child("url"), jwt.issuer.url.as_str()));
        }
        providers.push(provider(jwt, &at, algorithms, own_issuers, &mut errors));
    }
    if let Some(a) = document.anonymous.as_ref().filter(|a| !a.enabled && !a.conditions.is_empty()) {
        let paths: Vec<&str> = a.conditions.iter().map(|c| c.path.as_str()).collect();
        let at = Path::new("anonymous").child("conditions");
        errors.push(Error::invalid(
            &at,
            paths.join(","),
            "enabled should be set to true when conditions are defined",
        ));
    }
    if !errors.is_empty() {
        return Err(meta::field::aggregate(&errors));
    }
    let anonymous = document.anonymous.map(|a| match a.enabled {
        true if a.conditions.is_empty() => None,
        _ => Some(a.conditions.into_iter().map(|c| c.path).collect()),
    });
    Ok(Configured { providers, anonymous })
}

fn provider(
    jwt: Jwt,
    at: &Path,
    algorithms: &[Algorithm],
    own_issuers: &[String],
    errors: &mut ErrorList,
) -> Provider {
    check_issuer(&jwt.issuer, &at.child("issuer"), own_issuers, errors);
    let required = required(&jwt.claim_validation_rules, &at.child("claimValidationRules"), errors);
    let mappings = at.child("claimMappings");
    let username = mapping(&jwt.claim_mappings.username, &mappings.child("username"), true, errors);
    let groups = mapping(&jwt.claim_mappings.groups, &mappings.child("groups"), false, errors);
    let uid = &jwt.claim_mappings.uid;
    if !uid.expression.is_empty() {
        let at = mappings.child("uid").child("expression");
        errors.push(Error::invalid(&at, uid.expression.as_str(), CEL));
    }
    if !jwt.claim_mappings.extra.is_empty() {
        errors.push(Error::forbidden(&mappings.child("extra"), CEL));
    }
    if !jwt.user_validation_rules.is_empty() {
        errors.push(Error::forbidden(&at.child("userValidationRules"), CEL));
    }
    let some = |text: String| Some(text).filter(|t| !t.is_empty());
    Provider {
        url: jwt.issuer.url,
        discovery_url: some(jwt.issuer.discovery_url),
        ca_pem: some(jwt.issuer.certificate_authority),
        audiences: jwt.issuer.audiences,
        algorithms: algorithms.to_vec(),
        username: username.unwrap_or(Mapping { claim: String::new(), prefix: String::new() }),
        groups,
        uid: some(jwt.claim_mappings.uid.claim),
        required,
    }
}

fn check_issuer(issuer: &Issuer, at: &Path, own_issuers: &[String], errors: &mut ErrorList) {
    if issuer.url.is_empty() {
        errors.push(Error::required(&at.child("url"), ""));
    } else {
        if own_issuers.contains(&issuer.url) {
            let why = format!("URL must not overlap with disallowed issuers: [{}]", own_issuers.join(" "));
            errors.push(Error::invalid(&at.child("url"), issuer.url.as_str(), why));
        }
        check_url(&issuer.url, &at.child("url"), errors);
    }
    if !issuer.discovery_url.is_empty() {
        let at = at.child("discoveryURL");
        if issuer.discovery_url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
            errors.push(Error::invalid(
                &at,
                issuer.discovery_url.as_str(),
                "discoveryURL must be different from URL",
            ));
        }
        check_url(&issuer.discovery_url, &at, errors);
    }
    let audiences = at.child("audiences");
    if issuer.audiences.is_empty() {
        errors.push(Error::required(&audiences, format!("at least one {audiences} is required")));
    }
    let mut seen = HashSet::new();
    for (i, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(Error::required(&audiences.index(i), ""));
        }
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&audiences.index(i), audience.as_str()));
        }
    }
    let policy = issuer.audience_match_policy.as_str();
    let wrong = match issuer.audiences.len() {
        2.. if policy != "MatchAny" => Some("audienceMatchPolicy must be MatchAny for multiple audiences"),
        1 if !matches!(policy, "" | "MatchAny") => {
            Some("audienceMatchPolicy must be empty or MatchAny for single audience")
        }
        _ => None,
    };
    if let Some(why) = wrong {
        errors.push(Error::invalid(&at.child("audienceMatchPolicy"), policy, why));
    }
    let pem = issuer.certificate_authority.as_bytes();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    if !pem.is_empty() && !certificates.is_ok_and(|c| !c.is_empty()) {
        let why = "data does not contain any valid RSA or ECDSA certificates";
        errors.push(Error::invalid(&at.child("certificateAuthority"), "<omitted>", why));
    }
    if !issuer.egress_selector_type.is_empty() {
        let why = "egress selectors are not supported";
        errors.push(Error::invalid(
            &at.child("egressSelectorType"),
            issuer.egress_selector_type.as_str(),
            why,
        ));
    }
}

fn check_url(url: &str, at: &Path, errors: &mut ErrorList) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    let mut wrong = |why: &str| errors.push(Error::invalid(at, url, why));
    if !scheme.eq_ignore_ascii_case("https") {
        wrong("URL scheme must be https");
    }
    if host.contains('@') {
        wrong("URL must not contain a username or password");
    }
    if rest.split('#').next().and_then(|r| r.split_once('?')).is_some_and(|(_, query)| !query.is_empty()) {
        wrong("URL must not contain a query");
    }
    if rest.split_once('#').is_some_and(|(_, fragment)| !fragment.is_empty()) {
        wrong("URL must not contain a fragment");
    }
}

fn required(rules: &[Rule], at: &Path, errors: &mut ErrorList) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => {
                errors.push(Error::invalid(
                    &at,
                    rule.claim.as_str(),
                    "claim and expression can't both be set",
                ));
            }
            (true, true) => errors.push(Error::required(&at, "claim or expression is required")),
            (true, false) => {
                errors.push(Error::invalid(&at.child("expression"), rule.expression.as_str(), CEL));
            }
            (false, true) => {
                if !rule.message.is_empty() {
                    let why = "may not be specified when claim is set";
                    errors.push(Error::invalid(&at.child("message"), rule.message.as_str(), why));
                }
                if out.insert(rule.claim.clone(), rule.required_value.clone()).is_some() {
                    errors.push(Error::duplicate(&at.child("claim"), rule.claim.as_str()));
                }
            }
        }
    }
    out
}

/// Upstream: `validation.go#validatePrefixClaimOrExpression`.
fn mapping(m: &Prefixed, at: &Path, needed: bool, errors: &mut ErrorList) -> Option<Mapping> {
    match (m.claim.is_empty(), m.expression.is_empty()) {
        (false, false) => errors.push(Error::invalid(at, "", "claim and expression can't both be set")),
        (true, true) if needed => errors.push(Error::required(at, "claim or expression is required")),
        (true, false) => {
            if m.prefix.is_some() {
                let why = "prefix can't be set when expression is set";
                errors.push(Error::invalid(&at.child("prefix"), m.prefix.clone().unwrap_or_default(), why));
            }
            errors.push(Error::invalid(&at.child("expression"), m.expression.as_str(), CEL));
        }
        (true, true) => {
            if m.prefix.as_ref().is_some_and(|p| !p.is_empty()) {
                let why = "non-empty prefix can't be set when claim is not set";
                errors.push(Error::invalid(&at.child("prefix"), m.prefix.clone().unwrap_or_default(), why));
            }
        }
        (false, true) => {
            if m.prefix.is_none() {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(Error::required(&at.child("prefix"), why));
            }
            let prefix = m.prefix.clone().unwrap_or_default();
            return Some(Mapping { claim: m.claim.clone(), prefix });
        }
    }
    None
}

/// The `--oidc-*` flags.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub issuer_url: String,
    pub client_id: String,
    pub ca_pem: Option<String>,
    pub username_claim: String,
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub required: BTreeMap<String, String>,
    pub algorithms: Vec<Algorithm>,
}

/// The provider that the flags describe (upstream: `pkg/kubeapiserver/options/authentication.go#ToAuthenticationConfig`).
///
/// # Errors
/// What is wrong with the issuer.
pub fn from_flags(flags: Flags, own_issuers: &[String]) -> Result<Provider, String> {
    if flags.issuer_url.is_empty() || flags.client_id.is_empty() {
        return Err(
            "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
                .to_owned(),
        );
    }
    let mut errors = ErrorList::new();
    let issuer = Issuer {
        url: flags.issuer_url.clone(),
        audiences: vec![flags.client_id.clone()],
        certificate_authority: flags.ca_pem.clone().unwrap_or_default(),
        ..Issuer::default()
    };
    check_issuer(&issuer, &Path::new("issuer"), own_issuers, &mut errors);
    if !errors.is_empty() {
        return Err(meta::field::aggregate(&errors));
    }
    let prefix = match flags.username_prefix.as_str() {
        // Names of other providers, or of the cluster itself, must not be taken over.
        "" if flags.username_claim != "email" => format!("{}#", flags.issuer_url),
        "-" => String::new(),
        given => given.to_owned(),
    };
    let groups = Mapping { claim: flags.groups_claim, prefix: flags.groups_prefix };
    Ok(Provider {
        url: flags.issuer_url,
        discovery_url: None,
        ca_pem: flags.ca_pem,
        audiences: vec![flags.client_id],
        algorithms: flags.algorithms,
        username: Mapping { claim: flags.username_claim, prefix },
        groups: Some(groups).filter(|g| !g.claim.is_empty()),
        uid: None,
        required: flags.required,
    })
}
