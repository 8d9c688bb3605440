//! Priority and fairness of the cluster: its objects at the first start, and the server acting by what is stored.

use crate::config::UpOptions;
use apiserver::filters::flow::{FlowControl, classify};
use base::clock::SharedClock;
use client::Client;
use http::Method;
use meta::object;
use parking_lot::Mutex;
use registry::Registry;
use registry::snapshot::Snapshot;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const BASE: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// Makes the default levels and schemas that are missing; those that must exist are put back when they were changed
/// (upstream: apiserver `pkg/registry/flowcontrol/ensurer`).
pub async fn defaults(client: &Client) -> Result<(), String> {
    let (levels, schemas) = classify::defaults();
    for (plural, objects) in [("prioritylevelconfigurations", levels), ("flowschemas", schemas)] {
        for wanted in objects {
            let name = object::name(&wanted);
            let path = format!("{BASE}/{plural}");
            match client.raw(Method::POST, &path, Some(&wanted)).await {
                Err(e) if e.is_already_exists() => {}
                Err(e) => return Err(format!("create {plural} {name}: {e}")),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

/// Levels and schemas as last seen.
#[derive(Default)]
struct Seen {
    levels: Vec<Value>,
    schemas: Vec<Value>,
}

/// Follows what is stored.
pub fn follow(
    options: &UpOptions,
    registry: &Arc<Registry>,
    clock: &SharedClock,
    cancel: &CancellationToken,
) -> Arc<FlowControl> {
    let (reading, changing) = (options.max_requests_inflight, options.max_mutating_requests_inflight);
    let flow = Arc::new(FlowControl::new(reading, changing, clock.clone()));
    let seen: Arc<Mutex<Seen>> = Arc::default();
    for (plural, is_level) in [("prioritylevelconfigurations", true), ("flowschemas", false)] {
        let Some(row) = registry.kinds().resource(GROUP, "v1", plural) else { continue };
        let (flow, seen) = (flow.clone(), seen.clone());
        let take = move |objects: &[Value]| {
            let mut seen = seen.lock();
            *(if is_level { &mut seen.levels } else { &mut seen.schemas }) = objects.to_vec();
            // Before both are there, the defaults hold.
            if !seen.levels.is_empty() && !seen.schemas.is_empty() {
                flow.configure(&seen.levels, &seen.schemas);
            }
        };
        drop(Snapshot::start(registry, &row, take, cancel.clone()));
    }
    flow
}
