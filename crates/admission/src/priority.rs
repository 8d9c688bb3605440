//! Priority: a pod's priority is its class's value (upstream: `plugin/pkg/admission/priority`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::field::quoted;
use meta::permit::Permit;
use meta::status::{Result, Status};
use registry::{ListQuery, Match, Operation, Registry, Selectors};
use serde_json::Value;
use std::sync::Arc;

pub struct Priority {
    registry: Arc<Registry>,
}

impl Priority {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The class that pods without one get; the one of lowest value when several claim it.
    async fn global_default(&self, permit: &Permit) -> Result<Option<Value>> {
        let Some(row) = self.registry.kinds().resource("scheduling.k8s.io", "v1", "priorityclasses") else {
            return Ok(None);
        };
        let query = ListQuery {
            selectors: Selectors::default(),
            limit: 0,
            resume: None,
            resource_version: String::new(),
            matching: Match::Unset,
        };
        let listed = self.registry.list(permit, &row, None, &query).await?;
        let classes = listed.items.iter().filter_map(|b| serde_json::from_slice::<Value>(b).ok());
        Ok(classes.filter(|c| c["globalDefault"] == true).min_by_key(|c| c["value"].as_i64().unwrap_or(0)))
    }

    fn class(&self, a: &Attributes<'_>, new: &Value, name: &str) -> Result<Value> {
        let row = self.registry.kinds().resource("scheduling.k8s.io", "v1", "priorityclasses");
        let row = row.ok_or_else(Status::no_such_resource)?;
        self.registry.get_value(&a.permit, &row, "", name).map_err(|e| {
            if !e.is_not_found() {
                return e;
            }
            let why = format!("no PriorityClass with name {name} was found");
            a.forbidden(Some(new), &why)
        })
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        match phase {
            Phase::Admit => a.is("", "pods") && a.subresource.is_empty(),
            Phase::Validate => a.is("scheduling.k8s.io", "priorityclasses"),
        }
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
        if let (Operation::Update, Some(old)) = (a.operation, old) {
            // what was computed stays when a client leaves it out
            for field in ["priority", "preemptionPolicy"] {
                if new["spec"][field].is_null() && !old["spec"][field].is_null() {
                    new["spec"][field] = old["spec"][field].clone();
                }
            }
        }
        if a.operation != Operation::Create {
            return Ok(());
        }
        let name = new["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
        let class = if name.is_empty() {
            self.global_default(&a.permit).await?
        } else {
            Some(self.class(a, new, &name)?)
        };
        let value = class.as_ref().map_or(0, |c| c["value"].as_i64().unwrap_or(0));
        let policy =
            class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
        let refuse = |what: String, computed: &str| {
            let why = format!(
                "the {what} must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
            );
            Err(a.forbidden(Some(new), &why))
        };
        if let Some(given) = new["spec"]["priority"].as_i64().filter(|p| *p != value) {
            return refuse(format!("integer value of priority ({given})"), &value.to_string());
        }
        if let Some(given) = new["spec"]["preemptionPolicy"].as_str().filter(|p| *p != policy) {
            return refuse(format!("string value of PreemptionPolicy ({given})"), policy);
        }
        if let (true, Some(c)) = (name.is_empty(), &class) {
            new["spec"]["priorityClassName"] = c["metadata"]["name"].clone();
        }
        new["spec"]["priority"] = value.into();
        if new["spec"]["preemptionPolicy"].is_null() {
            new["spec"]["preemptionPolicy"] = policy.into();
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, _old: Option<&Value>) -> Result<()> {
        let Some(new) = new.filter(|n| n["globalDefault"] == true) else { return Ok(()) };
        let other = self
            .global_default(&a.permit)
            .await?
            .filter(|c| c["metadata"]["name"] != new["metadata"]["name"]);
        let Some(other) = other else { return Ok(()) };
        let other = other["metadata"]["name"].as_str().unwrap_or("");
        let why = format!(
            "PriorityClass {other} is already marked as default. Only one default can exist",
            other = quoted(other)
        );
        Err(a.forbidden(Some(new), &why))
    }
}
