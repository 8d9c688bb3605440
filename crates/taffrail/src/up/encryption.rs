//! Which keys seal what in the store: the server's own key file, and upstream's EncryptionConfiguration.
//!
//! Invariant: a new key is on disk before anything is sealed with it, and never replaces one that is there.

mod configuration;

use crate::config::UpOptions;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::seal::{Key, Seal, new_secret};

/// The server's own keys, below the data directory.
pub const KEY_FILE: &str = "pki/encryption.key";

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Letters that tell one generated key's name from another's.
const NAME_LETTERS: usize = 8;

const HEAD: &str = "\
# What seals Secrets and audit records in the store (AES-256-GCM). Without it the store does not open: keep a copy.
# A line is a name and 32 bytes in base64. The first key seals; those below it, older ones, only open.
";

/// The keys in force.
pub struct Encryption {
    pub seal: Arc<Seal>,
    /// The own key file that is still to be written.
    new: Option<(PathBuf, String)>,
}

impl Encryption {
    /// Reads the own keys, or makes one, and what `--encryption-provider-config` names.
    ///
    /// # Errors
    /// A file cannot be read or says something that cannot be done.
    pub fn load(options: &UpOptions) -> Result<Self, String> {
        let path = options.data_dir.join(KEY_FILE);
        let (own, new) = own_keys(&path)?;
        let seal = match &options.encryption_provider_config {
            None => {
                let prefix = secrets_prefix()?;
                Seal::under(&[&prefix], path.display().to_string(), own)
            }
            Some(file) => {
                let wrong = |e: String| format!("--encryption-provider-config {}: {e}", file.display());
                let configured = configuration::parse(&read(file).map_err(wrong)?).map_err(wrong)?;
                let source = format!("{} or {}", file.display(), path.display());
                let records = own.first().cloned();
                let opening = configured.keys.into_iter().chain(own).collect();
                Seal::new(source, configured.rules, records, opening)
            }
        };
        Ok(Self { seal: Arc::new(seal), new: new.map(|text| (path, text)) })
    }

    /// Writes the own key file, when there was none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self) -> Result<(), String> {
        match &self.new {
            Some((path, text)) => write_new(path, text).map_err(|e| format!("write {}: {e}", path.display())),
            None => Ok(()),
        }
    }
}

/// Where Secrets are in the store.
fn secrets_prefix() -> Result<String, String> {
    let table = kinds::table();
    let row = table.iter().find(|k| k.group.is_empty() && k.plural == "secrets");
    row.map(|k| k.key_prefix()).ok_or_else(|| "there is no kind of Secrets".to_owned())
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// The own keys; with the text of a new file when there was none.
fn own_keys(path: &Path) -> Result<(Vec<Arc<Key>>, Option<String>), String> {
    let wrong = |e: String| format!("the encryption keys in {}: {e}", path.display());
    match fs::exists(path) {
        Ok(true) => Ok((parse_keys(&read(path).map_err(wrong)?).map_err(wrong)?, None)),
        Err(error) => Err(wrong(error.to_string())),
        Ok(false) => {
            let secret = new_secret().map_err(|e| wrong(e.to_string()))?;
            let mut letters = new_secret().map_err(|e| wrong(e.to_string()))?.map(|b| b'a' + b % 26).to_vec();
            letters.truncate(NAME_LETTERS);
            let name = format!("taffrail-{}", String::from_utf8_lossy(&letters));
            let text = format!("{HEAD}{name} {}\n", STANDARD.encode(secret));
            Ok((parse_keys(&text).map_err(wrong)?, Some(text)))
        }
    }
}

fn parse_keys(text: &str) -> Result<Vec<Arc<Key>>, String> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |e: &str| format!("line {}: {e}", number + 1);
        let (name, secret) =
            line.split_once(char::is_whitespace).ok_or_else(|| at("expected a name and a key in base64"))?;
        let secret = STANDARD.decode(secret.trim()).map_err(|_| at("secrets must be base64 encoded"))?;
        keys.push(Arc::new(Key::aesgcm(name, &secret).map_err(|e| at(&e))?));
    }
    if keys.is_empty() {
        return Err("there is no key; put the file back from a copy, or remove it if nothing was sealed yet"
            .to_owned());
    }
    Ok(keys)
}

/// Writes a file that must not exist, durably, for its owner only.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().ok_or(ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    match fs::remove_file(&tmp) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&tmp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link fails where a rename would replace what another start has just made.
    fs::hard_link(&tmp, path)?;
    fs::remove_file(&tmp)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(KEY_FILE);
        let (made, new) = own_keys(&path).expect("made");
        let text = new.expect("new");
        assert!(!path.exists(), "written before the store is open");
        write_new(&path, &text).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let (read, new) = own_keys(&path).expect("read");
        assert!(new.is_none());
        assert_eq!(read[0].name(), made[0].name());
        assert!(write_new(&path, "other").is_err(), "replaced");
        assert_eq!(fs::read_to_string(&path).expect("there"), text);
    }

    #[test]
    fn several_keys_and_mistakes() {
        let secret = STANDARD.encode([1; 32]);
        let keys = parse_keys(&format!("# c\n\nnew {secret}\nold   {secret}\n")).expect("read");
        assert_eq!(keys.iter().map(|k| k.name()).collect::<Vec<_>>(), ["new", "old"]);
        for (text, part) in
            [("", "no key"), ("a", "line 1"), ("a !", "base64"), ("\na AAAA", "line 2: secret is not")]
        {
            let why = parse_keys(text).err().unwrap_or_default();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
