//! `taffrail up`: configuration to running cluster, and back down in order.

mod bootstrap;
mod control_plane;
mod feed;
mod kubeconfig;
mod record;

use crate::config::UpOptions;
use crate::logging;
use crate::steps::Steps;
use control_plane::ControlPlane;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// File that holds the process id of the running cluster.
pub fn pid_file(data_dir: &Path) -> PathBuf {
    data_dir.join("taffrail.pid")
}

/// The administrator's kubeconfig.
pub fn admin_kubeconfig(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.kubeconfig")
}

/// Runs the cluster until a signal ends it. An error is one line for the user.
pub fn run(options: &UpOptions) -> Result<(), String> {
    let steps = Steps::new();
    let dir = &options.data_dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| format!("cannot make the data directory {}: {e}", dir.display()))?;
    logging::start(dir, &options.log_level)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "TLS is set up twice".to_owned())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the async runtime: {e}"))?;
    runtime.block_on(serve(options, &steps))
}

async fn serve(options: &UpOptions, steps: &Steps) -> Result<(), String> {
    let begun = Instant::now();
    let plane = ControlPlane::start(options, steps).await?;
    fs::write(pid_file(&options.data_dir), std::process::id().to_string())
        .map_err(|e| format!("cannot write {}: {e}", pid_file(&options.data_dir).display()))?;
    let at = Instant::now();
    let context = kubeconfig::write(options, &plane)?;
    steps.done("kubeconfig written", at);
    tracing::info!(took_ms = begun.elapsed().as_millis() as u64, "the cluster is up");
    steps.note(&format!(
        "\nThe cluster is up after {}. Try:\n\n  kubectl --context {context} get namespaces\n  taffrail audit query --since 10m\n",
        crate::steps::short(steps.total())
    ));
    wait_for_signal().await;
    steps.note("stopping");
    plane.stop().await;
    let _ = fs::remove_file(pid_file(&options.data_dir));
    Ok(())
}

async fn wait_for_signal() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
