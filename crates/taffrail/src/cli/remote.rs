//! Commands that ask the running cluster: with the kubeconfig that kubectl would use, or the cluster's own.

use client::https::HttpsApi;
use client::{Client, kubeconfig};
use std::path::{Path, PathBuf};

/// A client for the cluster.
pub fn client(data_dir: &Path) -> Result<Client, String> {
    let path = config_path(data_dir);
    let mut config = kubeconfig::load(&path, None).map_err(|e| format!("{e}; is the cluster up?"))?;
    config.user_agent = format!("taffrail/{}", env!("CARGO_PKG_VERSION"));
    // The second call of a process finds it installed: that is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::new(std::sync::Arc::new(HttpsApi::new(&config).map_err(|e| e.to_string())?)))
}

/// `$KUBECONFIG`, else the cluster's own file, else `~/.kube/config`.
fn config_path(data_dir: &Path) -> PathBuf {
    #[allow(clippy::disallowed_methods)] // kubectl's convention
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if let Some(first) = var("KUBECONFIG").and_then(|v| v.split(':').next().map(PathBuf::from)) {
        return first;
    }
    let own = crate::up::admin_kubeconfig(data_dir);
    if own.exists() {
        return own;
    }
    var("HOME").map_or(own, |h| PathBuf::from(h).join(".kube/config"))
}

/// Runs async work of a command.
pub fn block<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(work)
}
