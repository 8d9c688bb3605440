//! The flags of authentication and authorisation, under upstream's names
//! (upstream: `pkg/kubeapiserver/options/{authentication,authorization}.go`).

use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Who may call, and who decides what they may do.
#[derive(Args, Clone, Debug)]
pub struct IdentityOptions {
    /// File of static tokens: `token,user,uid,"group1,group2"`
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,

    /// AuthenticationConfiguration (apiserver.config.k8s.io/v1): identity providers, and what anonymous callers may see
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,

    /// URL of an OpenID Connect provider, https only
    #[arg(long, default_value = "", value_name = "URL", hide_default_value = true)]
    pub oidc_issuer_url: String,

    /// The audience that tokens of the OpenID Connect provider must have
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    pub oidc_client_id: String,

    /// Who signs the OpenID Connect provider's certificate; the system's authorities by default
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,

    /// Claim that is the user's name
    #[arg(long, default_value = "sub", value_name = "CLAIM")]
    pub oidc_username_claim: String,

    /// What stands before the user's name; `-` is nothing; by default the provider's URL and `#`, but not for `email`
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub oidc_username_prefix: String,

    /// Claim that holds the user's groups
    #[arg(long, default_value = "", value_name = "CLAIM", hide_default_value = true)]
    pub oidc_groups_claim: String,

    /// What stands before the names of groups
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub oidc_groups_prefix: String,

    /// Claim and value that a token must have; may be given several times
    #[arg(long, value_delimiter = ',', value_name = "CLAIM=VALUE")]
    pub oidc_required_claim: Vec<String>,

    /// Algorithms that tokens of identity providers may be signed with
    #[arg(long, default_value = "RS256", value_delimiter = ',', value_name = "NAMES")]
    pub oidc_signing_algs: Vec<String>,

    /// Kubeconfig of a webhook that knows tokens
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,

    /// Version of the TokenReviews that the webhook gets
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,

    /// How long the webhook's answers about tokens count
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration)]
    pub authentication_token_webhook_cache_ttl: Duration,

    /// Who signs the certificates of proxies in front, whose headers say who is asking
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,

    /// Common names that certificates of proxies may have; any by default
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub requestheader_allowed_names: Vec<String>,

    /// Headers of a proxy that hold the user's name; the first one that is there counts
    #[arg(long, default_value = "X-Remote-User", value_delimiter = ',', value_name = "NAMES")]
    pub requestheader_username_headers: Vec<String>,

    /// Headers of a proxy that hold the user's uid
    #[arg(long, default_value = "X-Remote-Uid", value_delimiter = ',', value_name = "NAMES")]
    pub requestheader_uid_headers: Vec<String>,

    /// Headers of a proxy that hold the user's groups
    #[arg(long, default_value = "X-Remote-Group", value_delimiter = ',', value_name = "NAMES")]
    pub requestheader_group_headers: Vec<String>,

    /// What headers of a proxy with more about the user start with
    #[arg(long, default_value = "X-Remote-Extra-", value_delimiter = ',', value_name = "PREFIXES")]
    pub requestheader_extra_headers_prefix: Vec<String>,

    /// Certificate with which this server says to aggregated API servers who it is, instead of its own; it should be signed
    /// by who signs those of proxies in front. Read again every minute
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,

    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,

    /// Who decides, in this order: Node and RBAC, and Webhook where it is wanted
    #[arg(long, default_value = "Node,RBAC", value_name = "MODES")]
    pub authorization_mode: String,

    /// Kubeconfig of a webhook that decides (mode Webhook)
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,

    /// Version of the SubjectAccessReviews that the webhook gets
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,

    /// How long the webhook's permissions count
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,

    /// How long the webhook's refusals count
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

/// A duration in Go's form; 0 remembers nothing.
fn duration(text: &str) -> Result<Duration, String> {
    meta::time::parse_duration(text).map_err(|_| "expected a duration such as 2m or 30s".to_owned())
}
