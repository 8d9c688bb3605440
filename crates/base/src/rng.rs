//! Randomness as a parameter, seeded in simulation.

use parking_lot::Mutex;

/// The letters of generated names: no vowels and no look-alikes (upstream: apimachinery `util/rand`).
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A shared random source. Not for secrets: keys and tokens come from the TLS library's generator.
#[derive(Debug)]
pub struct Rng(Mutex<fastrand::Rng>);

impl Rng {
    /// Seeded from the operating system.
    pub fn from_os() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// A number below `bound` (0 for a bound of 0).
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.lock().u64(..bound) }
    }

    /// A fraction in `0.0..1.0`.
    pub fn fraction(&self) -> f64 {
        self.0.lock().f64()
    }

    /// The random end of a generated name: `length` letters of upstream's alphabet.
    pub fn name_suffix(&self, length: usize) -> String {
        let mut rng = self.0.lock();
        (0..length).map(|_| NAME_LETTERS[rng.usize(..NAME_LETTERS.len())] as char).collect()
    }
}

/// Letters for hashes in names, so that no bad word can appear (upstream: `rand.SafeEncodeString`).
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| NAME_LETTERS[b as usize % NAME_LETTERS.len()] as char).collect()
}
