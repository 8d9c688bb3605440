//! The scale subresource of a custom resource (upstream: apiextensions `pkg/registry/customresource/etcd.go#ScaleREST`).

use meta::object;
use meta::schema::go_kind;
use serde_json::{Map, Value, json};

/// Where the scale subresource finds its numbers, as paths with the leading dot.
#[derive(Clone, Debug, Default)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

impl Scale {
    /// The `autoscaling/v1` Scale of an object, and whether the object says a number of replicas. A GET of one that
    /// does not is an internal error with [`Scale::missing`].
    ///
    /// # Errors
    /// A text, when something at a path has another type.
    pub fn read(&self, obj: &Value) -> Result<(Value, bool), String> {
        let number = |path: &str| -> Result<Option<i64>, String> {
            nested(obj, path, "int64").transpose().map(|v| v.and_then(Value::as_i64))
        };
        let wanted = number(&self.spec_replicas)?;
        let running = number(&self.status_replicas)?.unwrap_or(0);
        let mut status = json!({"replicas": running});
        if let Some(path) = self.label_selector.as_deref().filter(|p| !p.is_empty())
            && let Some(selector) = nested(obj, path, "string").transpose()?.and_then(Value::as_str)
            && !selector.is_empty()
        {
            status["selector"] = selector.into();
        }
        let mut metadata = Map::new();
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(v) = obj["metadata"].get(field) {
                metadata.insert(field.to_owned(), v.clone());
            }
        }
        let mut spec = json!({});
        if let Some(n) = wanted.filter(|n| *n != 0) {
            spec["replicas"] = n.into();
        }
        let scale = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": spec, "status": status,
        });
        Ok((scale, wanted.is_some()))
    }

    /// Sets the number of replicas.
    ///
    /// # Errors
    /// A text, when what is on the way to it is no map.
    pub fn write(&self, obj: &mut Value, replicas: i32) -> Result<(), String> {
        let path: Vec<&str> = self.spec_replicas.trim_start_matches('.').split('.').collect();
        let Some((last, above)) = path.split_last() else { return Ok(()) };
        let shown = format!(".{}", path.join("."));
        let map = object::map_at(obj, above).ok_or_else(|| {
            format!("value cannot be set because {shown} is not a map[string]interface{{}}")
        })?;
        map.insert((*last).to_owned(), replicas.into());
        Ok(())
    }

    /// What a GET of an object without replicas is told.
    pub fn missing(&self) -> String {
        format!("the spec replicas field {:?} does not exist", self.spec_replicas)
    }
}

/// The value at a dotted path, when it is there; an error in upstream's words when it has another Go type than `want`
/// (upstream: `unstructured.NestedInt64`, `NestedString`).
pub(super) fn nested<'a>(obj: &'a Value, path: &str, want: &str) -> Option<Result<&'a Value, String>> {
    let parts: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    let accessor = |upto: usize, v: &Value, want: &str| {
        let shown = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let at = parts[..upto].join(".");
        format!(".{at} accessor error: {shown} is of the type {}, expected {want}", go_name(v))
    };
    let mut v = obj;
    for (i, part) in parts.iter().enumerate() {
        if !v.is_object() {
            // Upstream names the field that it wanted to read.
            return Some(Err(accessor(i + 1, v, "map[string]interface{}")));
        }
        v = v.get(part)?;
    }
    let fits = if want == "int64" { v.as_i64().is_some() } else { v.is_string() };
    Some(if fits { Ok(v) } else { Err(accessor(parts.len(), v, want)) })
}

fn go_name(v: &Value) -> &'static str {
    match v {
        Value::Null => "<nil>",
        Value::Number(n) if n.as_i64().is_some() => "int64",
        Value::Number(_) => "float64",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        other => go_kind(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_read_and_written() {
        let scale = Scale {
            spec_replicas: ".spec.replicas".to_owned(),
            status_replicas: ".status.n".to_owned(),
            label_selector: Some(".status.selector".to_owned()),
        };
        let mut obj =
            json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "status": {"n": 3, "selector": "a=b"}});
        let (seen, said) = scale.read(&obj).unwrap();
        assert!(!said);
        assert_eq!(seen["status"], json!({"replicas": 3, "selector": "a=b"}));
        assert_eq!(seen["metadata"], json!({"name": "a"}));
        scale.write(&mut obj, 4).unwrap();
        assert_eq!(obj["spec"]["replicas"], 4);
        assert_eq!(scale.read(&obj).unwrap().0["spec"]["replicas"], 4);
        obj["spec"] = "x".into();
        assert_eq!(
            scale.read(&obj).unwrap_err(),
            ".spec.replicas accessor error: x is of the type string, expected map[string]interface{}"
        );
    }
}
