//! Rotation of container logs (upstream: `pkg/kubelet/logs/container_log_manager.go`).
//!
//! `0.log` grows to its limit, becomes `0.log.<time>`, older ones are compressed; the oldest go.

use crate::context::NodeContext;
use crate::pod::worker::Views;
use flate2::{Compression, write::GzEncoder};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often sizes are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// Rotates the logs of running containers for ever.
pub async fn run(ctx: Arc<NodeContext>, views: Views) {
    loop {
        tokio::time::sleep(PERIOD).await;
        for pod in views.all() {
            for c in pod.containers().iter().filter(|c| c.running) {
                let size = tokio::fs::metadata(&c.log_path).await.map_or(0, |m| m.len());
                if size < ctx.config.container_log_max_size {
                    continue;
                }
                if let Err(e) = rotate(&ctx, &pod.uid, &c.id, &c.log_path).await {
                    tracing::warn!(container = c.id, "rotating the log failed: {e}");
                }
            }
        }
    }
}

async fn rotate(ctx: &NodeContext, uid: &str, id: &str, log: &Path) -> Result<(), String> {
    let stamp = ctx.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
    let to = PathBuf::from(format!("{}.{stamp}", log.display()));
    let (path, keep) = (log.to_owned(), ctx.config.container_log_max_files.max(2) as usize);
    let tidied = tokio::task::spawn_blocking(move || tidy(&path, keep)).await;
    tidied.map_err(|e| e.to_string())??;
    tokio::fs::rename(log, &to).await.map_err(|e| format!("rename {}: {e}", log.display()))?;
    if let Err(e) = ctx.runtime.reopen_log(uid, id).await {
        // Without a new file the container writes into the old one: put its name back.
        tokio::fs::rename(&to, log).await.map_err(|e| format!("rename {} back: {e}", to.display()))?;
        return Err(e.to_string());
    }
    Ok(())
}

/// Compresses rotated files and removes the oldest, so that with two more there are `keep` (current one included).
fn tidy(log: &Path, keep: usize) -> Result<(), String> {
    let mut files = rotated(log);
    while files.len() + 2 > keep {
        let oldest = files.remove(0);
        std::fs::remove_file(&oldest).map_err(|e| format!("remove {}: {e}", oldest.display()))?;
    }
    for file in files.iter().filter(|f| f.extension().is_none_or(|e| e != "gz")) {
        compress(file).map_err(|e| format!("compress {}: {e}", file.display()))?;
    }
    Ok(())
}

fn compress(file: &Path) -> std::io::Result<()> {
    let temporary = PathBuf::from(format!("{}.tmp", file.display()));
    let mut input = std::fs::File::open(file)?;
    let mut output = GzEncoder::new(std::fs::File::create(&temporary)?, Compression::default());
    std::io::copy(&mut input, &mut output)?;
    output.finish()?;
    std::fs::rename(&temporary, format!("{}.gz", file.display()))?;
    std::fs::remove_file(file)
}

/// Rotated files of a log, the oldest first.
pub fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && !n.ends_with(".tmp")))
        .map(|e| e.path())
        .collect();
    files.sort();
    files
}

/// Removes the rotated files of a log that is gone.
pub fn remove_rotated(log: &Path) {
    for file in rotated(log) {
        if let Err(e) = std::fs::remove_file(&file) {
            tracing::warn!("remove {}: {e}", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_so_many_and_compresses() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for stamp in ["20260101-000001.gz", "20260101-000002.gz", "20260101-000003.gz", "20260101-000004"] {
            std::fs::write(dir.path().join(format!("0.log.{stamp}")), "text").unwrap();
        }
        std::fs::write(dir.path().join("10.log"), "other").unwrap();
        tidy(&log, 5).unwrap();
        let names: Vec<_> =
            rotated(&log).iter().map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(
            names,
            ["0.log.20260101-000002.gz", "0.log.20260101-000003.gz", "0.log.20260101-000004.gz"]
        );
        remove_rotated(&log);
        assert!(rotated(&log).is_empty() && dir.path().join("10.log").exists());
    }
}
