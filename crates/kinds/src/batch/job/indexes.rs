//! Lists of completion indexes, as `0,2-5,7` (upstream: `validateIndexesFormat`, `parseIndexInterval`).
//!
//! Invariant: what is read as an interval has its ends in order and below the number of completions.

use meta::field::quoted;

/// How many indexes a list names.
///
/// # Errors
/// Upstream's text of what is wrong.
pub fn count(list: &str, completions: i64) -> Result<i64, String> {
    if list.is_empty() {
        return Ok(0);
    }
    let (mut total, mut last) = (0, None);
    for part in list.split(',') {
        let (low, high) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= low) {
            return Err(format!("non-increasing order, previous: {last}, current: {low}"));
        }
        total += high - low + 1;
        last = Some(high);
    }
    Ok(total)
}

/// The first index, in upstream's order of looking, that both lists name; what cannot be read is left out.
pub fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read = |list: &str| -> Vec<(i64, i64)> {
        list.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (one, other) = (read(one), read(other));
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (one.get(i), other.get(j)) {
        if a.0 <= b.1 && b.0 <= a.1 {
            return Some(a.0.max(b.0));
        }
        match a.0 <= b.0 {
            true => i += 1,
            false => j += 1,
        }
    }
    None
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let ends: Vec<&str> = part.split('-').collect();
    if ends.len() > 2 {
        return Err(format!(
            "the fragment {part} violates the requirement that an index interval can have at most two parts separated by '-'",
            part = quoted(part)
        ));
    }
    let read = |text: &str| match text.parse::<i64>() {
        Ok(n) if n >= completions => Err(format!("too large index: {text}", text = quoted(text))),
        Ok(n) => Ok(n),
        Err(_) => Err(format!("cannot convert string to integer for index: {text}", text = quoted(text))),
    };
    let low = read(ends[0])?;
    let Some(high) = ends.get(1) else { return Ok((low, low)) };
    let high = read(high)?;
    if low >= high {
        return Err(format!("non-increasing order, previous: {low}, current: {high}"));
    }
    Ok((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream: `TestValidateIndexesString`.
    #[test]
    fn lists_of_indexes() {
        for (list, completions, total) in
            [("", 6, Ok(0)), ("1,3-5", 6, Ok(4)), ("0", 1, Ok(1)), ("0-2,4", 5, Ok(4))]
        {
            assert_eq!(count(list, completions), total, "{list}");
        }
        for (list, why) in [
            (" ", "cannot convert string to integer for index: \" \""),
            ("1,2, 3", "cannot convert string to integer for index: \" 3\""),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("0,0", "non-increasing order, previous: 0, current: 0"),
            ("2-1", "non-increasing order, previous: 2, current: 1"),
            ("1-7", "too large index: \"7\""),
            ("1,2,3,4-", "cannot convert string to integer for index: \"\""),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        ] {
            assert_eq!(count(list, 6), Err(why.to_owned()), "{list}");
        }
    }

    /// Upstream: `TestValidateFailedIndexesNotOverlapCompleted`.
    #[test]
    fn lists_that_overlap() {
        for (one, other, at) in [
            ("", "", None),
            ("0", "1", None),
            ("0,2", "1,3", None),
            ("0-2", "2-4", Some(2)),
            ("0-1,5-8", "2,7", Some(7)),
            ("x,4", "4", Some(4)),
        ] {
            assert_eq!(overlap(one, other, 10), at, "{one} {other}");
        }
    }
}
