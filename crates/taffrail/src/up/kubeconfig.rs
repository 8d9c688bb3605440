//! The administrator's way in: a file of the cluster's own, and a context in the invoking user's kubeconfig.

use super::control_plane::{ControlPlane, text};
use crate::config::UpOptions;
use client::kubeconfig::{Entry, merge};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Name of the context, the cluster and the user.
pub const CONTEXT: &str = "taffrail";

/// Writes both; the name of the context.
pub fn write(options: &UpOptions, plane: &ControlPlane) -> Result<&'static str, String> {
    let entry = Entry {
        name: CONTEXT.to_owned(),
        server: format!("https://{}", SocketAddr::new(local_address(options), plane.port)),
        ca_pem: plane.pki.ca_pem().as_bytes().to_vec(),
        identity_pem: None,
        token: Some(plane.admin_token.clone()),
    };
    merge(&super::admin_kubeconfig(&options.data_dir), &entry).map_err(text)?;
    if !options.no_kubeconfig
        && let Some((path, owner)) = user_file()
    {
        merge_for(&path, owner, &entry)?;
    }
    Ok(CONTEXT)
}

/// Where the server is reached from this machine.
fn local_address(options: &UpOptions) -> IpAddr {
    let bound = options.bind_address.parse::<IpAddr>().ok();
    bound.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// `~/.kube/config` of the user who runs this, also under sudo, and whom it must belong to.
fn user_file() -> Option<(PathBuf, Option<(u32, u32)>)> {
    #[allow(clippy::disallowed_methods)] // who invoked us is told by the environment alone
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if let (Some(uid), Some(gid)) = (var("SUDO_UID"), var("SUDO_GID")) {
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        let home = passwd.lines().find_map(|l| {
            let f: Vec<&str> = l.split(':').collect();
            (f.get(2)?.parse::<u32>().ok()? == uid).then(|| PathBuf::from(f[5]))
        })?;
        return Some((home.join(".kube/config"), Some((uid, gid))));
    }
    Some((PathBuf::from(var("HOME")?).join(".kube/config"), None))
}

fn merge_for(path: &Path, owner: Option<(u32, u32)>, entry: &Entry) -> Result<(), String> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    if !dir.exists() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        give(dir, owner);
    }
    merge(path, entry).map_err(text)?;
    give(path, owner);
    Ok(())
}

/// Gives a file to the user behind sudo.
fn give(path: &Path, owner: Option<(u32, u32)>) {
    let Some((uid, gid)) = owner else { return };
    if std::fs::metadata(path).is_ok_and(|m| m.uid() != uid) {
        let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
    }
}
