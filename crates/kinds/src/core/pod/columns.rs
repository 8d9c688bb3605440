//! The columns of `kubectl get pods` (upstream: `pkg/printers/internalversion/printers.go#printPod`).

use crate::columns::{AGE, NAME, age, column, wide};
use crate::def::Column;
use crate::validate::{items, text};
use jiff::Timestamp;
use meta::object;
use serde_json::Value;

pub const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", |o, _| {
        let s = summary(o);
        format!("{}/{}", s.ready, s.total).into()
    }),
    column("Status", "string", |o, _| summary(o).reason.into()),
    column("Restarts", "string", |o, now| restarts(o, now).into()),
    AGE,
    wide("IP", "string", |o, _| or_none(text(&o["status"]["podIPs"][0], "ip")).into()),
    wide("Node", "string", |o, _| or_none(text(&o["spec"], "nodeName")).into()),
    wide("Nominated Node", "string", |o, _| or_none(text(&o["status"], "nominatedNodeName")).into()),
    wide("Readiness Gates", "string", |o, _| gates(o).into()),
];

fn or_none(s: &str) -> String {
    if s.is_empty() { "<none>".to_owned() } else { s.to_owned() }
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: String,
}

fn condition<'a>(o: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&o["status"], "conditions").iter().find(|c| c["type"] == kind)
}

fn is_true(o: &Value, kind: &str) -> bool {
    condition(o, kind).is_some_and(|c| c["status"] == "True")
}

fn restartable(o: &Value, name: &str) -> bool {
    let found = items(&o["spec"], "initContainers").iter().find(|c| c["name"] == name);
    found.is_some_and(|c| c["restartPolicy"] == "Always")
}

/// How a terminated state is named.
fn ended(state: &Value) -> String {
    match (text(state, "reason"), state["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", state["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn later(last: &mut String, status: &Value) {
    let at = text(&status["lastState"]["terminated"], "finishedAt");
    if at > last.as_str() {
        at.clone_into(last);
    }
}

fn summary(o: &Value) -> Summary {
    let (spec, status) = (&o["spec"], &o["status"]);
    let phase = text(status, "phase");
    let mut reason = Some(text(status, "reason")).filter(|r| !r.is_empty()).unwrap_or(phase).to_owned();
    if condition(o, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let sidecars = items(spec, "initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut s = Summary {
        reason,
        ready: 0,
        total: items(spec, "containers").len() + sidecars,
        restarts: 0,
        last_restart: String::new(),
    };
    let initializing = init_summary(o, &mut s);
    if !initializing || is_true(o, "Initialized") {
        regular_summary(o, &mut s);
    }
    if object::is_deleting(o) {
        if status["reason"] == "NodeLost" {
            s.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            s.reason = "Terminating".to_owned();
        }
    }
    s
}

/// Reads the init containers; whether the pod still initialises. Restarts are those of sidecars once it does not.
fn init_summary(o: &Value, s: &mut Summary) -> bool {
    let (mut all, mut all_last) = (0, String::new());
    let mut initializing = false;
    for (i, c) in items(&o["status"], "initContainerStatuses").iter().enumerate() {
        let count = c["restartCount"].as_i64().unwrap_or(0);
        all += count;
        later(&mut all_last, c);
        let sidecar = restartable(o, text(c, "name"));
        if sidecar {
            s.restarts += count;
            later(&mut s.last_restart, c);
        }
        let (terminated, waiting) = (&c["state"]["terminated"], text(&c["state"]["waiting"], "reason"));
        if !terminated.is_null() && terminated["exitCode"] == 0 {
            continue;
        }
        if sidecar && c["started"] == true {
            s.ready += usize::from(c["ready"] == true);
            continue;
        }
        s.reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", items(&o["spec"], "initContainers").len())
        };
        initializing = true;
        break;
    }
    if initializing && !is_true(o, "Initialized") {
        s.restarts = all;
        s.last_restart = all_last;
    }
    initializing
}

fn regular_summary(o: &Value, s: &mut Summary) {
    let mut running = false;
    let mut failed = String::new();
    for c in items(&o["status"], "containerStatuses").iter().rev() {
        s.restarts += c["restartCount"].as_i64().unwrap_or(0);
        later(&mut s.last_restart, c);
        let (terminated, waiting) = (&c["state"]["terminated"], text(&c["state"]["waiting"], "reason"));
        if !waiting.is_empty() {
            waiting.clone_into(&mut s.reason);
        } else if !terminated.is_null() {
            s.reason = ended(terminated);
            if terminated["exitCode"] != 0 {
                failed.clone_from(&s.reason);
            }
        } else if c["ready"] == true && !c["state"]["running"].is_null() {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" {
        if running && is_true(o, "Ready") {
            s.reason = "Running".to_owned();
        } else if !failed.is_empty() {
            s.reason = failed;
        } else if running {
            s.reason = "NotReady".to_owned();
        }
    }
}

fn restarts(o: &Value, now: Timestamp) -> String {
    let s = summary(o);
    if s.restarts != 0 && !s.last_restart.is_empty() {
        return format!("{} ({} ago)", s.restarts, age(&s.last_restart, now));
    }
    s.restarts.to_string()
}

fn gates(o: &Value) -> String {
    let gates = items(&o["spec"], "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|g| is_true(o, text(g, "conditionType"))).count();
    format!("{passed}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(status: Value) -> (String, String) {
        let o = json!({"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}, "status": status});
        let s = summary(&o);
        (format!("{}/{}", s.ready, s.total), s.reason)
    }

    #[test]
    fn status_texts() {
        let cases = [
            (json!({"phase": "Pending"}), ("0/1", "Pending")),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                ("0/1", "Init:0/1"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}}]}),
                ("1/1", "Running"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                ("0/1", "CrashLoopBackOff"),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                ("0/1", "Completed"),
            ),
        ];
        for (status, (ready, reason)) in cases {
            assert_eq!(row(status.clone()), (ready.to_owned(), reason.to_owned()), "{status}");
        }
    }
}
