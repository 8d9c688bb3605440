//! The columns of `kubectl get hpa` (upstream: `pkg/printers/internalversion/printers.go#formatHPAMetrics`).

use super::convert;
use crate::columns::{AGE, NAME, column};
use crate::def::Column;
use crate::validate::{items, text};
use serde_json::Value;

/// Metrics that are shown; more are counted.
const SHOWN_MAX: usize = 2;

pub const V2: &[Column] =
    &[NAME, REFERENCE, column("Targets", "string", |o, _| targets(o).into()), MIN, MAX, REPLICAS, AGE];

pub const V1: &[Column] = &[
    NAME,
    REFERENCE,
    column("Targets", "string", |o, _| targets(&convert::to_v2(o)).into()),
    MIN,
    MAX,
    REPLICAS,
    AGE,
];

const REFERENCE: Column = column("Reference", "string", |o, _| {
    let target = &o["spec"]["scaleTargetRef"];
    format!("{}/{}", text(target, "kind"), text(target, "name")).into()
});

const MIN: Column = column("MinPods", "string", |o, _| match o["spec"]["minReplicas"].as_i64() {
    Some(n) => n.to_string().into(),
    None => "<unset>".into(),
});

const MAX: Column = column("MaxPods", "string", |o, _| o["spec"]["maxReplicas"].as_i64().unwrap_or(0).into());

const REPLICAS: Column =
    column("Replicas", "string", |o, _| o["status"]["currentReplicas"].as_i64().unwrap_or(0).into());

/// Current and wanted values of the metrics, as `cpu: 10%/70%`.
fn targets(o: &Value) -> String {
    let (metrics, statuses) = (items(&o["spec"], "metrics"), items(&o["status"], "currentMetrics"));
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let mut shown: Vec<String> =
        metrics.iter().enumerate().map(|(i, m)| target(m, statuses.get(i).unwrap_or(&Value::Null))).collect();
    if shown.len() <= SHOWN_MAX {
        return shown.join(", ");
    }
    let more = shown.len() - SHOWN_MAX;
    shown.truncate(SHOWN_MAX);
    format!("{} + {more} more...", shown.join(", "))
}

fn target(metric: &Value, status: &Value) -> String {
    let field = match text(metric, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (wanted, now) = (&metric[field]["target"], &status[field]["current"]);
    let amount = |v: &Value, f: &str| v[f].as_str().unwrap_or("<unknown>").to_owned();
    let average = !wanted["averageValue"].is_null();
    let values = |f: &str| format!("{}/{}", amount(now, f), text(wanted, f));
    match field {
        "pods" => values("averageValue"),
        "resource" | "containerResource" => {
            let name = text(&metric[field], "name");
            if average {
                return format!("{name}: {}", values("averageValue"));
            }
            let percent = |v: &Value, none: &str| {
                v["averageUtilization"].as_i64().map_or_else(|| none.to_owned(), |n| format!("{n}%"))
            };
            format!("{name}: {}/{}", percent(now, "<unknown>"), percent(wanted, "<auto>"))
        }
        _ if average => format!("{} (avg)", values("averageValue")),
        _ => values("value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `printers_test.go#TestPrintHPA`.
    #[test]
    fn targets_are_told() {
        let external = |target: Value| json!({"type": "External", "external": {"metric": {"name": "m"}, "target": target}});
        let cpu =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"target": {"averageValue": "100m"}}});
        let cases = [
            (json!([]), json!([]), "<none>"),
            (json!([external(json!({"averageValue": "100m"}))]), json!([]), "<unknown>/100m (avg)"),
            (
                json!([external(json!({"averageValue": "100m"}))]),
                json!([{"type": "External", "external": {"current": {"averageValue": "50m"}}}]),
                "50m/100m (avg)",
            ),
            (
                json!([external(json!({"value": "100m"}))]),
                json!([{"type": "External", "external": {"current": {"value": "50m"}}}]),
                "50m/100m",
            ),
            (
                json!([pods]),
                json!([{"type": "Pods", "pods": {"current": {"averageValue": "50m"}}}]),
                "50m/100m",
            ),
            (json!([cpu]), json!([]), "cpu: <unknown>/80%"),
            (
                json!([cpu]),
                json!([{"type": "Resource", "resource": {"current": {"averageUtilization": 50, "averageValue": "40m"}}}]),
                "cpu: 50%/80%",
            ),
            (
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"averageValue": "100m"}}}]),
                json!([]),
                "cpu: <unknown>/100m",
            ),
            (
                json!([pods, cpu, pods, external(json!({"value": "1"}))]),
                json!([]),
                "<unknown>/100m, cpu: <unknown>/80% + 2 more...",
            ),
        ];
        for (metrics, current, shown) in cases {
            let o = json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": current}});
            assert_eq!(targets(&o), shown, "{o}");
        }
    }
}
