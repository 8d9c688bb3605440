//! The parameters of a policy: which objects a binding names (upstream: `generic.CollectParams`).

use super::row_of;
use crate::chain::Attributes;
use kinds::KindDef;
use meta::selector::LabelSelector;
use registry::{ListQuery, Match, Registry, Selectors};
use serde_json::Value;
use std::sync::Arc;

/// The kind of a policy's parameters.
#[derive(Clone, Debug)]
pub struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

impl ParamKind {
    pub fn parse(v: &Value) -> Option<Self> {
        let text = |field: &str| v[field].as_str().unwrap_or("").to_owned();
        v.is_object().then(|| Self { api_version: text("apiVersion"), kind: text("kind") })
    }

    /// # Errors
    /// The kind is not served.
    pub fn row(&self, registry: &Registry) -> Result<Arc<KindDef>, String> {
        row_of(registry, &self.api_version, &self.kind).ok_or_else(|| {
            let gv = if self.api_version.contains('/') {
                self.api_version.clone()
            } else {
                format!("/{}", self.api_version)
            };
            format!("failed to find resource referenced by paramKind: '{gv}, Kind={}'", self.kind)
        })
    }
}

/// Which objects of the kind.
#[derive(Clone, Debug)]
pub struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Result<LabelSelector, String>>,
    /// `parameterNotFoundAction: Deny`.
    required: bool,
}

impl ParamRef {
    pub fn parse(v: &Value) -> Option<Self> {
        let text = |field: &str| v[field].as_str().unwrap_or("").to_owned();
        v.is_object().then(|| Self {
            name: text("name"),
            namespace: text("namespace"),
            selector: Some(&v["selector"]).filter(|s| s.is_object()).map(LabelSelector::from_value),
            required: v["parameterNotFoundAction"] == "Deny",
        })
    }

    /// The objects; none when there are none and that is allowed.
    ///
    /// # Errors
    /// The reference does not fit the kind, or there must be an object and is none.
    pub async fn collect(
        &self,
        registry: &Registry,
        a: &Attributes<'_>,
        row: &KindDef,
    ) -> Result<Vec<Option<Value>>, String> {
        let namespace = self.namespace(row, a.namespace)?;
        let found = match &self.selector {
            None if !self.name.is_empty() => self.named(registry, a, row, namespace).await?,
            Some(_) if !self.name.is_empty() => {
                return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned());
            }
            Some(selector) => {
                let selector = selector.clone()?;
                selected(registry, a, row, namespace, selector).await?
            }
            None => return Err("one of name or selector must be provided".to_owned()),
        };
        if found.is_empty() && self.required {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found.into_iter().map(Some).collect())
    }

    /// Where the objects are; empty for those of the cluster.
    fn namespace<'a>(&'a self, row: &KindDef, requested: &'a str) -> Result<&'a str, String> {
        match (row.namespaced(), self.namespace.as_str()) {
            (false, "") => Ok(""),
            (false, _) => {
                Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned())
            }
            (true, "") if requested.is_empty() => {
                Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .to_owned())
            }
            (true, "") => Ok(requested),
            (true, own) => Ok(own),
        }
    }

    async fn named(
        &self,
        registry: &Registry,
        a: &Attributes<'_>,
        row: &KindDef,
        namespace: &str,
    ) -> Result<Vec<Value>, String> {
        match registry.get(&a.permit, row, namespace, &self.name, "0").await {
            Ok(bytes) => Ok(vec![serde_json::from_slice(&bytes).map_err(|e| e.to_string())?]),
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            Err(e) => Err(e.message),
        }
    }
}

async fn selected(
    registry: &Registry,
    a: &Attributes<'_>,
    row: &KindDef,
    namespace: &str,
    selector: LabelSelector,
) -> Result<Vec<Value>, String> {
    let query = ListQuery {
        selectors: Selectors { labels: selector, ..Selectors::default() },
        limit: 0,
        resume: None,
        resource_version: "0".to_owned(),
        matching: Match::Unset,
    };
    let within = row.namespaced().then_some(namespace);
    let listed = registry.list(&a.permit, row, within, &query).await.map_err(|e| e.message)?;
    listed.items.iter().map(|bytes| serde_json::from_slice(bytes).map_err(|e| e.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_parameters_are() {
        let rows: Vec<KindDef> = kinds::KINDS.iter().map(|row| row()).collect();
        let row = |kind: &str| rows.iter().find(|r| r.kind == kind).expect("a row");
        let at = |r: Value, kind: &str, requested: &str| {
            ParamRef::parse(&r).expect("a reference").namespace(row(kind), requested).map(str::to_owned)
        };
        assert_eq!(at(json!({"name": "p"}), "ConfigMap", "n"), Ok("n".into()));
        assert_eq!(at(json!({"name": "p", "namespace": "o"}), "ConfigMap", "n"), Ok("o".into()));
        assert_eq!(at(json!({"name": "p"}), "Namespace", "n"), Ok(String::new()));
        assert_eq!(
            at(json!({"name": "p"}), "ConfigMap", ""),
            Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .into())
        );
        assert_eq!(
            at(json!({"name": "p", "namespace": "o"}), "Namespace", ""),
            Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into())
        );
    }
}
