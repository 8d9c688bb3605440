//! Cron schedules: their text, and the next time after another one.
//!
//! Invariant: [`Schedule::next`] gives a time after the one asked for, or none within five years.
//! upstream: `github.com/robfig/cron/v3` (`parser.go`, `spec.go`, `constantdelay.go`)

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use meta::field::quoted;

/// Set in a field that was given as `*` or `?`.
const STAR: u64 = 1 << 63;
/// Years that are searched for a next time.
const YEARS: i16 = 5;

struct Bounds {
    min: u32,
    max: u32,
    /// Names of the values from `min` on.
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A parsed schedule.
#[derive(Clone, Debug)]
pub struct Schedule(Inner);

#[derive(Clone, Debug)]
enum Inner {
    /// Every so many seconds.
    Every(SignedDuration),
    Fields {
        fields: Fields,
        zone: TimeZone,
    },
}

/// A bit for each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
}

/// The time zone of this name.
///
/// # Errors
/// Go's text for one that is not known.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    match name {
        // the zone of the program is UTC
        "" | "UTC" | "Local" => return Ok(TimeZone::UTC),
        n if n.contains("..") || n.starts_with(['/', '\\']) => {
            return Err("time: invalid location name".to_owned());
        }
        _ => {}
    }
    let known = jiff::tz::db().get(name).ok();
    // names are found in any case, but are only right in one
    let known = known.filter(|z| z.iana_name() == Some(name));
    known.ok_or_else(|| format!("unknown time zone {name}"))
}

/// Why a text is no schedule, in upstream's words; `None` when it is one.
pub fn error(text: &str) -> Option<String> {
    Schedule::parse(text, &TimeZone::UTC).err()
}

impl Schedule {
    /// Reads `minute hour day month weekday`, `@hourly` and the like, or `@every 1h30m`. A text that begins with `TZ=` or
    /// `CRON_TZ=` says its own zone.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn parse(text: &str, default_zone: &TimeZone) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let (mut rest, mut zone_of) = (text, default_zone.clone());
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (_, after) = text.split_once('=').unwrap_or_default();
            let Some((name, spec)) = after.split_once(' ') else {
                return Err(
                    "invalid schedule format: runtime error: slice bounds out of range [:-1]".to_owned()
                );
            };
            zone_of = zone(name).map_err(|e| format!("provided bad location {name}: {e}"))?;
            rest = spec.trim();
        }
        if rest.starts_with('@') {
            return descriptor(rest, zone_of);
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let found = fields.len();
            return Err(format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" ")));
        };
        let fields = Fields {
            minute: field(minute, &MINUTES)?,
            hour: field(hour, &HOURS)?,
            day: field(day, &DAYS)?,
            month: field(month, &MONTHS)?,
            weekday: field(weekday, &WEEKDAYS)?,
        };
        Ok(Self(Inner::Fields { fields, zone: zone_of }))
    }

    /// The first time after `t`; `None` when there is none within five years.
    pub fn next(&self, t: Timestamp) -> Option<Timestamp> {
        let whole = Timestamp::from_second(t.as_second()).ok()?;
        match &self.0 {
            Inner::Every(delay) => whole.checked_add(*delay).ok(),
            Inner::Fields { fields, zone } => fields.next(whole.checked_add(1.second()).ok()?, zone),
        }
    }
}

fn descriptor(text: &str, zone: TimeZone) -> Result<Schedule, String> {
    let first = |b: &Bounds| 1u64 << b.min;
    let all = |b: &Bounds| bits(b.min, b.max, 1) | STAR;
    let mut fields = Fields {
        minute: first(&MINUTES),
        hour: first(&HOURS),
        day: first(&DAYS),
        month: first(&MONTHS),
        weekday: all(&WEEKDAYS),
    };
    match text {
        "@yearly" | "@annually" => {}
        "@monthly" => fields.month = all(&MONTHS),
        "@weekly" => {
            (fields.day, fields.month) = (all(&DAYS), all(&MONTHS));
            fields.weekday = first(&WEEKDAYS);
        }
        "@daily" | "@midnight" => (fields.day, fields.month) = (all(&DAYS), all(&MONTHS)),
        "@hourly" => {
            (fields.day, fields.month, fields.hour) = (all(&DAYS), all(&MONTHS), all(&HOURS));
        }
        _ => {
            let Some(every) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            // less than a second, or less than nothing, is a second
            let (negative, amount) = every.strip_prefix('-').map_or((false, every), |e| (true, e));
            let parsed = meta::time::parse_duration(amount)
                .map_err(|e| format!("failed to parse duration {text}: {e}"))?;
            let seconds =
                if negative { 1 } else { i64::try_from(parsed.as_secs()).unwrap_or(i64::MAX).max(1) };
            return Ok(Schedule(Inner::Every(SignedDuration::from_secs(seconds))));
        }
    }
    Ok(Schedule(Inner::Fields { fields, zone }))
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let mut out = 0;
    for part in text.split(',').filter(|p| !p.is_empty()) {
        out |= range(part, bounds)?;
    }
    Ok(out)
}

/// `*`, `a`, `a-b`, each also with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let slashed: Vec<&str> = text.split('/').collect();
    let limits: Vec<&str> = slashed[0].split('-').collect();
    let (start, mut end, mut extra) = match limits[..] {
        ["*" | "?", ..] => (bounds.min, bounds.max, STAR),
        [one] => (value(one, bounds)?, value(one, bounds)?, 0),
        [low, high] => (value(low, bounds)?, value(high, bounds)?, 0),
        _ => {
            value(limits[0], bounds)?;
            return Err(format!("too many hyphens: {text}"));
        }
    };
    let step = match slashed[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if limits.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                extra = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(bits(start, end, step) | extra)
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = bounds.names.iter().position(|n| n.eq_ignore_ascii_case(text));
    match named.and_then(|n| u32::try_from(n).ok()) {
        Some(n) => Ok(n + bounds.min),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let parsed = if digits.starts_with(['+', '-']) { None } else { text.parse::<i64>().ok() };
    let Some(n) = parsed else {
        let why = if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            "value out of range"
        } else {
            "invalid syntax"
        };
        return Err(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {quoted}: {why}",
            quoted = quoted(text)
        ));
    };
    if n < 0 {
        return Err(format!("negative number ({n}) not allowed: {text}"));
    }
    // what is too large for the field is too large here as well
    Ok(u32::try_from(n).unwrap_or(u32::MAX))
}

fn bits(start: u32, end: u32, step: u32) -> u64 {
    (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |b, i| b | 1 << i)
}

/// A time with its parts in a zone.
#[derive(Clone, Copy)]
struct Local {
    at: Timestamp,
    civil: jiff::civil::DateTime,
}

impl Local {
    fn of(at: Timestamp, zone: &TimeZone) -> Self {
        Self { at, civil: zone.to_datetime(at) }
    }

    /// Midnight or another whole hour of a date; where clocks jump over it, Go's choice (upstream: `time.Date`).
    fn on(date: Date, hour: i8, zone: &TimeZone) -> Option<Self> {
        let as_utc = date.at(hour, 0, 0, 0).to_zoned(TimeZone::UTC).ok()?.timestamp();
        let shift = |by: SignedDuration| as_utc.checked_sub(by).ok();
        let offset = |t: Timestamp| SignedDuration::from_secs(zone.to_offset(t).seconds().into());
        let guess = offset(as_utc);
        let at = if guess.is_zero() { as_utc } else { shift(offset(shift(guess)?))? };
        Some(Self::of(at, zone))
    }

    fn plus(self, seconds: i64, zone: &TimeZone) -> Option<Self> {
        Some(Self::of(self.at.checked_add(SignedDuration::from_secs(seconds)).ok()?, zone))
    }
}

impl Fields {
    /// The first match at or after `from`: each part is counted up until it matches, and when one wraps around the
    /// larger ones are looked at again. Clock changes are met as upstream meets them.
    fn next(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let empty = |f: u64| f & !STAR == 0;
        if [self.minute, self.hour, self.day, self.month, self.weekday].into_iter().any(empty) {
            return None;
        }
        let mut t = Local::of(from, zone);
        let last_year = t.civil.year().checked_add(YEARS)?;
        let mut moved = false;
        'wrap: loop {
            if t.civil.year() > last_year {
                return None;
            }
            while !has(self.month, t.civil.month()) {
                t = Local::on(
                    next_month(if moved { t.civil.date() } else { t.civil.date().first_of_month() })?,
                    0,
                    zone,
                )?;
                moved = true;
                if t.civil.month() == 1 {
                    continue 'wrap;
                }
            }
            while !self.day_matches(t.civil.date()) {
                t = self.next_day(t, &mut moved, zone)?;
                if t.civil.day() == 1 {
                    continue 'wrap;
                }
            }
            while !has(self.hour, t.civil.hour()) {
                if !std::mem::replace(&mut moved, true) {
                    t = Local::on(t.civil.date(), t.civil.hour(), zone)?;
                }
                t = t.plus(3600, zone)?;
                if t.civil.hour() == 0 {
                    continue 'wrap;
                }
            }
            while !has(self.minute, t.civil.minute()) {
                if !std::mem::replace(&mut moved, true) {
                    t = t.plus(-t.at.as_second().rem_euclid(60), zone)?;
                }
                t = t.plus(60, zone)?;
                if t.civil.minute() == 0 {
                    continue 'wrap;
                }
            }
            // seconds: only the first of a minute
            if t.civil.second() != 0 {
                let left = 60 - i64::from(t.civil.second());
                t = t.plus(left, zone)?;
                moved = true;
                continue 'wrap;
            }
            return Some(t.at);
        }
    }

    /// The next midnight; where clocks jump over it, the hour that is nearest.
    fn next_day(&self, t: Local, moved: &mut bool, zone: &TimeZone) -> Option<Local> {
        let mut hour = t.civil.hour();
        if !std::mem::replace(moved, true) {
            hour = Local::on(t.civil.date(), 0, zone)?.civil.hour();
        }
        let next = Local::on(t.civil.date().checked_add(1.day()).ok()?, hour, zone)?;
        match i64::from(next.civil.hour()) {
            0 => Some(next),
            h if h > 12 => next.plus((24 - h) * 3600, zone),
            h => next.plus(-h * 3600, zone),
        }
    }

    /// With both days restricted, one of them suffices.
    fn day_matches(&self, date: Date) -> bool {
        let day = has(self.day, date.day());
        let weekday = has(self.weekday, date.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & STAR != 0 { day && weekday } else { day || weekday }
    }
}

fn has(field: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|v| field & (1 << v) != 0)
}

/// The same day of the next month; one that does not exist runs over into the month after.
fn next_month(date: Date) -> Option<Date> {
    let first = date.first_of_month().checked_add(1.month()).ok()?;
    first.checked_add(i64::from(date.day() - 1).days()).ok()
}

#[cfg(test)]
mod tests;
