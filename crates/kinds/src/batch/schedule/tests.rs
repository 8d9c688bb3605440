//! Cases of the upstream library: texts and the times after.

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn parse(text: &str) -> Result<Schedule, String> {
    Schedule::parse(text, &TimeZone::UTC)
}

#[test]
fn next_times() {
    for (from, spec, want) in [
        ("2012-07-09T14:45:00Z", "0/15 * * * *", "2012-07-09T15:00:00Z"),
        ("2012-07-09T14:59:59Z", "0/15 * * * *", "2012-07-09T15:00:00Z"),
        ("2012-07-09T15:45:00Z", "20-35/15 * * * *", "2012-07-09T16:20:00Z"),
        ("2012-07-09T23:46:00Z", "*/15 * * * *", "2012-07-10T00:00:00Z"),
        ("2012-07-09T23:45:00Z", "20-35/15 * * * *", "2012-07-10T00:20:00Z"),
        ("2012-07-09T23:35:51Z", "20-35/15 1/2 * * *", "2012-07-10T01:20:00Z"),
        ("2012-07-09T23:35:51Z", "20-35/15 10-12 * * *", "2012-07-10T10:20:00Z"),
        ("2012-07-09T23:35:51Z", "20-35/15 1/2 */2 * *", "2012-07-11T01:20:00Z"),
        ("2012-07-09T23:35:51Z", "20-35/15 * 9-20 Jul *", "2012-07-10T00:20:00Z"),
        ("2012-07-09T23:35:51Z", "20-35/15 * 9-20 Jul-Aug *", "2012-07-10T00:20:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 */5 Oct *", "2012-10-01T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 * Feb Mon", "2013-02-04T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 * Feb Mon/2", "2013-02-01T00:00:00Z"),
        ("2012-12-31T23:59:45Z", "* * * * *", "2013-01-01T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 29 Feb ?", "2016-02-29T00:00:00Z"),
        ("2012-07-15T01:00:00Z", "0 0 1 * Sun", "2012-07-22T00:00:00Z"),
        ("2012-07-09T14:45:00Z", "@hourly", "2012-07-09T15:00:00Z"),
        ("2012-07-09T14:45:00Z", "@daily", "2012-07-10T00:00:00Z"),
        ("2012-07-09T14:45:00Z", "@weekly", "2012-07-15T00:00:00Z"),
        ("2012-07-09T14:45:00Z", "@monthly", "2012-08-01T00:00:00Z"),
        ("2012-07-09T14:45:00Z", "@yearly", "2013-01-01T00:00:00Z"),
        ("2012-07-09T14:45:00.5Z", "@every 1h30m", "2012-07-09T16:15:00Z"),
        ("2012-07-09T14:45:00Z", "@every 10ms", "2012-07-09T14:45:01Z"),
        // clocks go forward: what would fall into the gap is left out
        ("2012-03-11T05:00:00Z", "TZ=America/New_York 30 2 11 Mar ?", "2013-03-11T06:30:00Z"),
        ("2012-03-11T05:00:00Z", "TZ=America/New_York 0 * * * ?", "2012-03-11T06:00:00Z"),
        ("2012-03-11T06:00:00Z", "TZ=America/New_York 0 * * * ?", "2012-03-11T07:00:00Z"),
        ("2012-03-11T05:00:00Z", "TZ=America/New_York 0 2 * * ?", "2012-03-12T06:00:00Z"),
        // and back: an hour comes twice
        ("2012-11-04T04:00:00Z", "TZ=America/New_York 30 2 04 Nov ?", "2012-11-04T07:30:00Z"),
        ("2012-11-04T05:45:00Z", "TZ=America/New_York 30 1 04 Nov ?", "2012-11-04T06:30:00Z"),
        ("2012-11-04T05:00:00Z", "CRON_TZ=America/New_York 0 * * * ?", "2012-11-04T06:00:00Z"),
        // a zone without midnight on that day
        ("2018-10-17T12:00:00Z", "TZ=America/Sao_Paulo 0 9 10 * ?", "2018-11-10T11:00:00Z"),
        ("2018-02-14T12:00:00Z", "TZ=America/Sao_Paulo 0 9 22 * ?", "2018-02-22T12:00:00Z"),
        ("2026-01-01T00:00:00Z", "TZ=Asia/Kolkata 0 9 * * *", "2026-01-01T03:30:00Z"),
    ] {
        assert_eq!(parse(spec).unwrap().next(at(from)), Some(at(want)), "{spec} after {from}");
    }
    for never in ["0 0 30 Feb ?", "0 0 31 Apr ?", ", * * * *"] {
        assert_eq!(parse(never).unwrap().next(at("2012-07-09T23:35:00Z")), None, "{never}");
    }
}

#[test]
fn wrong_texts() {
    for (text, want) in [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 0 * * *", "end of range (60) above maximum (59): 60"),
        ("0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("9-4 * * * *", "beginning of range (9) beyond end of range (4): 9-4"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("xyz * * * *", "failed to parse int from xyz: strconv.Atoi: parsing \"xyz\": invalid syntax"),
        ("* * * * 0,-1", "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax"),
        ("@unrecognized", "unrecognized descriptor: @unrecognized"),
        ("TZ=0", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
        ("TZ=Mars/Base 0 * * * *", "provided bad location Mars/Base: unknown time zone Mars/Base"),
    ] {
        assert_eq!(parse(text).map(drop), Err(want.to_owned()), "{text}");
    }
    assert!(parse("@every x").is_err());
    assert!(zone("europe/paris").is_err() && zone("Europe/Paris").is_ok() && zone("../etc").is_err());
}

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
fn more_next_times() {
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
        assert_eq!(parse(spec).unwrap().next(at(from)), Some(at(next)), "{from} {spec}");
    }
    for never in ["0 0 30 feb ?", "0 0 31 apr ?", ", * * * *"] {
        assert_eq!(parse(never).unwrap().next(Timestamp::UNIX_EPOCH), None, "{never}");
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
        let got = Schedule::parse(spec, &zone).unwrap().next(at(from));
        assert_eq!(got, Some(at(next)), "{from} {spec}");
    }
}
