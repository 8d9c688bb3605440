//! Encryption of values at rest: what is written to the disk or to etcd is sealed, what is in memory is plain.
//!
//! The form is that of upstream's aesgcm provider, `k8s:enc:aesgcm:v1:<key name>:`, a nonce of 12 bytes, AES-GCM with the
//! key in etcd as additional data (upstream: apiserver `pkg/storage/value/encrypt/aes#gcm`), so that a kube-apiserver with
//! the matching EncryptionConfiguration reads what is in etcd. Invariants: a value under a sealed prefix is never written
//! plain; what was written plain before is read and sealed at its next write; what no key opens is an error, never a
//! value; a sealed value moved to another key does not open.

use crate::snapshot::Record;
use crate::view::View;
use crate::wal::codec::{Action, Commit, Place};
use bytes::Bytes;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Starts every sealed value, whatever seals it (upstream: apiserver `pkg/storage/value/encrypt/identity#prefix`).
pub const SEALED_PREFIX: &str = "k8s:enc:";
/// Bytes of a key made by [`new_secret`].
pub const SECRET_BYTES: usize = 32;

const AESGCM_PREFIX: &str = "k8s:enc:aesgcm:v1:";

/// Why a value cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(
        "{what} is sealed with the key {name:?}, and there is no such key in {source_name}; put the key back there: it is \
         in a copy of that file, or with the server that wrote the store"
    )]
    Missing { what: String, name: String, source_name: String },
    #[error(
        "{what} is sealed with the key {name:?}, and the key of that name in {source_name} does not open it: it is another \
         key, or the value was changed; put the right key there, from a copy of that file"
    )]
    Wrong { what: String, name: String, source_name: String },
    #[error(
        "{what} is sealed by the provider {provider:?}; {source_name} can have the providers aesgcm and identity only"
    )]
    Provider { what: String, provider: String, source_name: String },
    #[error("the system gives no random numbers to seal {what} with")]
    Random { what: String },
}

/// A key with the name that values sealed with it carry.
pub struct Key {
    prefix: String,
    name: String,
    cipher: LessSafeKey,
}

impl Key {
    /// A key of upstream's aesgcm provider: 16 or 32 bytes.
    ///
    /// # Errors
    /// What is wrong with the name or the length.
    pub fn aesgcm(name: &str, secret: &[u8]) -> Result<Self, String> {
        if name.is_empty() {
            return Err("a key has no name".to_owned());
        }
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            24 => return Err(format!("the key {name:?} has 24 bytes; 16 and 32 are supported")),
            n => {
                return Err(format!(
                    "secret is not of the expected length, got {n}, expected one of [16 32]"
                ));
            }
        };
        let key =
            UnboundKey::new(algorithm, secret).map_err(|_| format!("the key {name:?} cannot be used"))?;
        let prefix = format!("{AESGCM_PREFIX}{name}:");
        Ok(Self { prefix, name: name.to_owned(), cipher: LessSafeKey::new(key) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends what is sealed. `None` without random numbers.
    fn seal(&self, aad: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        out.reserve(self.prefix.len() + NONCE_LEN + plain.len() + self.cipher.algorithm().tag_len());
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(&nonce);
        let body = out.len();
        out.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.cipher.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[body..]).ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(())
    }

    fn open(&self, aad: &[u8], rest: &[u8]) -> Option<Bytes> {
        let (nonce, body) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let plain = self.cipher.open_in_place(nonce, Aad::from(aad), &mut body).ok()?.len();
        body.truncate(plain);
        Some(body.into())
    }
}

/// How the values of some keys are written.
#[derive(Clone)]
pub struct Rule {
    /// What the keys start with; the rule that comes first decides.
    pub prefixes: Vec<String>,
    /// `None` writes them plain.
    pub key: Option<Arc<Key>>,
}

/// All keys, and what is sealed with which.
#[derive(Clone, Default)]
pub struct Seal {
    rules: Vec<Rule>,
    opening: Vec<Arc<Key>>,
    records: Option<Arc<Key>>,
    source: String,
}

impl Seal {
    /// Seals nothing, and refuses what is sealed.
    pub fn none() -> Self {
        Self { source: "the configuration".to_owned(), ..Self::default() }
    }

    /// `source` names the files with the keys, for messages. `opening` are keys that only open; those of rules and the
    /// one for audit records open too.
    pub fn new(
        source: impl Into<String>,
        rules: Vec<Rule>,
        records: Option<Arc<Key>>,
        opening: Vec<Arc<Key>>,
    ) -> Self {
        let own = rules.iter().filter_map(|r| r.key.clone()).chain(records.clone());
        let opening = own.chain(opening).collect();
        Self { rules, opening, records, source: source.into() }
    }

    /// Seals what is under some prefixes, and audit records, with the first of some keys, and opens with all.
    pub fn under(prefixes: &[&str], source: impl Into<String>, keys: Vec<Arc<Key>>) -> Self {
        let first = keys.first().cloned();
        let rule = Rule { prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(), key: first.clone() };
        Self::new(source, vec![rule], first, keys)
    }

    /// The bytes to write for the value of a key. `place` is what the bytes are bound to: the key in etcd.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(&self, key: &str, place: &[u8], plain: &Bytes) -> Result<Bytes, SealError> {
        Self::with(self.key_of(key), place, plain, || value_of(key))
    }

    fn key_of(&self, key: &str) -> Option<&Key> {
        let rule = self.rules.iter().find(|r| r.prefixes.iter().any(|p| key.starts_with(p.as_str())))?;
        rule.key.as_deref()
    }

    /// The value of a key that was written as these bytes.
    ///
    /// # Errors
    /// It is sealed, and no key opens it.
    pub fn open(&self, key: &str, place: &[u8], stored: &Bytes) -> Result<Bytes, SealError> {
        self.opened(place, stored, || value_of(key))
    }

    /// The bytes to write for an audit record. `place` is its key in etcd, or its number.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal_record(&self, place: &[u8], plain: &Bytes) -> Result<Bytes, SealError> {
        Self::with(self.records.as_deref(), place, plain, || A_RECORD.to_owned())
    }

    /// The audit record that was written as these bytes.
    ///
    /// # Errors
    /// It is sealed, and no key opens it.
    pub fn open_record(&self, place: &[u8], stored: &Bytes) -> Result<Bytes, SealError> {
        self.opened(place, stored, || A_RECORD.to_owned())
    }

    /// Something sealed as the first rule with a key seals, for others to try their keys on; `None` when nothing is
    /// sealed.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn sample(&self, place: &[u8]) -> Option<Result<Bytes, SealError>> {
        let key = self.sampling()?;
        Some(Self::with(Some(key), place, &Bytes::from_static(SAMPLE), || A_SAMPLE.to_owned()))
    }

    /// Looks whether a sample opens.
    ///
    /// # Errors
    /// No key opens it.
    pub fn open_sample(&self, place: &[u8], stored: &Bytes) -> Result<(), SealError> {
        self.opened(place, stored, || A_SAMPLE.to_owned()).map(drop)
    }

    /// Whether a sample is sealed with the key that seals now.
    pub fn is_current(&self, sample: &[u8]) -> bool {
        self.sampling().is_none_or(|key| sample.starts_with(key.prefix.as_bytes()))
    }

    fn sampling(&self) -> Option<&Key> {
        self.rules.iter().find_map(|r| r.key.as_deref())
    }

    fn with(
        key: Option<&Key>,
        place: &[u8],
        plain: &Bytes,
        what: impl FnOnce() -> String,
    ) -> Result<Bytes, SealError> {
        let Some(key) = key else { return Ok(plain.clone()) };
        let mut sealed = Vec::new();
        match key.seal(place, plain, &mut sealed) {
            Some(()) => Ok(sealed.into()),
            None => Err(SealError::Random { what: what() }),
        }
    }

    fn opened(
        &self,
        place: &[u8],
        stored: &Bytes,
        what: impl FnOnce() -> String,
    ) -> Result<Bytes, SealError> {
        if !is_sealed(stored) {
            return Ok(stored.clone());
        }
        let named = |k: &&Arc<Key>| stored.starts_with(k.prefix.as_bytes());
        let fitting = || self.opening.iter().filter(named);
        if let Some(plain) = fitting().find_map(|k| k.open(place, &stored[k.prefix.len()..])) {
            return Ok(plain);
        }
        let (what, source_name) = (what(), self.source.clone());
        let word = |from: usize| {
            let end = stored[from..].iter().position(|b| *b == b':').unwrap_or(0);
            String::from_utf8_lossy(&stored[from..from + end]).into_owned()
        };
        Err(if let Some(key) = fitting().next() {
            SealError::Wrong { what, name: key.name.clone(), source_name }
        } else if stored.starts_with(AESGCM_PREFIX.as_bytes()) {
            SealError::Missing { what, name: word(AESGCM_PREFIX.len()), source_name }
        } else {
            SealError::Provider { what, provider: word(SEALED_PREFIX.len()), source_name }
        })
    }

    /// Appends a commit as the log keeps it.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn write_commit(&self, commit: &Commit, out: &mut Vec<u8>) -> Result<(), SealError> {
        commit.write(out, |place, plain, out| {
            let (key, bound) = match place {
                Place::Record(number) => (self.records.as_deref(), Cow::Owned(record_place(number))),
                Place::Value(name) => (self.key_of(name), Cow::Borrowed(name.as_bytes())),
            };
            let Some(key) = key else {
                out.extend_from_slice(plain);
                return Ok(());
            };
            key.seal(&bound, plain, out).ok_or_else(|| SealError::Random {
                what: match place {
                    Place::Record(_) => A_RECORD.to_owned(),
                    Place::Value(name) => value_of(name),
                },
            })
        })
    }

    /// A commit of the log as it was.
    pub(crate) fn open_commit(&self, commit: &mut Commit) -> Result<(), SealError> {
        for change in &mut commit.changes {
            if let Action::Put(value) | Action::Delete(Some(value)) = &mut change.action {
                *value = self.open(&change.key, change.key.as_bytes(), value)?;
            }
        }
        match &mut commit.record {
            Some((number, bytes)) => {
                *bytes = self.open_record(&record_place(*number), bytes)?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Opens what a snapshot holds sealed.
    pub(crate) fn open_snapshot(&self, view: &mut View, records: &mut [Record]) -> Result<(), SealError> {
        let mut sealed = Vec::new();
        view.tree.walk(b"", &mut |item| {
            if item.newest.value.as_ref().is_some_and(|v| is_sealed(v)) {
                sealed.push(item.clone());
            }
            ControlFlow::Continue(())
        });
        for item in sealed {
            let mut item = crate::item::Item::clone(&item);
            let Some(value) = item.newest.value.take() else { continue };
            let plain = self.open(&item.key, item.key.as_bytes(), &value)?;
            view.used_bytes = (view.used_bytes + plain.len() as u64).saturating_sub(value.len() as u64);
            item.newest.value = Some(plain);
            view.tree.put(Arc::new(item));
        }
        for (number, _, bytes) in records {
            *bytes = self.open_record(&record_place(*number), bytes)?;
        }
        Ok(())
    }
}

const A_RECORD: &str = "an audit record in the store";
/// What a sample is in messages, and what is in it.
const A_SAMPLE: &str = "the sample by which servers of one cluster try their keys";
const SAMPLE: &[u8] = b"taffrail";

fn value_of(key: &str) -> String {
    format!("the value of {key} in the store")
}

/// What the record of a number in the embedded store is bound to.
pub(crate) fn record_place(number: u64) -> Vec<u8> {
    format!("audit-record/{number}").into_bytes()
}

/// Whether bytes read as something sealed: no value may that is not.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(SEALED_PREFIX.as_bytes())
}

/// A new key's bytes.
///
/// # Errors
/// The system has no random numbers.
pub fn new_secret() -> Result<[u8; SECRET_BYTES], SealError> {
    let mut secret = [0; SECRET_BYTES];
    let none = |_| SealError::Random { what: "the store".to_owned() };
    SystemRandom::new().fill(&mut secret).map_err(none)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str, byte: u8) -> Arc<Key> {
        Arc::new(Key::aesgcm(name, &[byte; 32]).unwrap())
    }

    const SECRETS: &str = "/registry/secrets/";
    const KEY: &str = "/registry/secrets/ns/a";

    #[test]
    fn values_are_bound_to_their_place_and_key() {
        let seal = Seal::under(&[SECRETS], "FILE", vec![key("k1", 1)]);
        let plain = Bytes::from_static(b"password");
        let sealed = seal.seal(KEY, KEY.as_bytes(), &plain).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:k1:"));
        assert_eq!(sealed.len(), "k8s:enc:aesgcm:v1:k1:".len() + 12 + plain.len() + 16);
        assert_ne!(sealed, seal.seal(KEY, KEY.as_bytes(), &plain).unwrap(), "a nonce was used twice");
        assert_eq!(seal.open(KEY, KEY.as_bytes(), &sealed).unwrap(), plain);
        let elsewhere = seal.open("/registry/secrets/ns/b", b"/registry/secrets/ns/b", &sealed);
        assert!(matches!(elsewhere, Err(SealError::Wrong { .. })));
        let other = "/registry/configmaps/ns/a";
        assert_eq!(seal.seal(other, other.as_bytes(), &plain).unwrap(), plain);
        assert_eq!(seal.open(other, other.as_bytes(), &plain).unwrap(), plain);
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let plain = Bytes::from_static(b"x");
        let old = Seal::under(&[SECRETS], "FILE", vec![key("old", 1)]);
        let both = Seal::under(&[SECRETS], "FILE", vec![key("new", 2), key("old", 1)]);
        let sealed = old.seal(KEY, b"p", &plain).unwrap();
        assert_eq!(both.open(KEY, b"p", &sealed).unwrap(), plain);
        let sealed = both.seal(KEY, b"p", &plain).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:new:"));
        let missing = old.open(KEY, b"p", &sealed).unwrap_err().to_string();
        assert!(
            missing.contains("\"new\"") && missing.contains("FILE") && missing.contains(KEY),
            "{missing}"
        );
        let wrong = Seal::under(&[SECRETS], "FILE", vec![key("new", 3)]).open(KEY, b"p", &sealed);
        assert!(matches!(wrong, Err(SealError::Wrong { .. })));
        let foreign = old.open(KEY, b"p", &Bytes::from_static(b"k8s:enc:kms:v2:x")).unwrap_err().to_string();
        assert!(foreign.contains("\"kms\""), "{foreign}");
        assert!(Seal::none().open(KEY, b"p", &sealed).is_err());
    }

    #[test]
    fn the_first_rule_decides() {
        let rule = |prefix: &str, key| Rule { prefixes: vec![prefix.to_owned()], key };
        let rules = vec![rule("/registry/configmaps/", None), rule("/registry/", Some(key("k", 1)))];
        let seal = Seal::new("FILE", rules, None, Vec::new());
        let plain = Bytes::from_static(b"x");
        assert_eq!(seal.seal("/registry/configmaps/ns/a", b"p", &plain).unwrap(), plain);
        assert!(is_sealed(&seal.seal("/registry/pods/ns/a", b"p", &plain).unwrap()));
    }

    #[test]
    fn keys_are_of_upstreams_lengths() {
        assert!(Key::aesgcm("k", &[0; 16]).is_ok());
        assert!(Key::aesgcm("k", &[0; 24]).is_err_and(|e| e.contains("16 and 32")));
        assert!(Key::aesgcm("k", &[0; 31]).is_err_and(|e| e.contains("got 31")));
        assert!(Key::aesgcm("", &[0; 32]).is_err());
    }

    proptest! {
        #[test]
        fn any_sealed_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let seal = Seal::under(&[SECRETS], "FILE", vec![key("k", 1)]);
            for head in ["k8s:enc:", "k8s:enc:aesgcm:v1:", "k8s:enc:aesgcm:v1:k:"] {
                let stored: Bytes = [head.as_bytes(), &bytes[..]].concat().into();
                prop_assert!(seal.open(KEY, b"p", &stored).is_err());
            }
        }
    }
}
