//! Pods: what the API asks for, brought about on this node.
//!
//! [`plan`] decides, [`worker`] acts, [`status`] reports; the other modules turn parts of a specification into
//! settings, purely.

pub mod admission;
pub mod env;
pub mod expand;
pub mod field_path;
pub mod hooks;
pub mod kill;
pub mod model;
pub mod objects;
pub mod plan;
pub mod record;
pub mod references;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod settings;
pub mod spec;
pub mod start;
pub mod status;
pub mod status_writer;
pub mod termination;
pub mod users;
pub mod worker;

use crate::config::NodeConfig;
use k8s_openapi::api::core::v1::Pod;
use std::path::PathBuf;

/// Directories that belong to one pod alone.
fn paths_of(config: &NodeConfig, pod: &Pod) -> [PathBuf; 2] {
    let (ns, name, uid) = (spec::namespace(pod), spec::name(pod), spec::uid(pod));
    [config.pod_dir(uid), crate::paths::pod_logs(&config.pod_logs_dir, ns, name, uid)]
}
