//! Where etcd is and how it is spoken to.

use http::Uri;
use std::path::PathBuf;

/// The port when an endpoint names none (upstream: etcd's client port).
const DEFAULT_PORT: u16 = 2379;

/// Endpoints, certificates and the place of the keys. Files are PEM; they are read again at every connection, so that
/// renewed certificates are taken up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://` or `https://` URLs of the members, all of one scheme. The first is tried first.
    pub endpoints: Vec<String>,
    /// Who may sign the servers' certificates; needed for https.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and its key; both or none.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Stands before every key in etcd, so that several clusters can share one; usually empty.
    pub prefix: String,
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("no etcd endpoint is given; write etcd=https://HOST:2379,https://HOST:2379")]
    NoEndpoint,
    #[error("the etcd endpoint {0:?} is not a URL as https://HOST:2379")]
    Endpoint(String),
    #[error("the etcd endpoints mix http and https")]
    Mixed,
    #[error("etcd over https needs the file of its certificate authority")]
    NoAuthority,
    #[error("an etcd client certificate needs its key, and the key its certificate")]
    HalfIdentity,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Endpoint(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(bad)?;
        let plain_path = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !plain_path || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(DEFAULT_PORT), tls })
    }

    /// The host without the brackets of an IPv6 address.
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl EtcdConfig {
    /// Reads the value of `--store`: `etcd=` and a comma-separated list of endpoints. Certificates come by flags of
    /// their own.
    ///
    /// # Errors
    /// An endpoint is not a URL, or there is none.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let list = text.strip_prefix("etcd=").unwrap_or(text);
        let endpoints: Vec<String> =
            list.split(',').map(str::trim).filter(|e| !e.is_empty()).map(str::to_owned).collect();
        let config = Self { endpoints, ..Self::default() };
        config.targets()?;
        Ok(config)
    }

    /// Looks for what can never work.
    ///
    /// # Errors
    /// What is wrong, in words for the operator.
    pub fn check(&self) -> Result<(), ConfigError> {
        let targets = self.targets()?;
        if targets.iter().any(|t| t.tls) && self.ca_file.is_none() {
            return Err(ConfigError::NoAuthority);
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(ConfigError::HalfIdentity);
        }
        Ok(())
    }

    pub(crate) fn targets(&self) -> Result<Vec<Endpoint>, ConfigError> {
        let targets = self.endpoints.iter().map(|e| Endpoint::parse(e)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = targets.first() else { return Err(ConfigError::NoEndpoint) };
        if targets.iter().any(|t| t.tls != first.tls) {
            return Err(ConfigError::Mixed);
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_order() {
        let c = EtcdConfig::parse("etcd=https://a:2379, https://[::1]:23791,https://b/").unwrap();
        let shown: Vec<_> = c.targets().unwrap().iter().map(|t| (t.authority(), t.tls)).collect();
        let want = [("a:2379", true), ("[::1]:23791", true), ("b:2379", true)];
        assert_eq!(shown, want.map(|(a, t)| (a.to_owned(), t)));
        assert_eq!(c.targets().unwrap()[1].bare_host(), "::1");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for bad in ["etcd=a:2379", "etcd=ftp://a", "etcd=https://a/x", "etcd=https://u@a", "etcd=https://"] {
            assert!(matches!(EtcdConfig::parse(bad), Err(ConfigError::Endpoint(_))), "{bad}");
        }
        assert_eq!(EtcdConfig::parse("etcd=,"), Err(ConfigError::NoEndpoint));
        assert_eq!(EtcdConfig::parse("etcd=http://a,https://b"), Err(ConfigError::Mixed));
        let mut c = EtcdConfig::parse("etcd=https://a").unwrap();
        assert_eq!(c.check(), Err(ConfigError::NoAuthority));
        c.ca_file = Some("ca".into());
        c.key_file = Some("key".into());
        assert_eq!(c.check(), Err(ConfigError::HalfIdentity));
        c.cert_file = Some("cert".into());
        assert_eq!(c.check(), Ok(()));
    }
}
