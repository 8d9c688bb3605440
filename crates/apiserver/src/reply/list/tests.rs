//! Lists in every form.

use super::*;
use crate::negotiate::Accepted;
use http_body_util::BodyExt as _;
use std::io::Read as _;
use std::sync::LazyLock;

static ENCODED: LazyLock<Arc<Encoded>> = LazyLock::new(Arc::default);

fn row(kind: &str) -> Arc<KindDef> {
    kinds::table().into_iter().find(|r| r.kind == kind).expect("a row")
}

fn listed(kind: &KindDef, count: usize, padding: usize) -> Listed {
    let items = (0..count).map(|i| {
        let obj = json!({
            "metadata": {"name": format!("c{i}"), "namespace": "default", "uid": "u", "resourceVersion": "7"},
            "data": {"key": "x".repeat(padding)},
        });
        registry::reencode(kind, &obj).into()
    });
    Listed { items: items.collect(), revision: 9, next: None, remaining: None }
}

fn how(format: Format, view: View, keep: bool) -> Rendering<'static> {
    let encoding = Encoding { format, ..Encoding::default() };
    let accepted = Accepted { encoding, view, ..Accepted::default() };
    Rendering { accepted, include_object: "", now: Timestamp::UNIX_EPOCH, keep, encoded: &ENCODED }
}

async fn body(rendered: Rendered) -> Bytes {
    rendered.response.into_body().collect().await.expect("a body").to_bytes()
}

async fn tree(format: Format, view: View, count: usize) -> Value {
    let kind = row("ConfigMap");
    let rendered =
        render(kind.clone(), listed(&kind, count, 3), &how(format, view, false)).expect("rendered");
    let bytes = body(rendered).await;
    match format {
        Format::Json => serde_json::from_slice(&bytes).expect("JSON"),
        Format::Yaml => meta::yaml::parse_yaml(&bytes, 1 << 20).expect("YAML").0,
        Format::Cbor => codec::from_cbor(&bytes).expect("CBOR"),
        Format::Protobuf => {
            let envelope = meta::proto::open(&bytes).expect("an envelope");
            let schema = kinds::schema::schema();
            let ty = codec::definition(schema, &envelope.api_version, &envelope.kind).expect("a type");
            let mut value = meta::proto::decode(schema, &ty, envelope.raw).expect("a message");
            value["apiVersion"] = envelope.api_version.into();
            value["kind"] = envelope.kind.into();
            value
        }
    }
}

/// What all formats say alike.
fn names(list: &Value, member: &str) -> Vec<String> {
    let items = list[member].as_array().into_iter().flatten();
    let name = |i: &Value| i.get("object").unwrap_or(i)["metadata"]["name"].as_str().map(str::to_owned);
    items.filter_map(name).collect()
}

#[tokio::test]
async fn every_format_says_the_same() {
    for format in [Format::Json, Format::Yaml, Format::Cbor, Format::Protobuf] {
        for count in [0, 1, 3] {
            let wanted: Vec<String> = (0..count).map(|i| format!("c{i}")).collect();
            let list = tree(format, View::Object, count).await;
            assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
            assert_eq!(list["metadata"]["resourceVersion"], "9", "{format:?}");
            assert_eq!(names(&list, "items"), wanted, "{format:?} {list}");
            assert!(list["items"].as_array().is_none_or(|i| i.iter().all(|i| i.get("kind").is_none())));

            let list = tree(format, View::PartialList, count).await;
            assert_eq!(list["kind"], "PartialObjectMetadataList");
            assert_eq!(names(&list, "items"), wanted, "{format:?} {list}");
            assert!(list["items"].as_array().is_none_or(|i| i.iter().all(|i| i.get("data").is_none())));
            if format == Format::Protobuf {
                continue;
            }
            let table = tree(format, View::Table, count).await;
            assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
            assert_eq!(names(&table, "rows"), wanted, "{format:?} {table}");
            assert!(table["columnDefinitions"].as_array().is_some_and(|c| c.len() == 3));
            assert!(table["rows"].as_array().is_some_and(|r| r.len() == count));
        }
    }
}

#[test]
fn a_list_is_no_object() {
    let kind = row("Deployment");
    let refused = render(kind.clone(), listed(&kind, 1, 1), &how(Format::Json, View::Partial, false));
    let refused = refused.map(|_| ()).expect_err("refused");
    assert_eq!(refused.code, 406);
    assert_eq!(
        refused.message,
        "you requested PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)"
    );
}

#[tokio::test]
async fn a_long_protobuf_list_is_told_its_length_without_being_kept() {
    let kind = row("ConfigMap");
    let many = || listed(&kind, 3000, 4000);
    let list = |view: View, listed: Listed| List {
        kind: kind.clone(),
        view,
        version: "",
        include: String::new(),
        now: Timestamp::UNIX_EPOCH,
        metadata: metadata(&listed),
        items: listed.items,
        encoded: ENCODED.clone(),
    };
    // The messages of objects are kept for all lists, those of views for this one while they are few.
    let made = |view, listed| {
        let pieces = Pieces::new(list(view, listed), Format::Protobuf).expect("measured");
        pieces.held.as_slice().iter().map(Bytes::len).collect::<Vec<_>>()
    };
    let held = |view| made(view, many()).iter().sum::<usize>();
    assert_eq!(held(View::Object), 0);
    assert!((1..=HELD_BYTES_MAX).contains(&held(View::PartialList)));
    // A piece takes memory as if it were full: what is little of much is not alone in one.
    assert_eq!(made(View::PartialList, listed(&kind, 20, 70_000)).len(), 1);
    let rendered =
        render(kind.clone(), many(), &how(Format::Protobuf, View::Object, false)).expect("rendered");
    let bytes = body(rendered).await;
    let envelope = meta::proto::open(&bytes).expect("an envelope");
    let ty = "io.k8s.api.core.v1.ConfigMapList";
    let value = meta::proto::decode(kinds::schema::schema(), ty, envelope.raw).expect("a message");
    assert_eq!(names(&value, "items").len(), 3000);
}

/// What the audit record gets to write.
fn recorded(rendered: &Rendered, omit_managed_fields: bool) -> Value {
    let Some(Content::Parts(parts)) = &rendered.object else { panic!("a list is recorded in parts") };
    let mut text = Vec::new();
    let mut sink = |part: &[u8]| io::Write::write_all(&mut text, part);
    parts.each(omit_managed_fields, &mut sink).expect("told");
    serde_json::from_slice(&text).expect("JSON")
}

#[tokio::test]
async fn the_record_of_a_list_is_what_was_sent() {
    let kind = row("ConfigMap");
    for view in [View::Object, View::Table, View::PartialList] {
        for format in [Format::Json, Format::Cbor] {
            // More than one piece.
            let rendered = render(kind.clone(), listed(&kind, 300, 900), &how(format, view, true));
            let rendered = rendered.expect("rendered");
            let record = recorded(&rendered, false);
            let bytes = body(rendered).await;
            let sent = match format {
                Format::Json => serde_json::from_slice(&bytes).expect("JSON"),
                _ => codec::from_cbor(&bytes).expect("CBOR"),
            };
            assert_eq!(record, sent);
        }
    }
    let rendered = render(kind.clone(), listed(&kind, 3, 9), &how(Format::Protobuf, View::Object, true));
    assert_eq!(recorded(&rendered.expect("rendered"), false)["items"][2]["metadata"]["name"], "c2");
}

#[test]
fn managed_fields_are_left_out_of_the_record_where_the_policy_says_so() {
    let kind = row("ConfigMap");
    let obj = json!({"metadata": {"name": "a", "managedFields": [{"manager": "m"}]}});
    let listed = || Listed {
        items: vec![registry::reencode(&kind, &obj).into()],
        revision: 9,
        next: None,
        remaining: None,
    };
    for (view, path) in [
        (View::Object, "/items/0/metadata"),
        (View::PartialList, "/items/0/metadata"),
        (View::Table, "/rows/0/object/metadata"),
    ] {
        let rendered = render(kind.clone(), listed(), &how(Format::Json, view, true)).expect("rendered");
        let metadata = |omit| recorded(&rendered, omit).pointer(path).cloned().expect("metadata");
        assert!(metadata(false)["managedFields"].is_array());
        assert!(metadata(true)["managedFields"].is_null() && metadata(true)["name"] == "a", "{path}");
    }
}

#[tokio::test]
async fn large_lists_are_compressed() {
    let kind = row("ConfigMap");
    let mut how = how(Format::Json, View::Object, false);
    how.accepted.encoding.gzip = true;
    let rendered = render(kind.clone(), listed(&kind, 300, 1000), &how).expect("rendered");
    assert_eq!(rendered.response.headers()["content-encoding"], "gzip");
    let (mut out, zipped) = (Vec::new(), body(rendered).await);
    flate2::read::GzDecoder::new(&zipped[..]).read_to_end(&mut out).expect("gzip");
    let list: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(names(&list, "items").len(), 300);
}

#[tokio::test]
async fn a_table_without_a_printer_has_no_rows_when_there_is_nothing() {
    for format in [Format::Json, Format::Yaml, Format::Cbor] {
        for (kind, rows) in [("ConfigMap", json!([])), ("LimitRange", Value::Null)] {
            let row = row(kind);
            let rendered =
                render(row.clone(), listed(&row, 0, 0), &how(format, View::Table, false)).expect("rendered");
            let bytes = body(rendered).await;
            let table = match format {
                Format::Json => serde_json::from_slice(&bytes).expect("JSON"),
                Format::Yaml => meta::yaml::parse_yaml(&bytes, 1 << 20).expect("YAML").0,
                _ => codec::from_cbor(&bytes).expect("CBOR"),
            };
            assert_eq!(table["rows"], rows, "{kind} {format:?}");
            assert!(table["columnDefinitions"].is_array());
        }
    }
}
