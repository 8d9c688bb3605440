//! Pulling from registries, over HTTPS or, on loopback only, plain HTTP
//! (the protocol: OCI distribution specification; the client: crate `oci-client`).
//!
//! Invariants: every byte that is stored is checked against the digest that named it; a document has a bound, a blob
//! has the size that its manifest says; credentials go to the registry and to the token server that it names.

use crate::error::{Error, Result, invalid};
use crate::import::architecture;
use crate::reference::Reference;
use crate::store::{Image, ImageStore};
use futures::StreamExt as _;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use serde_json::Value;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::io::SyncIoBridge;

/// Forms of manifests that are understood, the index forms last.
const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The largest manifest, in bytes (registries agree on 4 MiB).
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The largest blob, in bytes.
const BLOB_BYTES_MAX: u64 = 64 << 30;
/// Blobs of one image that are fetched at a time (upstream: containerd's `max_concurrent_downloads`).
const BLOBS_AT_ONCE: usize = 3;
/// Bytes between the network and the disk.
const PIPE_BYTES: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a registry may say nothing.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A login, from a pull secret or the command line.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
    /// A token instead of both.
    pub token: String,
}

impl Login {
    fn auth(&self) -> RegistryAuth {
        if !self.token.is_empty() {
            return RegistryAuth::Bearer(self.token.clone());
        }
        if self.username.is_empty() {
            return RegistryAuth::Anonymous;
        }
        RegistryAuth::Basic(self.username.clone(), self.password.clone())
    }
}

/// Fetches an image into the store, trying the logins in order and then none. `progress` is told the bytes that are
/// there and those of the whole image.
///
/// # Errors
/// In the words of container runtimes, naming the image and what the registry said.
pub async fn pull(
    store: &Arc<ImageStore>,
    name: &str,
    logins: &[Login],
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Image> {
    let reference = Reference::parse(name)?;
    let _adding = store.adding()?;
    let mut first = None;
    for login in logins.iter().chain([&Login::default()]) {
        let pull = Pull::new(store, &reference, login)?;
        match pull.run(progress).await {
            Ok(image) => return Ok(image),
            // Another login may see what this one does not.
            Err(e @ (Error::Denied { .. } | Error::Unknown { .. })) => first = first.or(Some(e)),
            Err(e) => return Err(e),
        }
    }
    Err(first.unwrap_or_else(|| Error::NotFound(name.to_owned())))
}

/// One attempt.
struct Pull<'a> {
    store: &'a Arc<ImageStore>,
    reference: &'a Reference,
    client: Client,
    auth: RegistryAuth,
}

/// A blob to fetch.
struct Blob {
    digest: String,
    size: u64,
}

impl<'a> Pull<'a> {
    fn new(store: &'a Arc<ImageStore>, reference: &'a Reference, login: &Login) -> Result<Self> {
        let protocol =
            if is_loopback(&reference.registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(SILENCE_TIMEOUT),
            platform_resolver: None,
            user_agent: concat!("taffrail/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| invalid("the registry client's settings", e))?;
        Ok(Self { store, reference, client, auth: login.auth() })
    }

    async fn run(&self, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<Image> {
        let (mut document, target) =
            self.manifest(&self.reference.to_string(), self.reference.digest.as_deref()).await?;
        let mut digest = target.clone();
        if document["manifests"].is_array() {
            let child = crate::import::of_this_platform(&document, &self.reference.to_string())?;
            let by_digest = format!("{}@{child}", self.reference.name());
            (document, digest) = self.manifest(&by_digest, Some(&child)).await?;
        }
        let blobs = blobs(&document)?;
        let total = blobs.iter().map(|b| b.size).sum();
        let done = AtomicU64::new(0);
        let arrived = |n: u64| progress(done.fetch_add(n, Ordering::Relaxed) + n, total);
        let mut missing = Vec::new();
        for blob in blobs {
            if self.store.has_blob(&blob.digest) {
                arrived(blob.size);
            } else {
                missing.push(self.blob(blob, &arrived));
            }
        }
        let mut fetches = futures::stream::iter(missing).buffer_unordered(BLOBS_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        drop(fetches);
        // What was asked for by digest alone has no name.
        let names = match (&self.reference.tag, &self.reference.digest) {
            (Some(_), None) => vec![self.reference.clone()],
            _ => Vec::new(),
        };
        self.store.register_pulled(&digest, &names, &format!("{}@{target}", self.reference.name()))
    }

    /// A manifest, stored and checked, with its digest.
    async fn manifest(&self, name: &str, wanted: Option<&str>) -> Result<(Value, String)> {
        let at: oci_client::Reference = name.parse().map_err(|e| invalid(name, e))?;
        let (bytes, _) = self
            .client
            .pull_manifest_raw(&at, &self.auth, ACCEPTED)
            .await
            .map_err(|e| self.failed(name, &e))?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(invalid(name, format!("its manifest is larger than {MANIFEST_BYTES_MAX} bytes")));
        }
        let (digest, _) = self.store.put_blob(bytes.as_ref(), wanted)?;
        let document =
            serde_json::from_slice(&bytes).map_err(|e| invalid(format!("the manifest of {name}"), e))?;
        Ok((document, digest))
    }

    async fn blob(&self, blob: Blob, arrived: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let name = self.reference.to_string();
        let at: oci_client::Reference = name.parse().map_err(|e| invalid(&name, e))?;
        let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
        let (store, digest, size) = (self.store.clone(), blob.digest.clone(), blob.size);
        let writing = tokio::task::spawn_blocking(move || {
            // One byte more than promised is enough to be refused.
            store.put_blob(SyncIoBridge::new(far).take(size.saturating_add(1)), Some(&digest))
        });
        let descriptor = oci_client::manifest::OciDescriptor {
            digest: blob.digest.clone(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let fetched = self.client.pull_blob(&at, &descriptor, &mut near).await;
        drop(near);
        let written = writing.await.map_err(|e| invalid("a blob's writer", e))?;
        fetched.map_err(|e| self.failed(&name, &e))?;
        written?;
        arrived(blob.size);
        Ok(())
    }

    fn failed(&self, name: &str, e: &OciDistributionError) -> Error {
        let image = self.reference.to_string();
        let code = |wanted: &[OciErrorCode]| match e {
            OciDistributionError::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|e| wanted.contains(&e.code))
            }
            _ => false,
        };
        let absent = [OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound];
        let missing = matches!(e, OciDistributionError::ImageManifestNotFoundError(_))
            || matches!(e, OciDistributionError::ServerError { code: 404, .. })
            || code(&absent);
        let denied = matches!(
            e,
            OciDistributionError::UnauthorizedError { .. }
                | OciDistributionError::AuthenticationFailure(_)
                | OciDistributionError::ServerError { code: 401 | 403, .. }
        ) || code(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]);
        if missing {
            return Error::Unknown { image };
        }
        if denied {
            return Error::Denied { image, why: base::error::chain(e) };
        }
        let unreachable =
            matches!(e, OciDistributionError::RequestError(r) if r.is_connect() || r.is_timeout());
        let why = format!("{name}: {}", base::error::chain(e));
        if unreachable { Error::Unreachable { image, why } } else { Error::Registry { image, why } }
    }
}

/// Configuration and layers, each once.
fn blobs(manifest: &Value) -> Result<Vec<Blob>> {
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let mut out: Vec<Blob> = Vec::new();
    for d in std::iter::once(&manifest["config"]).chain(layers) {
        let digest = d["digest"].as_str().unwrap_or("").to_owned();
        let size = d["size"].as_u64().unwrap_or(u64::MAX);
        if !crate::reference::is_digest(&digest) || size > BLOB_BYTES_MAX {
            return Err(invalid("a manifest", format!("it names a blob {digest:?} of {size} bytes")));
        }
        if !out.iter().any(|b| b.digest == digest) {
            out.push(Blob { digest, size });
        }
    }
    Ok(out)
}

/// Whether a registry is this machine itself, where plain HTTP is no risk.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The machine that images must be for, as in a platform.
pub fn platform() -> String {
    format!("linux/{}", architecture())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.8.8", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "docker.io",
            "localhost.example:5000",
            "10.0.0.1:5000",
            "127.0.0.1.example",
            "[2001:db8::1]:5000",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn manifests_that_name_nonsense_are_refused() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let good = serde_json::json!({"config": {"digest": digest, "size": 2}, "layers": [{"digest": digest, "size": 2}]});
        assert_eq!(blobs(&good).expect("good").len(), 1);
        for bad in [
            serde_json::json!({}),
            serde_json::json!({"config": {"digest": "sha256:../../x", "size": 1}}),
            serde_json::json!({"config": {"digest": digest, "size": -1}}),
        ] {
            assert!(blobs(&bad).is_err(), "{bad}");
        }
    }
}
