//! Cron schedules: reading them and telling the next time (upstream: `robfig/cron/v3#ParseStandard`, `SpecSchedule.Next`).
//!
//! Invariant: a [`Schedule`] has its five fields within their bounds; texts of errors are upstream's.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Set in a field's bits when it was written as `*` or `?`.
const STAR: u64 = 1 << 63;
/// How far ahead a time is looked for, in years.
const YEARS_AHEAD_MAX: i16 = 5;

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: MONTHS },
    Bounds { min: 0, max: 6, names: DAYS },
];

/// When something happens again and again.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// At the minutes whose parts are all in the sets of bits.
    Spec(Spec),
    /// Each time after this much, in whole seconds, at least one.
    Every(SignedDuration),
}

/// The sets of a written schedule: bit n stands for the value n.
#[derive(Clone, Debug)]
pub struct Spec {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Of `TZ=` or `CRON_TZ=` in front.
    zone: Option<TimeZone>,
}

impl Schedule {
    /// Reads five fields, a descriptor such as `@daily`, or `@every 1h30m`, with a time zone in front at will.
    ///
    /// # Errors
    /// Upstream's text of what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let (text, zone) = time_zone(text)?;
        if text.starts_with('@') {
            return descriptor(text, zone);
        }
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            let (n, shown) = (parts.len(), parts.join(" "));
            return Err(format!("expected exactly 5 fields, found {n}: [{shown}]"));
        };
        Ok(Self::Spec(Spec {
            minute: set(minute, &FIELDS[0])?,
            hour: set(hour, &FIELDS[1])?,
            day: set(day, &FIELDS[2])?,
            month: set(month, &FIELDS[3])?,
            weekday: set(weekday, &FIELDS[4])?,
            zone,
        }))
    }

    /// The first time after `after`; times of day are those of `zone` unless the schedule names its own.
    /// `None` when there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(delay) => whole_second(after)?.checked_add(*delay).ok(),
            Self::Spec(spec) => spec.next(after, spec.zone.as_ref().unwrap_or(zone)),
        }
    }
}

/// Why a text is no schedule, in upstream's words; `None` when it is one.
pub fn error(text: &str) -> Option<String> {
    Schedule::parse(text).err()
}

/// Whether a time zone is known by exactly this name, as Go finds it among its files.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok().filter(|zone| zone.iana_name() == Some(name))
}

fn time_zone(text: &str) -> Result<(&str, Option<TimeZone>), String> {
    let Some(named) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok((text, None));
    };
    let Some((name, rest)) = named.split_once(' ') else {
        // What Go's panic says; upstream recovers from it.
        return Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".to_owned());
    };
    let found = match name {
        "" | "UTC" => Some(TimeZone::UTC),
        "Local" => None,
        name => {
            let why = || format!("provided bad location {name}: unknown time zone {name}");
            Some(zone(name).ok_or_else(why)?)
        }
    };
    Ok((rest.trim(), found))
}

fn descriptor(text: &str, zone: Option<TimeZone>) -> Result<Schedule, String> {
    let all = |b: &Bounds| bits(b.min, b.max, 1) | STAR;
    let first = |b: &Bounds| 1u64 << b.min;
    let [minute, hour, day, month, weekday] = &FIELDS;
    let (hour, day, month, weekday) = match text {
        "@yearly" | "@annually" => (first(hour), first(day), first(month), all(weekday)),
        "@monthly" => (first(hour), first(day), all(month), all(weekday)),
        "@weekly" => (first(hour), all(day), all(month), first(weekday)),
        "@daily" | "@midnight" => (first(hour), all(day), all(month), all(weekday)),
        "@hourly" => (all(hour), all(day), all(month), all(weekday)),
        _ => return every(text),
    };
    Ok(Schedule::Spec(Spec { minute: first(minute), hour, day, month, weekday, zone }))
}

fn every(text: &str) -> Result<Schedule, String> {
    let Some(duration) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    // Go takes a sign, and what comes out is a second at least.
    let unsigned = duration.strip_prefix('-').unwrap_or(duration);
    let seconds = match meta::time::parse_duration(unsigned) {
        Ok(_) if duration.starts_with('-') => 1,
        Ok(d) => i64::try_from(d.as_secs()).unwrap_or(i64::MAX).max(1),
        Err(why) => return Err(format!("failed to parse duration {text}: {why}")),
    };
    Ok(Schedule::Every(SignedDuration::from_secs(seconds)))
}

/// A list of ranges.
fn set(field: &str, bounds: &Bounds) -> Result<u64, String> {
    field.split(',').filter(|e| !e.is_empty()).try_fold(0, |all, expr| Ok(all | range(expr, bounds)?))
}

/// `*`, `?`, `a`, `a-b`, each with `/step`; `a/step` goes on to the end.
fn range(expr: &str, bounds: &Bounds) -> Result<u64, String> {
    let parts: Vec<&str> = expr.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let star = ends[0] == "*" || ends[0] == "?";
    let (low, mut high) = match ends[..] {
        _ if star => (bounds.min, bounds.max),
        [one] => {
            let n = number(one, bounds)?;
            (n, n)
        }
        [low, high] => (number(low, bounds)?, number(high, bounds)?),
        _ => {
            number(ends[0], bounds)?;
            return Err(format!("too many hyphens: {expr}"));
        }
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = integer(step)?;
            if ends.len() == 1 {
                high = bounds.max;
            }
            step
        }
        _ => return Err(format!("too many slashes: {expr}")),
    };
    let (min, max) = (bounds.min, bounds.max);
    if low < min {
        return Err(format!("beginning of range ({low}) below minimum ({min}): {expr}"));
    } else if high > max {
        return Err(format!("end of range ({high}) above maximum ({max}): {expr}"));
    } else if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {expr}"));
    } else if step == 0 {
        return Err(format!("step of range should be a positive number: {expr}"));
    }
    Ok(bits(low, high, step) | if star && step == 1 { STAR } else { 0 })
}

fn bits(low: u64, high: u64, step: u64) -> u64 {
    (low..=high).filter(|n| (n - low).is_multiple_of(step)).fold(0, |all, n| all | 1u64 << n)
}

fn number(text: &str, bounds: &Bounds) -> Result<u64, String> {
    match bounds.names.iter().zip(bounds.min..).find(|(name, _)| text.eq_ignore_ascii_case(name)) {
        Some((_, n)) => Ok(n),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u64, String> {
    let refused =
        |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}");
    match text.parse::<i64>() {
        Ok(n) => u64::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}")),
        Err(e)
            if matches!(
                e.kind(),
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
            ) =>
        {
            Err(refused("value out of range"))
        }
        Err(_) => Err(refused("invalid syntax")),
    }
}

fn whole_second(at: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(at.as_nanosecond().div_euclid(1_000_000_000).try_into().ok()?).ok()
}

fn has(set: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| n < 63 && set & (1 << n) != 0)
}

impl Spec {
    /// Steps through months, days, hours and minutes as upstream does, so that hours that a change of the clock leaves
    /// out or repeats are treated alike.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // A field such as "," has no value at all.
        if [self.minute, self.hour, self.day, self.month, self.weekday].iter().any(|s| s & !STAR == 0) {
            return None;
        }
        let start = whole_second(after)?.checked_add(SignedDuration::from_secs(1)).ok()?;
        let mut at = start.to_zoned(zone.clone());
        let last = at.year().saturating_add(YEARS_AHEAD_MAX);
        let mut reset = false;
        while at.year() <= last {
            match self.step(&mut at, &mut reset, zone)? {
                true => return Some(at.timestamp()),
                false => continue,
            }
        }
        None
    }

    /// Goes on to the next time that may match; `false` when a part began anew and all must be looked at again.
    fn step(&self, at: &mut Zoned, reset: &mut bool, zone: &TimeZone) -> Option<bool> {
        // Where midnight does not exist, the day begins at the hour that the clocks go to.
        let midnight = |date: Date| DateTime::from_parts(date, Time::midnight()).to_zoned(zone.clone()).ok();
        while !has(self.month, at.month()) {
            *reset = true;
            let next = at.date().last_of_month().tomorrow().ok()?;
            *at = midnight(next)?;
            if at.month() == 1 {
                return Some(false);
            }
        }
        while !self.day_matches(at) {
            *reset = true;
            *at = midnight(at.date().tomorrow().ok()?)?;
            if at.day() == 1 {
                return Some(false);
            }
        }
        let mut advance = |unit: i64, drop: i64, at: &mut Zoned| {
            if !*reset {
                *reset = true;
                *at = at.checked_sub(SignedDuration::from_secs(drop)).ok()?;
            }
            *at = at.checked_add(SignedDuration::from_secs(unit)).ok()?;
            Some(())
        };
        while !has(self.hour, at.hour()) {
            let past = i64::from(at.minute()) * 60 + i64::from(at.second());
            advance(3600, past, at)?;
            if at.hour() == 0 {
                return Some(false);
            }
        }
        while !has(self.minute, at.minute()) {
            let past = i64::from(at.second());
            advance(60, past, at)?;
            if at.minute() == 0 {
                return Some(false);
            }
        }
        while at.second() != 0 {
            advance(1, 0, at)?;
            if at.second() == 0 {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Both a day of the month and a day of the week, unless both are restricted: then either.
    fn day_matches(&self, at: &Zoned) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if self.day & STAR != 0 || self.weekday & STAR != 0 { day && weekday } else { day || weekday }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_schedule() {
        for good in [
            "* * * * *",
            "*/5 0-6 1,15 jan-mar MON",
            "@hourly",
            "@every 1h30m",
            "0 0 ? * 0",
            "5/15 * * * *",
            "*-5 * * * *",
            "TZ=UTC 0 5 * * *",
        ] {
            assert_eq!(error(good), None, "{good}");
        }
        for (bad, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("@never", "unrecognized descriptor: @never"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("TZ=0", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
            ("TZ=Nowhere/At 0 5 * * *", "provided bad location Nowhere/At: unknown time zone Nowhere/At"),
        ] {
            assert_eq!(error(bad).as_deref(), Some(why), "{bad}");
        }
    }

    /// Upstream: `spec_test.go#TestNext`.
    #[test]
    fn next_times() {
        for (from, spec, next) in [
            ("2012-07-09T14:45:00Z", "0/15 * * * *", "2012-07-09T15:00:00Z"),
            ("2012-07-09T14:59:59Z", "0/15 * * * *", "2012-07-09T15:00:00Z"),
            ("2012-07-09T15:45:00Z", "20-35/15 * * * *", "2012-07-09T16:20:00Z"),
            ("2012-07-09T23:46:00Z", "*/15 * * * *", "2012-07-10T00:00:00Z"),
            ("2012-07-09T23:35:51Z", "20-35/15 1-2 * * *", "2012-07-10T01:20:00Z"),
            ("2012-07-09T23:35:00Z", "0 0 */5 jul-oct *", "2012-07-11T00:00:00Z"),
            ("2012-07-09T23:35:00Z", "0 0 9 apr-oct ?", "2012-08-09T00:00:00Z"),
            ("2012-07-09T23:35:00Z", "0 0 9 apr-oct MON", "2012-07-16T00:00:00Z"),
            ("2012-07-09T23:35:00Z", "0 0 * feb Mon", "2013-02-04T00:00:00Z"),
            ("2012-07-09T23:35:00Z", "0 0 29 feb ?", "2016-02-29T00:00:00Z"),
            ("2012-12-31T23:59:45Z", "* * * * *", "2013-01-01T00:00:00Z"),
            ("2012-07-09T14:45:00.5Z", "@every 5s", "2012-07-09T14:45:05Z"),
            ("2012-07-09T14:45:00Z", "@yearly", "2013-01-01T00:00:00Z"),
        ] {
            let schedule = Schedule::parse(spec).unwrap();
            let got = schedule.next(from.parse().unwrap(), &TimeZone::UTC);
            assert_eq!(got, Some(next.parse().unwrap()), "{from} {spec}");
        }
        for never in ["0 0 30 feb ?", "0 0 31 apr ?", ", * * * *"] {
            let schedule = Schedule::parse(never).unwrap();
            assert_eq!(schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None, "{never}");
        }
    }

    /// Clocks that go forward leave an hour out, going back they repeat one (upstream: `TestNext`).
    #[test]
    fn clocks_that_change() {
        let rule = "EST5EDT,M3.2.0,M11.1.0";
        let zone = TimeZone::posix(rule).unwrap();
        for (from, spec, next) in [
            ("2012-03-11T00:00:00-05:00", "30 2 11 mar ?", "2013-03-11T02:30:00-04:00"),
            ("2012-03-11T00:00:00-05:00", "0 * * * ?", "2012-03-11T01:00:00-05:00"),
            ("2012-03-11T01:00:00-05:00", "0 * * * ?", "2012-03-11T03:00:00-04:00"),
            ("2012-11-04T01:30:00-04:00", "0 * * * ?", "2012-11-04T01:00:00-05:00"),
            ("2012-11-04T00:00:00-04:00", "30 2 04 nov ?", "2012-11-04T02:30:00-05:00"),
        ] {
            let got = Schedule::parse(spec).unwrap().next(from.parse().unwrap(), &zone);
            assert_eq!(got, Some(next.parse().unwrap()), "{from} {spec}");
        }
    }
}
