//! Doubling delays (upstream: `client-go/util/flowcontrol.Backoff`).
//!
//! A delay counts from an event (a container's end, a failed pull); it doubles each time and is forgotten when the
//! event comes later than twice the longest delay after the last use.

use jiff::{SignedDuration, Timestamp};

/// First delay.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay.
pub const LONGEST: SignedDuration = SignedDuration::from_secs(300);

/// The delay of one container or image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    fn expired(event: Timestamp, last: Timestamp) -> bool {
        event.duration_since(last) > LONGEST * 2
    }

    /// Until when to wait after `event`, when that is later than `now`.
    pub fn until(&self, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let (delay, last) = self.entry?;
        if Self::expired(event, last) {
            return None;
        }
        let end = event.saturating_add(delay).unwrap_or(Timestamp::MAX);
        (now < end).then_some(end)
    }

    /// The current delay.
    pub fn delay(&self) -> SignedDuration {
        self.entry.map_or(SignedDuration::ZERO, |(d, _)| d)
    }

    /// Another attempt is made after `event`: the next delay is twice as long.
    pub fn next(&mut self, event: Timestamp, now: Timestamp) {
        let delay = match self.entry {
            Some((delay, last)) if !Self::expired(event, last) => (delay * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.entry = Some((delay, now));
    }

    pub fn reset(&mut self) {
        self.entry = None;
    }
}

/// Go's text of a whole number of seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn doubles_caps_and_forgets() {
        let mut b = Backoff::default();
        assert_eq!(b.until(at(0), at(0)), None, "the first restart is at once");
        b.next(at(0), at(0));
        assert_eq!(b.until(at(5), at(6)), Some(at(15)));
        assert_eq!(b.until(at(5), at(15)), None);
        let mut seen = vec![];
        for _ in 0..6 {
            b.next(at(20), at(20));
            seen.push(go_seconds(b.delay()));
        }
        assert_eq!(seen, ["20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
        assert_eq!(b.until(at(621), at(621)), None, "ten minutes of health forget it");
        b.next(at(621), at(621));
        assert_eq!(go_seconds(b.delay()), "10s");
    }
}
