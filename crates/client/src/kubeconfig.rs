//! kubeconfig files: reading one context, and merging a named context into a user's file.
//!
//! The file is kept as a tree, so that what this module does not know survives a merge.

use crate::https::{Config, Token};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// Why a kubeconfig could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kubeconfig {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {path}: {why}")]
    Content { path: PathBuf, why: String },
}

/// A cluster, its user and their context, to be merged into a file.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Name of the cluster, the user and the context.
    pub name: String,
    pub server: String,
    pub ca_pem: Vec<u8>,
    /// PEM certificate and key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
}

/// Reads a file and resolves a context (the current one when none is named).
///
/// # Errors
/// The file cannot be read, is no kubeconfig, lacks the context, or asks for what is not supported.
pub fn load(path: &Path, context: Option<&str>) -> Result<Config, Error> {
    let tree = read(path)?;
    resolve(&tree, path, context).map_err(|why| Error::Content { path: path.to_owned(), why })
}

/// Merges a context into a file (made when missing) and makes it the current one. The file is replaced in one step, with mode 0600.
///
/// # Errors
/// The file is there but not readable as a kubeconfig (it is left alone), or cannot be written.
pub fn merge(path: &Path, entry: &Entry) -> Result<(), Error> {
    let mut tree = match read(path) {
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Value::Null,
        other => other?,
    };
    let content = |why: String| Error::Content { path: path.to_owned(), why };
    upsert(&mut tree, entry).map_err(content)?;
    let text = meta::yaml::to_string(&tree);
    write(path, text.as_bytes()).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Removes a context with its cluster and user, where they have its name. A missing file or entry is fine.
///
/// # Errors
/// As [`merge`].
pub fn remove(path: &Path, name: &str) -> Result<(), Error> {
    let mut tree = match read(path) {
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for list in ["clusters", "users", "contexts"] {
        if let Some(list) = tree[list].as_array_mut() {
            list.retain(|e| e["name"] != name);
        }
    }
    if tree["current-context"] == name {
        tree["current-context"] = json!("");
    }
    let text = meta::yaml::to_string(&tree);
    write(path, text.as_bytes()).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Value, Error> {
    let bytes = fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let why = |e: meta::yaml::ParseError| Error::Content { path: path.to_owned(), why: e.to_string() };
    let (tree, _) = meta::yaml::parse_yaml(&bytes, MAX_BYTES).map_err(why)?;
    if !tree.is_object() && !tree.is_null() {
        return Err(Error::Content { path: path.to_owned(), why: "not a map of settings".into() });
    }
    Ok(tree)
}

fn named<'a>(tree: &'a Value, list: &str, name: &str, inner: &str) -> Result<&'a Value, String> {
    let all = tree[list].as_array().into_iter().flatten();
    let found = all.into_iter().find(|e| e["name"] == name);
    found.map(|e| &e[inner]).ok_or_else(|| format!("no entry {name:?} under {list}"))
}

fn resolve(tree: &Value, path: &Path, context: Option<&str>) -> Result<Config, String> {
    let current = tree["current-context"].as_str().filter(|c| !c.is_empty());
    let context = context.or(current).ok_or("no context named and no current-context set")?;
    let context = named(tree, "contexts", context, "context")?;
    let cluster = named(tree, "clusters", context["cluster"].as_str().unwrap_or(""), "cluster")?;
    let user = match context["user"].as_str().filter(|u| !u.is_empty()) {
        Some(name) => named(tree, "users", name, "user")?,
        None => &Value::Null,
    };
    if cluster["insecure-skip-tls-verify"] == true {
        return Err(
            "insecure-skip-tls-verify is not supported; give certificate-authority or its -data".into()
        );
    }
    for unsupported in ["exec", "auth-provider"] {
        if !user[unsupported].is_null() {
            return Err(format!(
                "credentials from {unsupported} are not supported; use a certificate or a token"
            ));
        }
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let cert = data(user, "client-certificate", dir)?;
    let key = data(user, "client-key", dir)?;
    let identity_pem = match (cert, key) {
        (Some(c), Some(k)) => Some((c, k)),
        (None, None) => None,
        _ => return Err("client-certificate and client-key must both be given".into()),
    };
    let text = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let token = match (text(&user["token"]), text(&user["tokenFile"]), text(&user["username"])) {
        (Some(t), _, _) => Token::Bearer(t),
        (_, Some(f), _) => Token::File(dir.join(f)),
        (_, _, Some(name)) => Token::Basic(name, text(&user["password"]).unwrap_or_default()),
        _ => Token::None,
    };
    Ok(Config {
        server: text(&cluster["server"]).ok_or("the cluster has no server")?,
        ca_pem: data(cluster, "certificate-authority", dir)?.unwrap_or_default(),
        tls_server_name: text(&cluster["tls-server-name"]),
        identity_pem,
        token,
        ..Config::default()
    })
}

/// `FIELD-data` in base64, or the file that `FIELD` names, relative to the kubeconfig's folder.
fn data(section: &Value, field: &str, dir: &Path) -> Result<Option<Vec<u8>>, String> {
    let inline = format!("{field}-data");
    if let Some(text) = section[&inline].as_str().filter(|t| !t.is_empty()) {
        return STANDARD.decode(text).map(Some).map_err(|e| format!("{inline}: {e}"));
    }
    let Some(file) = section[field].as_str().filter(|t| !t.is_empty()) else { return Ok(None) };
    let at = dir.join(file);
    fs::read(&at).map(Some).map_err(|e| format!("{field}: {}: {e}", at.display()))
}

fn upsert(tree: &mut Value, entry: &Entry) -> Result<(), String> {
    if tree.is_null() {
        *tree = json!({"apiVersion": "v1", "kind": "Config"});
    }
    let encoded = |pem: &[u8]| Value::from(STANDARD.encode(pem));
    let mut cluster = json!({"server": entry.server});
    if !entry.ca_pem.is_empty() {
        cluster["certificate-authority-data"] = encoded(&entry.ca_pem);
    }
    let mut user = json!({});
    if let Some((cert, key)) = &entry.identity_pem {
        user["client-certificate-data"] = encoded(cert);
        user["client-key-data"] = encoded(key);
    }
    if let Some(t) = &entry.token {
        user["token"] = t.as_str().into();
    }
    put(tree, "clusters", "cluster", &entry.name, cluster)?;
    put(tree, "users", "user", &entry.name, user)?;
    let context = json!({"cluster": entry.name, "user": entry.name});
    put(tree, "contexts", "context", &entry.name, context)?;
    tree["current-context"] = entry.name.as_str().into();
    Ok(())
}

fn put(tree: &mut Value, list: &str, inner: &str, name: &str, value: Value) -> Result<(), String> {
    let map = tree.as_object_mut().ok_or("not a map of settings")?;
    let slot = map.entry(list).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!([]);
    }
    let entries = slot.as_array_mut().ok_or_else(|| format!("{list} is no list"))?;
    match entries.iter_mut().find(|e| e["name"] == name) {
        // a context keeps the namespace that its user chose
        Some(old) if inner == "context" && old[inner].is_object() => {
            old[inner]["cluster"] = value["cluster"].clone();
            old[inner]["user"] = value["user"].clone();
        }
        Some(old) if old.is_object() => old[inner] = value,
        _ => entries.push(json!({"name": name, inner: value})),
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // a link is followed, so that a dotfiles folder keeps its file
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let done =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, &path));
    if done.is_err() {
        // the failure reported is the first one
        let _ = fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(server: &str) -> Entry {
        let identity_pem = Some((b"cert".to_vec(), b"key".to_vec()));
        Entry {
            name: "taffrail".into(),
            server: server.into(),
            ca_pem: b"ca".to_vec(),
            identity_pem,
            token: None,
        }
    }

    #[test]
    fn merging_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config");
        merge(&path, &entry("https://one")).unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("\npreferences:\n  colors: true\n");
        text = text.replace("current-context: taffrail", "current-context: other");
        fs::write(&path, text).unwrap();
        merge(&path, &entry("https://two")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let tree = read(&path).unwrap();
        assert_eq!(tree["preferences"]["colors"], true);
        assert_eq!(tree["clusters"].as_array().unwrap().len(), 1);
        let config = load(&path, None).unwrap();
        assert_eq!((config.server.as_str(), config.ca_pem.as_slice()), ("https://two", &b"ca"[..]));
        assert_eq!(config.identity_pem, Some((b"cert".to_vec(), b"key".to_vec())));
        remove(&path, "taffrail").unwrap();
        assert!(load(&path, None).err().is_some_and(|e| e.to_string().contains("current-context")));
    }

    #[test]
    fn files_are_found_beside_the_kubeconfig() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(dir.path().join("ca.pem"), "the ca").unwrap();
        let yaml = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
            clusters: [{name: c, cluster: {server: 'https://x', certificate-authority: ca.pem}}]\n\
            users: [{name: u, user: {token: t}}]\n";
        fs::write(&path, yaml).unwrap();
        let config = load(&path, None).unwrap();
        assert_eq!(config.ca_pem, b"the ca");
        assert!(matches!(config.token, Token::Bearer(t) if t == "t"));
        let missing = load(&path, Some("b")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(missing.contains("no entry \"b\" under contexts"), "{missing}");
    }

    #[test]
    fn a_broken_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "- not\n- a map\n").unwrap();
        assert!(merge(&path, &entry("https://x")).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "- not\n- a map\n");
    }
}
