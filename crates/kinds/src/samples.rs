//! Every row's sample is an object that the row accepts, and that it finds unchanged when it comes again.

use crate::def::Ctx;
use crate::{KINDS, schema};
use meta::field::aggregate;
use meta::schema::Strictness;
use serde_json::Value;

/// Longest sample, in bytes.
const SAMPLE_BYTES_MAX: usize = 1 << 20;

#[test]
fn samples_are_valid_in_every_row() {
    for row in KINDS.iter().map(|row| row()).filter(|row| !row.sample.is_empty() && !row.storage.is_empty()) {
        let (obj, _) = meta::yaml::parse_yaml(row.sample.as_bytes(), SAMPLE_BYTES_MAX).unwrap();
        let (mut obj, unknown) = schema::schema().decode(obj, &row.schema, Strictness::Strict).unwrap();
        assert!(unknown.is_empty(), "{}: {unknown:?}", row.kind);
        row.strategy.default(&mut obj);
        row.strategy.prepare_create(&mut obj, &Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" });
        let errors = row.strategy.validate(&obj);
        assert!(errors.is_empty(), "{}: {}", row.kind, aggregate(&errors));
        let mut again = obj.clone();
        row.strategy.default(&mut again);
        // Some rows fill in an empty status on reading alone.
        let spec = |o: &Value| o.get("spec").cloned();
        assert_eq!(spec(&again), spec(&obj), "{}", row.kind);
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        row.strategy.prepare_update(&mut again, &obj, &ctx);
        let errors = row.strategy.validate_update(&again, &obj, &ctx);
        assert!(errors.is_empty(), "{}: {}", row.kind, aggregate(&errors));
    }
}

#[test]
fn no_two_rows_are_the_same() {
    let rows: Vec<_> = KINDS.iter().map(|row| row()).collect();
    for (i, row) in rows.iter().enumerate() {
        let same = |o: &&crate::KindDef| {
            (&o.group, &o.version, &o.plural) == (&row.group, &row.version, &row.plural)
        };
        assert!(!rows[..i].iter().any(|o| same(&o)), "{} {}", row.group, row.plural);
    }
}
