//! Times and lengths of time (cel-go: `common/types/{timestamp,duration}.go`).

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

macro_rules! getter {
    ($name:literal, $run:expr, $id:literal) => {
        Row {
            name: $name,
            run: $run,
            overloads: &[
                (concat!("timestamp_to_", $id), "timestamp.() -> int"),
                (concat!("timestamp_to_", $id, "_with_tz"), "timestamp.(string) -> int"),
            ],
        }
    };
    ($name:literal, $run:expr, $id:literal, duration) => {
        Row {
            name: $name,
            run: $run,
            overloads: &[
                (concat!("timestamp_to_", $id), "timestamp.() -> int"),
                (concat!("timestamp_to_", $id, "_with_tz"), "timestamp.(string) -> int"),
                (concat!("duration_to_", $id), "duration.() -> int"),
            ],
        }
    };
}

pub const ROWS: &[Row] = &[
    getter!("getFullYear", |a| get(a, |z| z.year().into(), None), "year"),
    getter!("getMonth", |a| get(a, |z| i64::from(z.month()) - 1, None), "month"),
    getter!("getDayOfYear", |a| get(a, |z| i64::from(z.day_of_year()) - 1, None), "day_of_year"),
    getter!("getDayOfMonth", |a| get(a, |z| i64::from(z.day()) - 1, None), "day_of_month"),
    getter!("getDate", |a| get(a, |z| z.day().into(), None), "day_of_month_1_based"),
    getter!("getDayOfWeek", |a| get(a, |z| z.weekday().to_sunday_zero_offset().into(), None), "day_of_week"),
    getter!("getHours", |a| get(a, |z| z.hour().into(), Some(|d| d.as_secs() / 3600)), "hours", duration),
    getter!("getMinutes", |a| get(a, |z| z.minute().into(), Some(|d| d.as_secs() / 60)), "minutes", duration),
    getter!("getSeconds", |a| get(a, |z| z.second().into(), Some(|d| d.as_secs())), "seconds_tz", duration),
    getter!(
        "getMilliseconds",
        |a| get(a, |z| z.millisecond().into(), Some(|d| i64::try_from(d.as_millis() % 1000).unwrap_or(0))),
        "milliseconds",
        duration
    ),
];

fn get(
    args: &[Value],
    of_time: fn(&Zoned) -> i64,
    of_duration: Option<fn(&SignedDuration) -> i64>,
) -> Outcome {
    let value = match args {
        [Value::Timestamp(t)] => of_time(&t.to_zoned(TimeZone::UTC)),
        [Value::Timestamp(t), Value::String(zone)] => of_time(&t.to_zoned(self::zone(zone)?)),
        [Value::Duration(d)] => of_duration.ok_or(Failure::NoOverload)?(d),
        _ => return Err(Failure::NoOverload),
    };
    Ok(Value::Int(value))
}

/// A name of the time zone database, or `+01:00`.
fn zone(name: &str) -> Result<TimeZone, Failure> {
    if let Some((hours, minutes)) = name.split_once(':') {
        let (negative, digits) = match hours.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, hours.strip_prefix('+').unwrap_or(hours)),
        };
        let number = |text: &str| {
            text.parse::<i32>().map_err(|_| Failure::Other(format!("invalid time zone: {name}")))
        };
        let seconds = number(digits)? * 3600 + number(minutes)? * 60;
        let offset = jiff::tz::Offset::from_seconds(if negative { -seconds } else { seconds });
        return offset.map(TimeZone::fixed).map_err(|e| Failure::Other(e.to_string()));
    }
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| Failure::Other(format!("unknown time zone {name}")))
}

/// A time in RFC 3339.
///
/// # Errors
/// It is none, or before year 1 or after 9999.
pub fn timestamp(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse");
    // Shorter forms that the parser knows are not RFC 3339.
    if text.len() < 20
        || !text.is_ascii()
        || !matches!(text.as_bytes()[10], b'T' | b't')
        || text.contains('[')
    {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// A length as Go writes it: `1h30m`, `-1.5s`.
///
/// # Errors
/// It is none.
pub fn duration(text: &str) -> Result<SignedDuration, String> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let wrong = || format!("time: invalid duration {text:?}");
    if rest.starts_with(['-', '+']) {
        return Err(wrong());
    }
    let length = meta::time::parse_duration(rest).map_err(|_| wrong())?;
    let length = SignedDuration::try_from(length).map_err(|_| wrong())?;
    Ok(if negative { -length } else { length })
}

/// `5400s`, `0.5s`: how `string()` writes a length.
pub fn seconds_text(d: SignedDuration) -> String {
    let nanos = d.subsec_nanos().unsigned_abs();
    let sign = if d.is_negative() { "-" } else { "" };
    let seconds = d.as_secs().unsigned_abs();
    if nanos == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{nanos:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
