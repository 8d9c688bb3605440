//! Results of verification, remembered for seconds (upstream: apiserver `pkg/authentication/token/cache`).

use super::Known;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// How long a good token is not looked at again; also how long a deleted pod's token goes on working
/// (upstream: `TokenSuccessCacheTTL`).
const SECONDS: i64 = 10;
/// Credentials remembered at a time; when there are more, all are forgotten.
const ENTRIES_MAX: usize = 4096;

type Key = [u8; 32];

#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Key, (Timestamp, Known)>>);

impl Cache {
    /// The key of a credential, for some audiences. Credentials are kept as digests only.
    pub(super) fn key(credential: &[u8], audiences: &[String]) -> Key {
        let mut hash = Sha256::new();
        for part in std::iter::once(credential).chain(audiences.iter().map(String::as_bytes)) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Known> {
        let all = self.0.lock();
        let (until, known) = all.get(key)?;
        (now < *until).then(|| known.clone())
    }

    /// Remembers a result, never beyond the credential's own end.
    pub(super) fn put(&self, key: Key, known: Known, expires: Timestamp, now: Timestamp) {
        let until = now.saturating_add(SignedDuration::from_secs(SECONDS)).unwrap_or(now).min(expires);
        let mut all = self.0.lock();
        if all.len() >= ENTRIES_MAX {
            all.retain(|_, (until, _)| now < *until);
        }
        if all.len() >= ENTRIES_MAX {
            all.clear();
        }
        all.insert(key, (until, known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_end_in_seconds_and_with_their_token() {
        let c = Cache::default();
        let now = Timestamp::UNIX_EPOCH;
        let at = |s: i64| now + SignedDuration::from_secs(s);
        let key = Cache::key(b"t", &["a".into()]);
        c.put(key, Known::default(), at(1000), now);
        assert!(c.get(&key, at(9)).is_some() && c.get(&key, at(10)).is_none());
        c.put(key, Known::default(), at(3), now);
        assert!(c.get(&key, at(2)).is_some() && c.get(&key, at(3)).is_none());
        for other in
            [Cache::key(b"t", &[]), Cache::key(b"ta", &[]), Cache::key(b"t", &["a".into(), String::new()])]
        {
            assert!(c.get(&other, now).is_none());
        }
    }

    #[test]
    fn memory_is_bounded() {
        let c = Cache::default();
        let now = Timestamp::UNIX_EPOCH;
        for i in 0..3 * ENTRIES_MAX {
            c.put(Cache::key(i.to_string().as_bytes(), &[]), Known::default(), Timestamp::MAX, now);
        }
        assert!(c.0.lock().len() <= ENTRIES_MAX);
    }
}
