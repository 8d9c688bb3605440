//! Options of streams, as their queries give them (upstream: `pkg/apis/core/v1/conversion.go`, `ValidatePodLogOptions`).

use crate::request_info::Query;
use meta::GroupKind;
use meta::field::{Error, Path, quoted};
use meta::status::{Result, Status};

/// Refuses options of logs that cannot be.
pub fn check_log(q: &Query, pod: &str) -> Result<()> {
    let number = |name: &str| match q.has(name) {
        true => integer(q.get(name)).map(Some),
        false => Ok(None),
    };
    let (tail, limit, since) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let time = q.get("sinceTime");
    if !matches!(time, "" | "null") {
        meta::time::parse(time).map_err(Status::bad_request)?;
    }
    let mut errors = Vec::new();
    let mut least = |name: &str, n: Option<i64>, least: i64, text: &str| {
        if let Some(n) = n.filter(|n| *n < least) {
            errors.push(Error::invalid(&Path::new(name), n, text));
        }
    };
    least("tailLines", tail, 0, "must be greater than or equal to 0");
    least("limitBytes", limit, 1, "must be greater than 0");
    if !q.has("sinceTime") {
        least("sinceSeconds", since, 1, "must be greater than 0");
    } else if since.is_some() {
        let text = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(Error::forbidden(&Path::root().key(""), text));
    }
    if q.has("stream") {
        errors.push(Error::forbidden(&Path::new("stream"), "may not be specified"));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupKind { group: String::new(), kind: "PodLogOptions".into() }, pod, &errors))
}

/// Refuses ports that are no numbers.
pub fn check_ports(q: &Query) -> Result<()> {
    for port in q.all("ports") {
        if let Err(why) = parsed::<u32>(port) {
            let text = format!(
                "cannot convert to []int32: strconv.ParseUint: parsing {port}: {why}",
                port = quoted(port)
            );
            return Err(Status::bad_request(text));
        }
    }
    Ok(())
}

fn integer(text: &str) -> Result<i64> {
    parsed(text).map_err(|why| {
        Status::bad_request(format!("strconv.ParseInt: parsing {text}: {why}", text = quoted(text)))
    })
}

/// A number as Go reads it, or its reason.
fn parsed<T: std::str::FromStr<Err = std::num::ParseIntError>>(
    text: &str,
) -> std::result::Result<T, &'static str> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse::<T>().map_err(|e| match e.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(query: &str) -> String {
        check_log(&Query::parse(query), "p").err().map(|s| s.message).unwrap_or_default()
    }

    #[test]
    fn options_of_logs_are_checked() {
        assert_eq!(told("tailLines=0&limitBytes=1&sinceTime=2020-01-01T00:00:00Z"), "");
        assert_eq!(told("tailLines=x"), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert!(told("sinceTime=x").starts_with("parsing time \"x\" as"));
        assert_eq!(
            told("sinceSeconds=5&sinceTime=2020-01-01T00:00:00Z"),
            "PodLogOptions \"p\" is invalid: []: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        );
        assert!(told("sinceSeconds=0&stream=Stdout").contains("stream: Forbidden: may not be specified"));
    }

    #[test]
    fn ports_are_numbers() {
        assert!(check_ports(&Query::parse("ports=80&ports=81")).is_ok());
        let wrong = check_ports(&Query::parse("ports=99999999999")).expect_err("too large");
        assert!(wrong.message.ends_with("value out of range"), "{}", wrong.message);
    }
}
