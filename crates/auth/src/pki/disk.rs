//! Key files: written whole or not at all, readable by their owner only.

use super::PkiError;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a directory that only its owner can enter; one that is there is closed to others.
pub(super) fn directory(path: &Path) -> Result<(), PkiError> {
    let io = |what, source| PkiError::Io { what, path: path.into(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| io("create", e))?;
    let mode = fs::metadata(path).map_err(|e| io("look at", e))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|e| io("close", e))?;
    }
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Io { what: "read", path: path.into(), source })
}

/// Writes a file by way of a temporary one, durably.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = Path::new(&tmp);
    let io = |what, source| PkiError::Io { what, path: path.into(), source };
    // A file left by a crash may have another mode.
    let _ = fs::remove_file(tmp);
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(tmp)
        .map_err(|e| io("create", e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| io("write", e))?;
    fs::rename(tmp, path).map_err(|e| io("rename", e))?;
    if let Some(dir) = path.parent() {
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io("sync the directory of", e))?;
    }
    Ok(())
}
