//! Where things of a pod lie on disk (upstream: `pkg/kubelet/kubelet_getters.go`, `kuberuntime/helpers.go`).

use std::path::{Path, PathBuf};

/// `<logs>/<namespace>_<name>_<uid>`
pub fn pod_logs(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// `<logs>/<namespace>_<name>_<uid>/<container>/<restarts>.log`
pub fn container_log(
    root: &Path,
    namespace: &str,
    name: &str,
    uid: &str,
    container: &str,
    restarts: i32,
) -> PathBuf {
    pod_logs(root, namespace, name, uid).join(container).join(format!("{restarts}.log"))
}

/// `<pod>/volumes/<plugin>/<volume>` with the plugin's slash escaped.
pub fn volume(pod_dir: &Path, plugin: &str, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(plugin.replace('/', "~")).join(volume)
}

/// The restart count that follows the log files found in a directory: 0 when there is none
/// (upstream: `calcRestartCountByLogDir`).
pub fn restarts_by_logs(dir: &Path) -> i32 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".log")?.parse::<i32>().ok())
        .max()
        .map_or(0, |n| n.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_restarts_from_logs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(restarts_by_logs(dir.path()), 0);
        for name in ["0.log", "3.log", "3.log.20260101-000000.gz", "x.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(restarts_by_logs(dir.path()), 4);
        assert_eq!(restarts_by_logs(&dir.path().join("none")), 0);
    }
}
