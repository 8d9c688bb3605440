//! hostPath volumes: checks of what is on the host (upstream: `pkg/volume/hostpath`).

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks that `path` is of the kind asked for, making it where that is asked for.
///
/// # Errors
/// Upstream's text.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(format!("invalid HostPath `{}`: must not contain '..'", path.display()));
    }
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if !path.exists() => make_dir(path),
        "Directory" | "DirectoryOrCreate" => expect(path, "Directory", "directory"),
        "FileOrCreate" if !path.exists() => make_file(path),
        "File" | "FileOrCreate" => expect(path, "File", "file"),
        "Socket" => expect(path, "Socket", "socket file"),
        "CharDevice" => expect(path, "CharDevice", "character device"),
        "BlockDevice" => expect(path, "BlockDevice", "block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn kind_of(path: &Path) -> Result<&'static str, String> {
    let kind = std::fs::metadata(path).map_err(|e| e.to_string())?.file_type();
    Ok(match kind {
        k if k.is_dir() => "Directory",
        k if k.is_socket() => "Socket",
        k if k.is_char_device() => "CharDevice",
        k if k.is_block_device() => "BlockDevice",
        k if k.is_file() => "File",
        _ => return Err("only recognise file, directory, socket, block device and character device".into()),
    })
}

fn expect(path: &Path, kind: &str, name: &str) -> Result<(), String> {
    let at = path.display();
    match kind_of(path) {
        Ok(k) if k == kind => Ok(()),
        Ok(k) => Err(format!("hostPath type check failed: {at} is not a {name}, it's a {k}")),
        Err(e) => Err(format!(
            "hostPath type check failed, {at} is not a {name}, unable to determine its type: {e}"
        )),
    }
}

fn make_dir(path: &Path) -> Result<(), String> {
    let done = std::fs::create_dir_all(path);
    let done = done.and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)));
    done.map_err(|e| format!("make directory {}: {e}", path.display()))
}

fn make_file(path: &Path) -> Result<(), String> {
    let done = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let done = done.and_then(|_| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)));
    done.map_err(|e| format!("make file {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        check(&new, "DirectoryOrCreate").unwrap();
        check(&new, "Directory").unwrap();
        let file = new.join("f");
        check(&file, "FileOrCreate").unwrap();
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        let text = check(&file, "Directory").unwrap_err();
        assert!(text.ends_with("is not a directory, it's a File"), "{text}");
        assert!(check(&new.join("none"), "Socket").unwrap_err().contains("unable to determine its type"));
        assert_eq!(check(&new, "X").unwrap_err(), "X is an invalid volume type");
    }
}
