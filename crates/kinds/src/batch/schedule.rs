//! Cron schedules, as far as validation needs them (upstream: `robfig/cron/v3#ParseStandard`).
//!
//! Invariant: what passes has a value for each of the five fields, within its bounds.

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];

/// Why a text is no schedule, in upstream's words; `None` when it is one.
pub fn error(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("empty spec string".to_owned());
    }
    if let Some(name) = text.strip_prefix('@') {
        return descriptor(text, name);
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    parts.iter().zip(&FIELDS).find_map(|(part, field)| part.split(',').find_map(|one| range(one, field)))
}

fn descriptor(text: &str, name: &str) -> Option<String> {
    const KNOWN: &[&str] = &["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
    if KNOWN.contains(&name) {
        return None;
    }
    match name.strip_prefix("every ") {
        Some(every) if meta::time::parse_duration(every).is_ok() => None,
        Some(_) => Some(format!("failed to parse duration {text}")),
        None => Some(format!("unrecognized descriptor: {text}")),
    }
}

/// `*`, `?`, `a`, `a-b`, each with `/step`.
fn range(expr: &str, field: &Field) -> Option<String> {
    let (bounds, step) = match expr.split_once('/') {
        Some((_, step)) if step.contains('/') => return Some(format!("too many slashes: {expr}")),
        Some((bounds, step)) => (bounds, Some(step)),
        None => (expr, None),
    };
    let (low, high) = match bounds.split_once('-') {
        _ if bounds == "*" || bounds == "?" => (Ok(field.min), Ok(field.max)),
        Some((_, high)) if high.contains('-') => return Some(format!("too many hyphens: {expr}")),
        Some((low, high)) => (number(low, field), number(high, field)),
        None => (number(bounds, field), number(bounds, field)),
    };
    let (low, high) = match (low, high) {
        (Ok(low), Ok(high)) => (low, high),
        (Err(e), _) | (_, Err(e)) => return Some(e),
    };
    match step.map(|s| s.parse::<u32>()) {
        Some(Err(_)) => return Some(format!("failed to parse int from {}", step.unwrap_or(""))),
        Some(Ok(0)) => return Some(format!("step of range should be a positive number: {expr}")),
        _ => {}
    }
    let (min, max) = (field.min, field.max);
    if low < min {
        Some(format!("beginning of range ({low}) below minimum ({min}): {expr}"))
    } else if high > max {
        Some(format!("end of range ({high}) above maximum ({max}): {expr}"))
    } else if low > high {
        Some(format!("beginning of range ({low}) beyond end of range ({high}): {expr}"))
    } else {
        None
    }
}

fn number(text: &str, field: &Field) -> Result<u32, String> {
    if let Some(i) = field.names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        return Ok(field.min + i as u32);
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 ? * 0"] {
            assert_eq!(error(good), None, "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@never",
            "a * * * *",
            "1-2-3 * * * *",
        ] {
            assert!(error(bad).is_some(), "{bad}");
        }
    }
}
