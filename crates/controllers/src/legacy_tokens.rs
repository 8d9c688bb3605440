//! Tokens in Secrets that were made with their accounts: since when their use is written down ([`tracking`]), and that
//! those which nobody uses go ([`cleaner`]).

mod cleaner;
mod tracking;

use crate::start::Setup;
use client::controller::Handle;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// The ConfigMap that says since when.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";

/// Starts both.
pub(crate) fn start(setup: &Setup) -> [Handle; 2] {
    [tracking::start(setup), cleaner::start(setup)]
}

fn day_of(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// A day as `2006-01-02`, and nothing else.
fn day(text: &str) -> Option<Date> {
    let day: Date = text.parse().ok()?;
    (day.to_string() == text).then_some(day)
}
