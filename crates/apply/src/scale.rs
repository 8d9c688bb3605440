//! Who owns the replica count, as a Scale tells it and as the object it scales does
//! (upstream: apimachinery `managedfields/scalehandler.go`).

use crate::managers::{self, Entry};
use crate::{Element, FieldSet};
use serde_json::Value;

const SCALE_VERSION: &str = "autoscaling/v1";

fn set_of(path: &[Element]) -> FieldSet {
    let mut set = FieldSet::default();
    set.insert(path);
    set
}

fn in_scale() -> [Element; 2] {
    [Element::field("spec"), Element::field("replicas")]
}

/// The entries of the object that own its replica count, at `path`, as entries of a Scale.
///
/// # Errors
/// The entries are not valid.
pub fn to_scale(managed: &Value, path: &[Element]) -> Result<Value, String> {
    let own = managers::decode(managed)?.into_iter().filter(|e| e.fields.contains(path));
    let fields = set_of(&in_scale());
    let as_scale = |e: Entry| Entry { api_version: SCALE_VERSION.to_owned(), fields: fields.clone(), ..e };
    Ok(managers::encode(own.map(as_scale).collect()))
}

/// The entries of the object after its Scale was written. Who lost the count there loses it here.
///
/// # Errors
/// Entries are not valid.
pub fn to_parent(
    managed: &Value,
    scale: &Value,
    path: &[Element],
    api_version: &str,
) -> Result<Value, String> {
    let mut of_scale = managers::decode(scale)?;
    let mut out = Vec::new();
    for mut entry in managers::decode(managed)? {
        if entry.fields.contains(path) {
            match of_scale.iter().position(|e| e.is_same_manager(&entry)) {
                Some(kept) => drop(of_scale.remove(kept)),
                None => entry.fields.subtract(&set_of(path)),
            }
            if entry.fields.is_empty() {
                continue;
            }
        }
        out.push(entry);
    }
    for entry in of_scale.into_iter().filter(|e| e.fields.contains(&in_scale())) {
        let added = Entry { api_version: api_version.to_owned(), time: None, fields: set_of(path), ..entry };
        out.retain(|e| !e.is_same_manager(&added));
        out.push(added);
    }
    Ok(managers::encode(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, subresource: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
            "fieldsV1": fields, "subresource": subresource})
    }

    #[test]
    fn the_count_moves_between_managers() {
        let path = in_scale();
        let both = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let parent = json!([entry("one", "Apply", "", both)]);
        let scale = to_scale(&parent, &path).unwrap();
        assert_eq!(scale[0]["apiVersion"], "autoscaling/v1");
        assert_eq!(scale[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
        assert_eq!(
            to_parent(&parent, &scale, &path, "apps/v1").unwrap()[0]["fieldsV1"],
            parent[0]["fieldsV1"]
        );
        let mut taken = scale[0].clone();
        taken["manager"] = "two".into();
        taken["subresource"] = "scale".into();
        let after = to_parent(&parent, &json!([taken]), &path, "apps/v1").unwrap();
        assert_eq!(after[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
        assert_eq!(after[1], entry("two", "Apply", "scale", json!({"f:spec": {"f:replicas": {}}})));
    }
}
