//! Decoding and strategic merge against what the Go libraries of Kubernetes 1.37 gave for the same input.

use meta::patch::strategic;
use meta::schema::{Schema, Strictness};
use serde_json::Value;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../kinds/schema/v1.37.json")).unwrap_or_default());

fn schema() -> &'static Schema {
    &SCHEMA
}

fn json(text: &str) -> Value {
    meta::yaml::parse_json(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}")).0
}

#[test]
fn decoding_equals_gos() {
    let schema = schema();
    let (mut input, mut result) = ("", Ok((Value::Null, Vec::new())));
    let mut strict = Vec::new();
    let check = |result: &mut Result<(Value, Vec<String>), _>, strict: &mut Vec<String>, input: &str| {
        if let Ok((_, warnings)) = result {
            assert_eq!(std::mem::take(warnings), std::mem::take(strict), "{input}");
        }
    };
    let mut cases = 0;
    for line in include_str!("decode.txt").lines() {
        let (what, rest) = line.split_once(' ').unwrap();
        match what {
            "in" => {
                check(&mut result, &mut strict, input);
                let (ty, text) = rest.split_once(' ').unwrap();
                input = line;
                result = schema.decode(json(text), ty, Strictness::Strict);
                cases += 1;
            }
            "out" => assert_eq!(
                result.as_ref().unwrap_or_else(|e| panic!("{input}: {e}")).0,
                json(rest),
                "{input}"
            ),
            "error" => assert_eq!(result.as_ref().expect_err(input).to_string(), rest, "{input}"),
            _ => strict.push(rest.to_owned()),
        }
    }
    check(&mut result, &mut strict, input);
    assert!(cases > 30);
}

#[test]
fn what_is_decoded_decodes_to_itself() {
    let schema = schema();
    for line in include_str!("decode.txt").lines() {
        let Some((ty, text)) = line.strip_prefix("in ").and_then(|r| r.split_once(' ')) else { continue };
        if let Ok((once, _)) = schema.decode(json(text), ty, Strictness::Ignore) {
            let (twice, warnings) = schema.decode(once.clone(), ty, Strictness::Strict).unwrap();
            assert_eq!((once, Vec::new()), (twice, warnings), "{line}");
        }
    }
}

#[test]
fn strategic_patches_equal_gos() {
    let schema = schema();
    let (mut ty, mut doc, mut patch) = ("", Value::Null, Value::Null);
    let mut cases = 0;
    for line in include_str!("strategic.txt").lines() {
        let (what, rest) = line.split_once(' ').unwrap();
        match what {
            "type" => ty = rest,
            "doc" => doc = json(rest),
            "patch" => patch = json(rest),
            _ => {
                let result = strategic::apply(&mut doc, &patch, schema, ty);
                cases += 1;
                if what == "out" {
                    assert_eq!(result, Ok(()), "{patch}");
                    assert_eq!(doc, json(rest), "{patch}");
                } else {
                    let want: String = serde_json::from_str(rest).unwrap();
                    assert_eq!(result.unwrap_err().message.trim(), want, "{patch}");
                }
            }
        }
    }
    assert!(cases > 15);
}

#[test]
fn strict_messages_come_in_document_order() {
    let text = br#"{"spec":{"unknownField":{"a":1,"a":2},"replicas":1,"replicas":2,"template":{"metadata":{"labels":{"a":"1","a":"2"}},
        "spec":{"containers":[{"name":"a"},{"name":"b","imagePullPolicies":[],"name":"c"}]}}},"zzz":1,"aaa":2}"#;
    let want = [
        "unknown field \"spec.unknownField\"",
        "duplicate field \"spec.replicas\"",
        "duplicate field \"spec.template.metadata.labels.a\"",
        "unknown field \"spec.template.spec.containers[1].imagePullPolicies\"",
        "duplicate field \"spec.template.spec.containers[1].name\"",
        "unknown field \"zzz\"",
        "unknown field \"aaa\"",
    ];
    assert_eq!(schema().strict_messages(text, "io.k8s.api.apps.v1.Deployment"), want);
    assert!(schema().strict_messages(b"[1,{", "io.k8s.api.apps.v1.Deployment").is_empty());
}

#[test]
fn decoding_a_pod_is_fast() {
    let schema = schema();
    let pod = json(include_str!("decode.txt").lines().next().unwrap().splitn(3, ' ').nth(2).unwrap());
    let start = std::time::Instant::now();
    for _ in 0..200 {
        schema.decode(pod.clone(), "io.k8s.api.core.v1.Pod", Strictness::Strict).unwrap();
    }
    // Unoptimised code takes some 40 µs each; the bound only catches what grows with the size of the table.
    assert!(start.elapsed().as_millis() < 2000, "{:?}", start.elapsed());
}

proptest::proptest! {
    #[test]
    fn arbitrary_trees_never_panic(keys in proptest::collection::vec("spec|metadata|containers|labels|\\$patch|\\$retainKeys|\\$setElementOrder/containers|finalizers|name|x", 1..8), leaf in "null|1|\"x\"|\\[\\]|\\{\\}|\\[\\{\"name\":1\\}\\]|\"delete\"|\\[\"a\"\\]") {
        let schema = schema();
        let ty = "io.k8s.api.core.v1.Pod";
        let mut tree: Value = json(&leaf);
        for (i, k) in keys.iter().enumerate() {
            tree = serde_json::json!({k: tree});
            if i % 3 == 2 {
                tree = serde_json::json!([tree]);
            }
        }
        let _ = schema.decode(tree.clone(), ty, Strictness::Strict);
        let mut doc = json("{\"metadata\":{\"finalizers\":[\"a\"],\"labels\":{\"x\":\"y\"}},\"spec\":{\"containers\":[{\"name\":\"x\"}]}}");
        let _ = strategic::apply(&mut doc, &tree, schema, ty);
        let _ = meta::patch::json::apply(&mut doc, &tree);
        meta::patch::merge::apply(&mut doc, &tree);
        let _ = schema.decode(doc, ty, Strictness::Warn);
    }
}
