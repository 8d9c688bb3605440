//! What holds for every row: its sample is an object of its type, whole and valid, and defaults settle at once.

use crate::def::{Ctx, KindDef};
use crate::schema::schema;
use meta::schema::Strictness;
use serde_json::Value;

fn sample(row: &KindDef) -> Value {
    let documents = meta::yaml::documents(row.sample.as_bytes(), 1 << 20).unwrap();
    assert_eq!(documents.len(), 1, "{}", row.kind);
    documents.into_iter().next().unwrap().0
}

#[test]
fn samples_are_whole_and_valid() {
    for row in crate::KINDS.iter().map(|row| row()) {
        let (mut obj, unknown) = schema().decode(sample(&row), &row.schema, Strictness::Strict).unwrap();
        assert_eq!(unknown, Vec::<String>::new(), "{}", row.kind);
        assert_eq!(
            (obj["apiVersion"].as_str(), obj["kind"].as_str()),
            (Some(&*row.api_version()), Some(&*row.kind))
        );
        row.strategy.default(&mut obj);
        let once = obj.clone();
        row.strategy.default(&mut obj);
        assert_eq!(obj, once, "{}", row.kind);
        let ctx = Ctx { now: Default::default(), subresource: "" };
        row.strategy.prepare_create(&mut obj, &ctx);
        assert_eq!(row.strategy.validate(&obj), [], "{}", row.kind);
        let mut same = obj.clone();
        row.strategy.prepare_update(&mut same, &obj, &ctx);
        assert_eq!(same, obj, "{}", row.kind);
        assert_eq!(row.strategy.validate_update(&same, &obj, &ctx), [], "{}", row.kind);
        for column in row.columns {
            if let crate::def::Cell::Fn(cell) = column.cell {
                cell(&obj, ctx.now);
                cell(&Value::Null, ctx.now);
            }
        }
    }
}

#[test]
fn names_and_places_are_used_once() {
    let rows: Vec<KindDef> = crate::KINDS.iter().map(|row| row()).collect();
    for (i, row) in rows.iter().enumerate() {
        for other in &rows[..i] {
            assert!(
                row.group != other.group || row.version != other.version || row.plural != other.plural,
                "{}",
                row.plural
            );
            let shared = !row.storage.is_empty() && row.storage == other.storage;
            assert!(!shared || row.stored_as.is_some() || other.stored_as.is_some(), "{}", row.storage);
        }
    }
}
