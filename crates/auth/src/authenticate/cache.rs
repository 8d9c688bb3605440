//! Results of verification, remembered for a while (upstream: apiserver `pkg/authentication/token/cache`).

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// How long a good token is not looked at again; also how long a deleted pod's token goes on working, in seconds
/// (upstream: `TokenSuccessCacheTTL`).
pub(crate) const SECONDS: i64 = 10;
/// Results remembered at a time; when there are more, all are forgotten.
const ENTRIES_MAX: usize = 8192;

pub(crate) type Key = [u8; 32];

/// Results by what they are of.
pub(crate) struct Cache<T>(Mutex<HashMap<Key, (Timestamp, T)>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Cache<T> {
    /// The key of a credential, for some audiences. Credentials are kept as digests only.
    pub(crate) fn key(credential: &[u8], audiences: &[String]) -> Key {
        let mut hash = Sha256::new();
        for part in std::iter::once(credential).chain(audiences.iter().map(String::as_bytes)) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    pub(crate) fn get(&self, key: &Key, now: Timestamp) -> Option<T> {
        let all = self.0.lock();
        let (until, found) = all.get(key)?;
        (now < *until).then(|| found.clone())
    }

    /// Remembers a result for some seconds, never beyond the credential's own end.
    pub(crate) fn put(&self, key: Key, found: T, seconds: i64, expires: Timestamp, now: Timestamp) {
        let until = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now).min(expires);
        if until <= now {
            return;
        }
        let mut all = self.0.lock();
        if all.len() >= ENTRIES_MAX {
            all.retain(|_, (until, _)| now < *until);
        }
        if all.len() >= ENTRIES_MAX {
            all.clear();
        }
        all.insert(key, (until, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::Known;

    #[test]
    fn results_end_in_seconds_and_with_their_token() {
        let c = Cache::default();
        let now = Timestamp::UNIX_EPOCH;
        let at = |s: i64| now + SignedDuration::from_secs(s);
        let key = Cache::<Known>::key(b"t", &["a".into()]);
        c.put(key, Known::default(), SECONDS, at(1000), now);
        assert!(c.get(&key, at(9)).is_some() && c.get(&key, at(10)).is_none());
        c.put(key, Known::default(), SECONDS, at(3), now);
        assert!(c.get(&key, at(2)).is_some() && c.get(&key, at(3)).is_none());
        for other in [(&b"t"[..], vec![]), (b"ta", vec![]), (b"t", vec!["a".into(), String::new()])] {
            assert!(c.get(&Cache::<Known>::key(other.0, &other.1), now).is_none());
        }
    }

    #[test]
    fn memory_is_bounded() {
        let c = Cache::default();
        let now = Timestamp::UNIX_EPOCH;
        for i in 0..3 * ENTRIES_MAX {
            let key = Cache::<Known>::key(i.to_string().as_bytes(), &[]);
            c.put(key, Known::default(), SECONDS, Timestamp::MAX, now);
        }
        assert!(c.0.lock().len() <= ENTRIES_MAX);
    }
}
