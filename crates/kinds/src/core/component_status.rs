//! ComponentStatus: computed when asked, never stored; deprecated (upstream: `pkg/registry/core/componentstatus`).

use crate::columns::{NAME, column};
use crate::def::{KindDef, Scope};
use crate::validate::{items, text};
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        kind: "ComponentStatus".into(),
        plural: "componentstatuses".into(),
        singular: "componentstatus".into(),
        short: &["cs"],
        scope: Scope::Cluster,
        verbs: &["get", "list"],
        schema: "io.k8s.api.core.v1.ComponentStatus".into(),
        columns: const {
            &[
                NAME,
                column("Status", "string", |o, _| match healthy(o).map(|c| text(c, "status")) {
                    Some("True") => "Healthy".into(),
                    Some(_) => "Unhealthy".into(),
                    None => "Unknown".into(),
                }),
                column("Message", "string", |o, _| healthy(o).map_or("", |c| text(c, "message")).into()),
                column("Error", "string", |o, _| healthy(o).map_or("", |c| text(c, "error")).into()),
            ]
        },
        deprecated: Some("v1 ComponentStatus is deprecated in v1.19+"),
        sample: "apiVersion: v1\nkind: ComponentStatus\nmetadata: {name: scheduler}\nconditions: [{type: Healthy, status: \"True\", message: ok}]\n",
        ..KindDef::BASE
    }
}

fn healthy(o: &Value) -> Option<&Value> {
    items(o, "conditions").iter().find(|c| text(c, "type") == "Healthy")
}
