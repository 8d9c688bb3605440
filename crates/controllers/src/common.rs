//! What several controllers share: selectors, ownership, pod states and amounts.

pub mod claim;
pub mod pods;
pub mod select;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `now` as a field of an object; the wire has whole seconds.
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// An absolute number, or a share of `total` in percent (upstream: `intstr.GetScaledValueFromIntOrPercent`). A text
/// that is no percentage counts as 0: validation refuses it earlier.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(s)) => {
            let percent: i64 = s.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let scaled = percent.saturating_mul(i64::from(total));
            let whole = if round_up { (scaled + 99).div_euclid(100) } else { scaled.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let p = |s: &str| IntOrString::String(s.into());
        assert_eq!(scaled(Some(&p("25%")), 10, true), 3);
        assert_eq!(scaled(Some(&p("25%")), 10, false), 2);
        assert_eq!(scaled(Some(&p("100%")), 3, true), 3);
        assert_eq!(scaled(Some(&IntOrString::Int(7)), 3, false), 7);
        assert_eq!(scaled(None, 3, true), 0);
    }
}
