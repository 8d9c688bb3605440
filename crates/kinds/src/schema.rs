//! The schema data: the type table of the built-in kinds, made by `cargo xtask schema`.

use meta::schema::Schema;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static TEXT: &str = include_str!("../schema/v1.37.json");

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| serde_json::from_str(TEXT).unwrap_or_default());

/// The table, read on first use (a few milliseconds). The data is part of the program and tested to be readable.
pub fn schema() -> &'static Schema {
    &SCHEMA
}

static DESCRIPTIONS: LazyLock<BTreeMap<String, BTreeMap<String, String>>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../schema/descriptions.json")).unwrap_or_default());

/// What a field of a built-in type is for; the empty field is the type itself. Read on first use.
pub fn description(ty: &str, field: &str) -> Option<&'static str> {
    DESCRIPTIONS.get(ty)?.get(field).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::schema::Ty;

    #[test]
    fn every_type_that_is_named_is_there() {
        fn check(ty: &Ty) {
            match ty {
                Ty::Ref(name) => assert!(schema().types.contains_key(name), "{name}"),
                Ty::List(inner) | Ty::Map(inner) => check(inner),
                _ => {}
            }
        }
        assert!(schema().types.len() > 200);
        schema().types.values().flat_map(|t| t.fields.values()).for_each(|f| check(&f.ty));
    }

    #[test]
    fn every_row_has_its_type() {
        for row in crate::KINDS {
            let row = row();
            assert!(schema().types.contains_key(&*row.schema), "{} {}", row.kind, row.schema);
        }
    }

    #[test]
    fn fields_are_described() {
        assert!(
            description("io.k8s.api.core.v1.Pod", "").is_some_and(|d| d.contains("collection of containers"))
        );
        assert!(
            description("io.k8s.api.core.v1.Pod", "spec").is_some_and(|d| d.starts_with("Specification"))
        );
        let spec = "io.k8s.api.core.v1.PodSpec";
        assert!(schema().types[spec].fields.keys().all(|f| description(spec, f).is_some()));
    }

    #[test]
    fn what_the_sources_say_is_kept() {
        let spec = &schema().types["io.k8s.api.core.v1.PodSpec"];
        let containers = &spec.fields["containers"];
        assert!(containers.required && !containers.omitempty && containers.proto == 2);
        assert_eq!(
            (containers.patch_strategy.as_str(), containers.patch_merge_key.as_str()),
            ("merge", "name")
        );
        assert_eq!(containers.list_map_keys, ["name"]);
        assert!(spec.fields["terminationGracePeriodSeconds"].pointer);
        let port = &schema().types["io.k8s.api.core.v1.ContainerPort"].fields["protocol"];
        assert_eq!(port.default, Some("TCP".into()));
    }
}
