//! `taffrail up`: configuration to running cluster, and back down in order.

mod aggregation;
mod backend;
mod bootstrap;
mod control_plane;
mod elected;
mod encryption;
mod expire;
mod feed;
mod flow;
mod identity;
mod kubeconfig;
mod nodes;
mod presence;
mod record;

use crate::config::UpOptions;
use crate::logging;
use crate::steps::Steps;
use control_plane::ControlPlane;
pub use encryption::KEY_FILE;
use nodes::Nodes;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
    // Requests have threads of their own; a second worker would mostly be woken to find nothing to do.
    let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the async runtime: {e}"))?;
    runtime.block_on(serve(options, &steps))
}

async fn serve(options: &UpOptions, steps: &Steps) -> Result<(), String> {
    let begun = Instant::now();
    let link = match options.nodes {
        0 => None,
        _ => Some(nodes::link(options).await?),
    };
    let addresses = match (options.advertise_address, &link) {
        (Some(ip), _) => vec![ip],
        (None, Some(_)) => nodes::ips(options, 1)?,
        (None, None) => vec![control_plane::machine_address()],
    };
    let plane = ControlPlane::start(options, &addresses, steps).await?;
    let cancel = CancellationToken::new();
    let mut nodes = None;
    if let Some(link) = &link {
        let image = tokio::task::spawn_blocking(builtin_image(options));
        let at = Instant::now();
        nodes = Some(Nodes::start(options, &plane, link, &cancel).await?);
        let what = if options.nodes == 1 {
            "node ready".to_owned()
        } else {
            format!("{} nodes ready", options.nodes)
        };
        steps.done(&what, at);
        // Its name is in the commands that are shown below.
        let at = Instant::now();
        let _ = image.await;
        steps.done(&format!("image {}", oci::builtin::NAME), at);
    }
    fs::write(pid_file(&options.data_dir), std::process::id().to_string())
        .map_err(|e| format!("cannot write {}: {e}", pid_file(&options.data_dir).display()))?;
    let at = Instant::now();
    let context = kubeconfig::write(options, &plane)?;
    steps.done("kubeconfig written", at);
    tracing::info!(took_ms = begun.elapsed().as_millis() as u64, "the cluster is up");
    steps.note(&format!(
        "\nThe cluster is up after {}. Try:\n\n  kubectl --context {context} create deployment hello --image={image}\n  kubectl --context {context} get pods\n  taffrail audit query --since 10m\n",
        crate::steps::short(steps.total()),
        image = oci::builtin::NAME,
    ));
    wait_for_signal().await;
    steps.note("stopping");
    if let Some(nodes) = nodes {
        nodes.stop().await;
    }
    plane.stop().await;
    let _ = fs::remove_file(pid_file(&options.data_dir));
    Ok(())
}

/// Puts the image that is made of this program into the store: work for another thread, and nothing waits for it.
fn builtin_image(options: &UpOptions) -> impl FnOnce() + Send + 'static {
    let root = options.data_dir.join("images");
    move || {
        let make = || -> Result<(), String> {
            let program = std::env::current_exe().map_err(|e| e.to_string())?;
            let store = oci::ImageStore::open(&root).map_err(|e| e.to_string())?;
            oci::builtin::ensure(&store, &program, &oci::builtin::libraries())
                .map(drop)
                .map_err(|e| e.to_string())
        };
        if let Err(error) = make() {
            tracing::warn!(%error, "the built-in image is not there");
        }
    }
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
