//! Records of pods on disk: what a restarted agent finds again.
//!
//! Written to a temporary file and renamed: a record is whole or the one before.

use super::model::Record;
use std::path::Path;

const NAME: &str = "record.json";

/// Writes the record of a pod.
///
/// # Errors
/// What failed, with the path.
pub fn save(pod_dir: &Path, record: &Record) -> Result<(), String> {
    let fail = |e: &dyn std::fmt::Display| format!("write {}: {e}", pod_dir.join(NAME).display());
    let bytes = serde_json::to_vec(record).map_err(|e| fail(&e))?;
    let temporary = pod_dir.join(".record.json.tmp");
    std::fs::create_dir_all(pod_dir).map_err(|e| fail(&e))?;
    std::fs::write(&temporary, bytes).map_err(|e| fail(&e))?;
    std::fs::rename(&temporary, pod_dir.join(NAME)).map_err(|e| fail(&e))
}

/// Reads the record of a pod; one that cannot be read is as good as none.
pub fn load(pod_dir: &Path) -> Option<Record> {
    let path = pod_dir.join(NAME);
    let bytes = std::fs::read(&path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(record) => Some(record),
        Err(e) => {
            tracing::warn!(path = %path.display(), "the record of a pod cannot be read and is left out: {e}");
            None
        }
    }
}

/// Uids of the pods that have a directory.
pub fn uids(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("pods")) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pods/u1");
        let record = Record { sandbox: 3, ips: vec!["10.0.0.1".parse().unwrap()], ..Record::default() };
        save(&dir, &record).unwrap();
        let back = load(&dir).unwrap();
        assert_eq!((back.sandbox, back.ips), (3, record.ips));
        assert_eq!(uids(root.path()), ["u1"]);
        std::fs::write(dir.join(NAME), "{").unwrap();
        assert!(load(&dir).is_none());
    }
}
