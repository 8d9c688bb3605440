//! Validation of pods and templates (upstream: `pkg/apis/core/validation/validation.go`).

mod affinity;
mod allowed;
mod annotations;
mod containers;
mod env;
mod handlers;
mod mounts;
mod requirements;
mod resize_policy;
mod restart;
mod scheduling;
mod security;
mod spec;
mod status;
mod update;
mod volumes;
mod windows;

pub use annotations::update as annotations_update;
pub use containers::all as all_containers;
pub use security::apparmor as apparmor_profile;
pub use status::errors as status_update;
pub use update::errors as update;

use crate::validate::{items, labels, non_negative, text};
use allowed::Allowed;
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Errors of a Pod about to be created.
pub fn pod(obj: &Value) -> ErrorList {
    let mut errors = existing(obj, &Value::Null);
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    if !items(spec, "ephemeralContainers").is_empty() {
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && !items(spec, "schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(Error::forbidden(&path.child("nodeName"), detail));
    }
    annotations::agree(obj, &path, &mut errors);
    errors
}

/// Errors of a Pod as a whole, whenever it was made (upstream: `validatePodMetadataAndSpec`); what `old` had may stay.
pub fn existing(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("metadata").child("annotations");
    annotations::errors(obj, Some(old).filter(|o| o.is_object()), &at, &mut errors);
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    errors.extend(spec::errors(spec, obj, &Allowed::by(&old["spec"]), &path));
    if text(spec, "serviceAccountName").is_empty() {
        tokens(spec, &path.child("volumes"), &mut errors);
    }
    non_negative(spec, "terminationGracePeriodSeconds", &path, &mut errors);
    for list in ["containers", "initContainers"] {
        for (i, c) in items(spec, list).iter().enumerate() {
            containers::image_of_pod(c, &path.child(list).index(i), &mut errors);
        }
    }
    errors
}

/// Tokens are of a service account.
fn tokens(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, v) in items(spec, "volumes").iter().enumerate() {
        let at = path.index(i).child("projected").child("sources");
        for (j, s) in items(&v["projected"], "sources").iter().enumerate() {
            if s["serviceAccountToken"].is_object() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(Error::forbidden(&at.index(j).child("serviceAccountToken"), detail));
            }
        }
    }
}

/// Errors of a pod template.
pub fn template(template: &Value, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    let meta = &template["metadata"];
    labels(&meta["labels"], &path.child("labels"), &mut errors);
    let at = path.child("annotations");
    volumes::annotations(&meta["annotations"], &at, &mut errors);
    annotations::errors(template, None, &at, &mut errors);
    let at = path.child("spec");
    errors.extend(spec::errors(&template["spec"], &Value::Null, &Allowed::default(), &at));
    annotations::agree(template, &at, &mut errors);
    if !items(&template["spec"], "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(&at.child("ephemeralContainers"), detail));
    }
    errors
}
