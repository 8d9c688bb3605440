//! Where objects are kept: in the data directory, or in an etcd that others run.

use super::control_plane::text;
use super::encryption::Encryption;
use crate::config::UpOptions;
use base::clock::SharedClock;
use base::rng::Rng;
use std::sync::Arc;
use store::{Embedded, Etcd, EtcdConfig, EtcdOptions, Store};
use tokio_util::sync::CancellationToken;

/// How long history is kept for watchers and paged lists (upstream: `--etcd-compaction-interval`).
const COMPACT_EVERY: std::time::Duration = std::time::Duration::from_secs(300);
/// Letters of a server's name among those on one etcd.
const IDENTITY_LETTERS: usize = 12;

/// The store of this server.
#[derive(Clone)]
pub enum Backend {
    Embedded(Arc<Embedded>),
    Etcd(Arc<Etcd>),
}

impl Backend {
    /// Opens what `--store` names. Blocks until all objects are in memory.
    pub fn open(options: &UpOptions, clock: &SharedClock, rng: &Arc<Rng>) -> Result<Self, String> {
        let encryption = Encryption::load(options)?;
        let backend = Self::open_sealed(options, clock, rng, &encryption)?;
        // Not before: a new key beside a store that needs another one would only confuse.
        if let Err(error) = encryption.keep() {
            backend.store().close();
            return Err(error);
        }
        Ok(backend)
    }

    fn open_sealed(
        options: &UpOptions,
        clock: &SharedClock,
        rng: &Arc<Rng>,
        encryption: &Encryption,
    ) -> Result<Self, String> {
        if options.store.starts_with("etcd=") {
            return etcd(options, rng, encryption).map(Self::Etcd);
        }
        let mut settings = store::Options::new(options.data_dir.join("store"));
        settings.data_dir.clone_from(&options.data_dir);
        settings.quota_bytes = options.quota_backend_bytes;
        settings.rng = rng.clone();
        settings.seal = encryption.seal.clone();
        let dir = settings.dir.clone();
        let store = Embedded::open(settings, Arc::new(store::disk::RealDisk), clock.clone()).map_err(text)?;
        tracing::info!(target: "store", dir = %dir.display(), revision = store.revision(), "opened");
        Ok(Self::Embedded(store))
    }

    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(s) => s.clone(),
            Self::Etcd(s) => s.clone(),
        }
    }

    /// Forgets history as it gets old, until cancelled. An etcd's servers agree among themselves who does it.
    pub async fn compact(self, cancel: CancellationToken) {
        let Self::Embedded(store) = self else { return };
        let mut before = store.revision();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(COMPACT_EVERY) => {}
            }
            match store.compact(before) {
                Ok(()) => tracing::info!(target: "store", revision = before, "compacted"),
                Err(error) => tracing::warn!(target: "store", %error, "compaction failed"),
            }
            before = store.revision();
        }
    }
}

fn etcd(options: &UpOptions, rng: &Arc<Rng>, encryption: &Encryption) -> Result<Arc<Etcd>, String> {
    let mut config = EtcdConfig::parse(&options.store).map_err(|e| format!("--store: {e}"))?;
    config.ca_file.clone_from(&options.etcd_cafile);
    config.cert_file.clone_from(&options.etcd_certfile);
    config.key_file.clone_from(&options.etcd_keyfile);
    config.check().map_err(|e| format!("--store: {e} (--etcd-cafile, --etcd-certfile, --etcd-keyfile)"))?;
    let mut settings = EtcdOptions::new(config, identity(options, rng)?);
    settings.rng = rng.clone();
    settings.seal = encryption.seal.clone();
    let store = Etcd::open(settings).map_err(text)?;
    tracing::info!(target: "store", etcd = options.store, revision = store.revision(), "opened");
    Ok(store)
}

/// This server's name among those on one etcd, the same at every start.
fn identity(options: &UpOptions, rng: &Rng) -> Result<String, String> {
    let file = options.data_dir.join("etcd-identity");
    match std::fs::read_to_string(&file) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        _ => {
            let name = rng.name_suffix(IDENTITY_LETTERS);
            std::fs::write(&file, &name).map_err(|e| format!("write {}: {e}", file.display()))?;
            Ok(name)
        }
    }
}
