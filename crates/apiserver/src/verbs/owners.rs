//! Owner references that are there twice are kept once, and the client is told
//! (upstream: apiserver `pkg/endpoints/handlers/rest.go#dedupOwnerReferencesAndAddWarning`).

use serde_json::Value;

/// When they are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    AsSent,
    Admitted,
}

/// Takes them out; gives the warning.
pub fn dedup(obj: &mut Value, when: When) -> Option<String> {
    let refs = obj.get_mut("metadata")?.get_mut("ownerReferences")?.as_array_mut()?;
    let mut kept: Vec<Value> = Vec::with_capacity(refs.len());
    let mut twice = Vec::new();
    for one in std::mem::take(refs) {
        match kept.contains(&one) {
            true => twice.push(one["uid"].as_str().unwrap_or("").to_owned()),
            false => kept.push(one),
        }
    }
    *refs = kept;
    if twice.is_empty() {
        return None;
    }
    let after = if when == When::Admitted { " after mutating admission happens" } else { "" };
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries{after}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_owner_is_named_once() {
        let one = |uid: &str| json!({"uid": uid});
        let mut obj = json!({"metadata": {"ownerReferences": [one("a"), one("b"), one("a")]}});
        let told = dedup(&mut obj, When::AsSent).expect("a warning");
        assert!(told.ends_with("UID(s) observed: a"), "{told}");
        assert_eq!(obj["metadata"]["ownerReferences"], json!([one("a"), one("b")]));
        assert_eq!(dedup(&mut obj, When::Admitted), None);
        assert_eq!(dedup(&mut json!({}), When::AsSent), None);
    }
}
