//! Where objects are kept: in the data directory, or in an etcd that others run.

use super::control_plane::text;
use super::encryption::Encryption;
use crate::config::UpOptions;
use base::clock::SharedClock;
use base::rng::Rng;
use std::sync::Arc;
use store::{Embedded, Etcd, EtcdConfig, EtcdOptions, Mark, Store};
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
    /// Opens what `--store` names. Blocks until all objects are in memory. `marks` are what several servers on one etcd
    /// must have in common.
    pub fn open(
        options: &UpOptions,
        clock: &SharedClock,
        rng: &Arc<Rng>,
        marks: Vec<Mark>,
    ) -> Result<Self, String> {
        let encryption = Encryption::load(options)?;
        let backend = Self::open_sealed(options, clock, rng, &encryption, marks)?;
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
        marks: Vec<Mark>,
    ) -> Result<Self, String> {
        if options.store.starts_with("etcd=") {
            return etcd(options, rng, encryption, marks).map(Self::Etcd);
        }
        let mut settings = store::Options::new(options.data_dir.join("store"));
        settings.data_dir.clone_from(&options.data_dir);
        settings.quota_bytes = options.quota_backend_bytes;
        settings.rng = rng.clone();
        settings.seal = encryption.seal.clone();
        settings.bloom = registry::labels::bloom;
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

    /// This server's name among those that share the store.
    pub fn identity(&self) -> Option<&str> {
        match self {
            Self::Embedded(_) => None,
            Self::Etcd(store) => Some(store.identity()),
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

fn etcd(
    options: &UpOptions,
    rng: &Arc<Rng>,
    encryption: &Encryption,
    marks: Vec<Mark>,
) -> Result<Arc<Etcd>, String> {
    let mut config = EtcdConfig::parse(&options.store).map_err(|e| format!("--store: {e}"))?;
    config.ca_file.clone_from(&options.etcd_cafile);
    config.cert_file.clone_from(&options.etcd_certfile);
    config.key_file.clone_from(&options.etcd_keyfile);
    config.check().map_err(|e| format!("--store: {e} (--etcd-cafile, --etcd-certfile, --etcd-keyfile)"))?;
    let mut settings = EtcdOptions::new(config, identity(options, rng)?);
    settings.rng = rng.clone();
    settings.seal = encryption.seal.clone();
    settings.bloom = registry::labels::bloom;
    settings.marks = marks;
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

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use clap::Parser;
    use std::path::Path;
    use store::{Expect, Op, Stamped, Txn, block_on};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpOptions,
    }

    fn open(dir: &Path, more: &[&str]) -> Result<Backend, String> {
        let dir = dir.display().to_string();
        let line = ["up", "--data-dir", &dir].into_iter().chain(more.iter().copied());
        let options = Line::try_parse_from(line).expect("flags").up;
        Backend::open(&options, &SystemClock::shared(), &Arc::new(Rng::from_os()), Vec::new())
    }

    fn close(backend: Backend) {
        backend.store().close();
    }

    #[test]
    fn secrets_are_sealed_by_default_and_a_lost_key_is_told() {
        const KEY: &str = "/registry/secrets/ns/a";
        let dir = tempfile::tempdir().expect("a directory");
        let backend = open(dir.path(), &[]).expect("opened");
        let value = Stamped { bytes: b"hunter2".to_vec(), stamp: None };
        let ops = vec![Op::Put { key: KEY.into(), value, expect: Expect::Any }];
        block_on(backend.store().commit(Txn { ops, record: None })).expect("committed");
        close(backend);
        for file in std::fs::read_dir(dir.path().join("store")).expect("files") {
            let bytes = std::fs::read(file.expect("a file").path()).expect("read");
            assert!(!bytes.windows(7).any(|w| w == b"hunter2"));
        }
        let file = dir.path().join(crate::up::KEY_FILE);
        let key = std::fs::read_to_string(&file).expect("a key");
        let backend = open(dir.path(), &[]).expect("opened again");
        assert_eq!(&backend.store().get(KEY).expect("there").value[..], b"hunter2");
        close(backend);

        std::fs::remove_file(&file).expect("removed");
        let why = open(dir.path(), &[]).err().unwrap_or_default();
        for part in [KEY, "taffrail-", file.to_str().expect("a path"), "put the key back"] {
            assert!(why.contains(part), "{part} is not in: {why}");
        }
        assert!(!file.exists(), "a new key was made beside a store that needs another");

        // With a configuration the own key still opens what it sealed.
        std::fs::write(&file, key).expect("written");
        let config = dir.path().join("config.yaml");
        std::fs::write(
            &config,
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  providers: [{identity: {}}]\n",
        )
        .expect("written");
        let flag = ["--encryption-provider-config", config.to_str().expect("a path")];
        let backend = open(dir.path(), &flag).expect("opened with a configuration");
        assert_eq!(&backend.store().get(KEY).expect("there").value[..], b"hunter2");
        close(backend);
        std::fs::write(&config, "kind: Nonsense\n").expect("written");
        assert!(open(dir.path(), &flag).err().unwrap_or_default().contains("config.yaml"));
    }
}
