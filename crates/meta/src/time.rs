//! Times on the wire and durations for people.
//!
//! Text is RFC 3339, always written in UTC: whole seconds for `metav1.Time`, six digits for
//! `metav1.MicroTime`. Reading accepts what Go's `time.Parse` accepts and refuses with its words, as
//! clients see them in decoding errors.

use jiff::civil::Date;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

const SECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(0));
const MICROSECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// Whole seconds, truncated: `2026-11-23T17:00:00Z`.
pub fn rfc3339(at: Timestamp) -> String {
    SECONDS.timestamp_to_string(&at)
}

/// Microseconds, truncated: `2026-11-23T17:00:00.000123Z`.
pub fn rfc3339_micro(at: Timestamp) -> String {
    MICROSECONDS.timestamp_to_string(&at)
}

/// Reads RFC 3339, with or without a fraction and with any offset.
///
/// # Errors
/// Go's text: `parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"`.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    go_parse(text, false)
}

/// Reads RFC 3339 with exactly six digits of fraction, as `metav1.MicroTime` demands.
///
/// # Errors
/// Go's text, see [`parse`].
pub fn parse_micro(text: &str) -> Result<Timestamp, String> {
    go_parse(text, true)
}

/// Whether the time is Go's zero time, which is written as `null`.
pub fn is_zero(at: Timestamp) -> bool {
    at.as_second() == GO_ZERO_SECONDS && at.subsec_nanosecond() == 0
}

/// 0001-01-01T00:00:00Z in seconds since 1970.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

/// A short text of two or three significant figures, such as `5m30s` or `3d` (upstream: `pkg/util/duration#HumanDuration`).
pub fn human_duration(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    } else if seconds < 0 {
        return "0s".to_owned();
    } else if seconds < 120 {
        return format!("{seconds}s");
    }
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let minutes = seconds / 60;
    if minutes < 10 {
        return pair(minutes, "m", seconds % 60, "s");
    } else if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    let days = hours / 24;
    match hours {
        0..8 => pair(hours, "h", minutes % 60, "m"),
        8..48 => format!("{hours}h"),
        48..192 => pair(days, "d", hours % 24, "h"),
        192..17_520 => format!("{days}d"),
        17_520..70_080 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// One significant unit, such as `5m` (upstream: `pkg/util/duration#ShortHumanDuration`).
pub fn short_duration(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

/// The age of something made at `then`, as `kubectl get` shows it; `<unknown>` for a text that is no time.
pub fn age(then: &str, now: Timestamp) -> String {
    match parse(then) {
        Ok(t) if !is_zero(t) => human_duration(now.duration_since(t)),
        _ => "<unknown>".to_owned(),
    }
}

/// Reads a Go duration such as `1h30m`, `10s`, `1.5ms` or `0`; negative ones are refused.
///
/// # Errors
/// Go's text: `time: invalid duration "x"`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {}", go_quote(text));
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..len].parse().map_err(|_| wrong())?;
        rest = &rest[len..];
        let len = rest.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let seconds = match &rest[..len] {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {}", go_quote(text))),
            unit => {
                return Err(format!("time: unknown unit {} in duration {}", go_quote(unit), go_quote(text)));
            }
        };
        rest = &rest[len..];
        total += number * seconds;
    }
    // Go's durations end at 2^63 nanoseconds.
    if total > 9.2e9 { Err(wrong()) } else { Duration::try_from_secs_f64(total).map_err(|_| wrong()) }
}

/// What went wrong at one element of the layout.
enum Bad {
    /// The element does not read as the layout element.
    Text,
    /// It reads, but is out of its range.
    Range(&'static str),
}

/// Walks the two layouts as Go's `time.Parse` does (upstream: `time/format.go#parse`).
fn go_parse(text: &str, micro: bool) -> Result<Timestamp, String> {
    let layout = if micro { RFC3339_MICRO } else { RFC3339 };
    let fail = |elem: &str, rest: &str| {
        let (text, rest) = (go_quote(text), go_quote(rest));
        format!("parsing time {text} as {}: cannot parse {rest} as {}", go_quote(layout), go_quote(elem))
    };
    let range = |what: &str| format!("parsing time {}: {what} out of range", go_quote(text));
    let mut rest = text;
    let mut n = [0i64; 6];
    const ELEMS: [(&str, &str); 6] =
        [("", "2006"), ("-", "01"), ("-", "02"), ("T", "15"), (":", "04"), (":", "05")];
    for (i, (prefix, elem)) in ELEMS.iter().enumerate() {
        rest = rest.strip_prefix(prefix).ok_or_else(|| fail(prefix, rest))?;
        match number(rest, i) {
            Ok((value, after)) => {
                n[i] = value;
                rest = after;
            }
            Err(Bad::Text) => return Err(fail(elem, rest)),
            Err(Bad::Range(what)) => return Err(range(what)),
        }
    }
    let mut nanos = 0i64;
    let fraction =
        rest.strip_prefix(['.', ',']).map(|r| r.bytes().take_while(u8::is_ascii_digit).count()).unwrap_or(0);
    if micro {
        if fraction < 6 {
            return Err(fail(".000000", rest));
        }
        nanos = fraction_nanos(&rest[1..7]);
        rest = &rest[7..];
    } else if fraction > 0 {
        nanos = fraction_nanos(&rest[1..=fraction]);
        rest = &rest[1 + fraction..];
    }
    let (offset, after) = match zone(rest) {
        Ok(z) => z,
        Err(Bad::Text) => return Err(fail("Z07:00", rest)),
        Err(Bad::Range(what)) => return Err(range(what)),
    };
    if !after.is_empty() {
        return Err(format!("parsing time {}: extra text: {}", go_quote(text), go_quote(after)));
    }
    let small = |v: i64| i8::try_from(v).unwrap_or(-1);
    let day = i16::try_from(n[0])
        .ok()
        .and_then(|y| Date::new(y, small(n[1]), small(n[2])).ok())
        .ok_or_else(|| range("day"))?;
    let at = day.at(small(n[3]), small(n[4]), small(n[5]), i32::try_from(nanos).unwrap_or(0));
    let at = Offset::UTC.to_timestamp(at).map_err(|_| range("day"))?;
    at.checked_sub(SignedDuration::from_secs(offset)).map_err(|_| range("day"))
}

/// Reads the numeric element `i` (year, month, day, hour, minute, second).
fn number(rest: &str, i: usize) -> Result<(i64, &str), Bad> {
    let digits = rest.bytes().take(4).take_while(u8::is_ascii_digit).count();
    // Only the hour may have one digit.
    let (want, least) = match i {
        0 => (4, 4),
        3 => (2, 1),
        _ => (2, 2),
    };
    let used = digits.min(want);
    if used < least {
        return Err(Bad::Text);
    }
    let value: i64 = rest[..used].parse().map_err(|_| Bad::Text)?;
    match i {
        1 if !(1..=12).contains(&value) => Err(Bad::Range("month")),
        3 if value > 23 => Err(Bad::Range("hour")),
        4 if value > 59 => Err(Bad::Range("minute")),
        5 if value > 59 => Err(Bad::Range("second")),
        _ => Ok((value, &rest[used..])),
    }
}

fn fraction_nanos(digits: &str) -> i64 {
    digits
        .bytes()
        .take(9)
        .zip([100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1000, 100, 10, 1])
        .map(|(d, w)| i64::from(d - b'0') * w)
        .sum()
}

/// Reads `Z` or `±hh:mm`; the offset is in seconds east.
fn zone(rest: &str) -> Result<(i64, &str), Bad> {
    if let Some(after) = rest.strip_prefix('Z') {
        return Ok((0, after));
    }
    let b = rest.as_bytes();
    if b.len() < 6 || b[3] != b':' || !b[..6].is_ascii() {
        return Err(Bad::Text);
    }
    let two = |i: usize| -> Result<i64, Bad> {
        let (a, c) = (b[i], b[i + 1]);
        if a.is_ascii_digit() && c.is_ascii_digit() {
            Ok(i64::from(a - b'0') * 10 + i64::from(c - b'0'))
        } else {
            Err(Bad::Text)
        }
    };
    let (hours, minutes) = (two(1)?, two(4)?);
    if hours > 24 {
        return Err(Bad::Range("time zone offset hour"));
    }
    if minutes > 60 {
        return Err(Bad::Range("time zone offset minute"));
    }
    let seconds = (hours * 60 + minutes) * 60;
    match b[0] {
        b'+' => Ok((seconds, &rest[6..])),
        b'-' => Ok((-seconds, &rest[6..])),
        _ => Err(Bad::Text),
    }
}

/// Go's `time.quote`: bytes that are no printable ASCII are shown as hexadecimal escapes.
fn go_quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for b in s.bytes() {
        match b {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x20..0x7f => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let t = parse("2026-11-23T18:02:03.987654321+01:00").unwrap();
        assert_eq!(rfc3339(t), "2026-11-23T17:02:03Z");
        assert_eq!(rfc3339_micro(t), "2026-11-23T17:02:03.987654Z");
        assert!(is_zero(parse("0001-01-01T00:00:00Z").unwrap()));
        assert_eq!(
            rfc3339_micro(parse_micro("2026-01-02T03:04:05.000006Z").unwrap()),
            "2026-01-02T03:04:05.000006Z"
        );
    }

    #[test]
    fn bad_times_are_refused_in_gos_words() {
        let layout = "2006-01-02T15:04:05Z07:00";
        let cases = [
            ("", format!("parsing time \"\" as \"{layout}\": cannot parse \"\" as \"2006\"")),
            ("x", format!("parsing time \"x\" as \"{layout}\": cannot parse \"x\" as \"2006\"")),
            ("2026/01", format!("parsing time \"2026/01\" as \"{layout}\": cannot parse \"/01\" as \"-\"")),
            (
                "2026-01-02",
                format!("parsing time \"2026-01-02\" as \"{layout}\": cannot parse \"\" as \"T\""),
            ),
            ("2026-13-02T00:00:00Z", "parsing time \"2026-13-02T00:00:00Z\": month out of range".into()),
            ("2026-02-30T00:00:00Z", "parsing time \"2026-02-30T00:00:00Z\": day out of range".into()),
            ("2026-02-03T00:00:00Zx", "parsing time \"2026-02-03T00:00:00Zx\": extra text: \"x\"".into()),
            (
                "2026-02-03T00:00:00",
                format!(
                    "parsing time \"2026-02-03T00:00:00\" as \"{layout}\": cannot parse \"\" as \"Z07:00\""
                ),
            ),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
        assert!(
            parse_micro("2026-01-02T03:04:05Z").unwrap_err().ends_with("cannot parse \"Z\" as \".000000\"")
        );
    }

    #[test]
    fn durations_read_like_upstreams() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86_400 + 3600, "8d"),
            (2 * 365 * 86_400, "2y"),
            (2 * 365 * 86_400 + 86_400, "2y1d"),
            (9 * 365 * 86_400 + 86_400, "9y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), want, "{seconds}");
        }
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5ms"), Ok(Duration::from_micros(1500)));
        for bad in ["", "1", "-1s", "x", "1x", "1e9s", "99999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(short_duration(SignedDuration::from_secs(7200)), "2h");
        assert_eq!(age("nonsense", Timestamp::UNIX_EPOCH), "<unknown>");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(s in "\\PC{0,40}", t in "[0-9TZ:.+-]{0,36}") {
            for x in [&s, &t] {
                let _ = (parse(x), parse_micro(x));
            }
        }
    }
}
