//! The ServiceCIDR `kubernetes` has the ranges that the operator names; it is made again when it is gone, and never made
//! another.
//!
//! upstream: `pkg/controlplane/controller/defaultservicecidr`

use super::{READY, ready, texts};
use crate::common::time;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, Kind, Patch};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::Status;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "kubernetes";
const MANAGER: &str = "kubernetes-service-cidr-controller";
/// Upstream: as often as the endpoints of the API server.
const EVERY: Duration = Duration::from_secs(10);
const FAILED: &str = "KubernetesDefaultServiceCIDRError";

/// What is to be done about the range.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create,
    /// The second family is new.
    Grow(Box<ServiceCIDR>),
    SetReady,
    /// Told once: reason and text.
    Warn(String, String),
    Nothing,
}

/// Pure. `cidrs` are the operator's.
fn plan(there: Option<&ServiceCIDR>, cidrs: &[String]) -> Step {
    let Some(there) = there else { return Step::Create };
    let has = texts(there);
    if cidrs.len() == 2 && has == &cidrs[..1] {
        let mut grown = there.clone();
        grown.spec = Some(ServiceCIDRSpec { cidrs: Some(cidrs.to_vec()) });
        return Step::Grow(Box::new(grown));
    }
    if there.is_deleting() {
        return Step::Nothing;
    }
    if has != cidrs {
        let (has, wanted) = (has.join(" "), cidrs.join(" "));
        let text = format!(
            "The default ServiceCIDR [{has}] does not match the controller flag configurations [{wanted}]"
        );
        return Step::Warn("KubernetesDefaultServiceCIDRInconsistent".into(), text);
    }
    match ready(there).map(|c| (c.status.as_str(), c)) {
        Some(("False", c)) => {
            Step::Warn(c.reason.clone(), format!("Configuration matches, but {}", c.message))
        }
        Some(("True", _)) => Step::Nothing,
        _ => Step::SetReady,
    }
}

async fn create(client: &Client, cidrs: &[String]) -> Result<(), Status> {
    let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
    let spec = Some(ServiceCIDRSpec { cidrs: Some(cidrs.to_vec()) });
    match client.create(&ServiceCIDR { metadata, spec, status: None }).await {
        Err(e) if !e.is_already_exists() => Err(e),
        _ => Ok(()),
    }
}

async fn set_ready(client: &Client, now: Timestamp) -> Result<(), Status> {
    let condition = json!({
        "type": READY, "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": time(now),
    });
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "status": {"conditions": [condition]},
    });
    let patch = Patch::Apply { manager: MANAGER, object };
    client.patch::<ServiceCIDR>("", NAME, Some("status"), patch).await.map(drop)
}

/// Makes the range before anything else needs addresses, at the start of the server.
///
/// # Errors
/// What the API said.
pub async fn ensure(client: &Client, cidrs: &[String], now: Timestamp) -> Result<(), Status> {
    let there = match client.get::<ServiceCIDR>("", NAME).await {
        Err(e) if e.is_not_found() => {
            create(client, cidrs).await?;
            client.get::<ServiceCIDR>("", NAME).await?
        }
        other => other?,
    };
    match plan(Some(&there), cidrs) {
        Step::SetReady => match set_ready(client, now).await {
            // another server that starts just now says it
            Err(e) if e.code == 409 => Ok(()),
            other => other,
        },
        // the rest is not needed at once
        _ => Ok(()),
    }
}

struct Keeper {
    client: Client,
    recorder: Recorder,
    ranges: Informer<ServiceCIDR>,
    cidrs: Vec<String>,
    clock: SharedClock,
    /// Reasons that were told.
    told: Mutex<HashSet<String>>,
}

pub(super) fn start(setup: &Setup) -> Handle {
    let ranges = setup.informers.of::<ServiceCIDR>();
    let client = setup.system.clone();
    let this = Keeper {
        recorder: setup.recorder(&client, MANAGER),
        client,
        ranges: ranges.clone(),
        cidrs: setup.config.service_cidrs.clone(),
        clock: setup.clock.clone(),
        told: Mutex::default(),
    };
    let controller = Controller::new("default-servicecidr", Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller.needs(&ranges).resync(EVERY, || vec![()]).start(setup.cancel.clone())
}

impl Keeper {
    fn warn(&self, about: &ServiceCIDR, reason: &str, text: String) {
        self.recorder.event(&reference(about), EventType::Warning, reason, text);
    }
}

#[async_trait]
impl Reconcile for Keeper {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        if self.cidrs.is_empty() {
            return Ok(After::Done);
        }
        let there = self.ranges.store().get("", NAME);
        let nobody = ServiceCIDR {
            metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
            ..ServiceCIDR::default()
        };
        let about = there.as_deref().unwrap_or(&nobody);
        match plan(there.as_deref(), &self.cidrs) {
            Step::Create => {
                if let Err(e) = create(&self.client, &self.cidrs).await {
                    self.warn(about, FAILED, "The default ServiceCIDR can not be created".into());
                    return Err(e.into());
                }
                return Box::pin(self.judge_new()).await;
            }
            Step::Grow(grown) => {
                if let Err(e) = self.client.update(&*grown).await {
                    let (from, to) = (&self.cidrs[0], self.cidrs.join(" "));
                    let text = format!(
                        "The default ServiceCIDR can not be upgraded from {from} to dual stack [{to}] : {e}"
                    );
                    self.warn(about, FAILED, text);
                }
            }
            Step::SetReady => self.make_ready(about).await,
            Step::Warn(reason, text) => {
                if self.told.lock().insert(reason.clone()) {
                    self.warn(about, &reason, text);
                }
            }
            Step::Nothing => {}
        }
        Ok(After::Done)
    }
}

impl Keeper {
    async fn judge_new(&self) -> Result<After, Error> {
        let there = self.client.get::<ServiceCIDR>("", NAME).await?;
        if plan(Some(&there), &self.cidrs) == Step::SetReady {
            self.make_ready(&there).await;
        }
        Ok(After::Done)
    }

    async fn make_ready(&self, about: &ServiceCIDR) {
        if set_ready(&self.client, self.clock.now()).await.is_err() {
            let text = "The default ServiceCIDR Status can not be set to Ready=True";
            self.warn(about, FAILED, text.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn there(cidrs: &[&str], condition: Option<Value>) -> ServiceCIDR {
        let status = json!({"conditions": condition.into_iter().collect::<Vec<_>>()});
        let v = json!({"metadata": {"name": NAME}, "spec": {"cidrs": cidrs}, "status": status});
        serde_json::from_value(v).unwrap()
    }

    fn condition(status: &str) -> Option<Value> {
        Some(json!({"type": "Ready", "status": status, "reason": "Why", "message": "so",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}))
    }

    #[test]
    fn the_range_is_made_grown_and_judged_but_never_changed() {
        let own = ["10.0.0.0/16".to_owned()];
        let dual = ["10.0.0.0/16".to_owned(), "fd00::/112".to_owned()];
        assert_eq!(plan(None, &own), Step::Create);
        assert_eq!(plan(Some(&there(&["10.0.0.0/16"], None)), &own), Step::SetReady);
        assert_eq!(plan(Some(&there(&["10.0.0.0/16"], condition("True"))), &own), Step::Nothing);
        let Step::Grow(grown) = plan(Some(&there(&["10.0.0.0/16"], condition("True"))), &dual) else {
            panic!("grows")
        };
        assert_eq!(texts(&grown), dual);
        assert_eq!(
            plan(Some(&there(&["10.0.0.0/16"], condition("False"))), &own),
            Step::Warn("Why".into(), "Configuration matches, but so".into())
        );
        let Step::Warn(reason, text) = plan(Some(&there(&["10.1.0.0/16"], None)), &dual) else {
            panic!("told")
        };
        assert_eq!(reason, "KubernetesDefaultServiceCIDRInconsistent");
        assert_eq!(
            text,
            "The default ServiceCIDR [10.1.0.0/16] does not match the controller flag configurations [10.0.0.0/16 fd00::/112]"
        );
        let mut going = there(&["10.1.0.0/16"], None);
        going.metadata.deletion_timestamp = Some(time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(plan(Some(&going), &own), Step::Nothing);
    }
}
