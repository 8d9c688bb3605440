//! APIServices: those of this server's own groups are made and kept, and all are told whether their server answers.
//!
//! Both run as the API server itself, as upstream's do (upstream: kube-aggregator `pkg/controllers`).

pub mod available;
pub mod register;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition};

/// The one condition that there is.
const AVAILABLE: &str = "Available";

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    fn new(status: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}

/// Writes a condition into an object; the time changes with the status only
/// (upstream: `helper.SetAPIServiceCondition`). Whether anything changed.
fn set(service: &mut APIService, verdict: &Verdict, now: jiff::Timestamp) -> bool {
    let conditions = service.status.get_or_insert_default().conditions.get_or_insert_default();
    let Some(there) = conditions.iter_mut().find(|c| c.type_ == AVAILABLE) else {
        conditions.push(APIServiceCondition {
            type_: AVAILABLE.into(),
            status: verdict.status.into(),
            reason: Some(verdict.reason.into()),
            message: Some(verdict.message.clone()),
            last_transition_time: Some(Time(now)),
        });
        return true;
    };
    let before = there.clone();
    if there.status != verdict.status {
        there.status = verdict.status.into();
        there.last_transition_time = Some(Time(now));
    }
    there.reason = Some(verdict.reason.into());
    there.message = Some(verdict.message.clone());
    *there != before
}
