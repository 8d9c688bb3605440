//! **The table**: every kind that the cluster serves, one row each.
//!
//! Routes, discovery, OpenAPI, tables, storage keys, RBAC names and table-wide tests derive from [`KINDS`].
//! A custom resource is a [`KindDef`] made at run time; nothing above this crate tells the two apart.

pub mod admissionregistration;
pub mod amounts;

pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod columns;
pub mod coordination;
pub mod core;
pub mod custom;
pub mod declared;
pub mod def;
pub mod diff;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod helpers;
mod internal;
pub mod ip;
pub mod networking;
pub mod node;
pub mod node_selector;
pub mod openapi;
pub mod pod_defaults;
pub mod pod_resources;
pub mod pod_warnings;
pub mod policy;
pub mod quota;
pub mod rbac;
pub mod resource;
pub mod resources;
pub mod rest;
pub mod reviews;
pub mod scheduling;
pub mod schema;
pub mod status;
pub mod storage;
pub mod storagemigration;
#[cfg(test)]
mod table_tests;
pub mod validate;

pub use def::*;

/// Every built-in kind, in the order in which discovery lists groups and versions.
pub static KINDS: &[fn() -> KindDef] = &[
    core::binding::kind,
    core::component_status::kind,
    core::config_map::kind,
    core::endpoints::kind,
    core::event::kind,
    core::limit_range::kind,
    core::namespace::kind,
    core::node::kind,
    core::persistent_volume_claim::kind,
    core::persistent_volume::kind,
    core::pod::kind,
    core::pod_template::kind,
    core::replication_controller::kind,
    core::resource_quota::kind,
    core::secret::kind,
    core::service::kind,
    core::service_account::kind,
    apiregistration::api_service,
    apps::controller_revision::kind,
    apps::daemon_set::kind,
    apps::deployment::kind,
    apps::replica_set::kind,
    apps::stateful_set::kind,
    events::kind,
    reviews::self_subject_review,
    reviews::token_review,
    reviews::local_subject_access_review,
    reviews::self_subject_access_review,
    reviews::self_subject_rules_review,
    reviews::subject_access_review,
    networking::ingress_class::kind,
    networking::ingress::kind,
    networking::address::ip_address,
    networking::network_policy::kind,
    networking::address::service_cidr,
    autoscaling::v2,
    autoscaling::v1,
    batch::cron_job::kind,
    batch::job::kind,
    certificates::csr::kind,
    certificates::trust_bundle::kind,
    certificates::pod_certificate::kind,
    policy::pod_disruption_budget,
    rbac::cluster_role_binding,
    rbac::cluster_role,
    rbac::role_binding,
    rbac::role,
    storage::driver::kind,
    storage::node::kind,
    storage::capacity::kind,
    storage::class::storage_class,
    storage::attachment::kind,
    storage::class::volume_attributes_class,
    admissionregistration::policies::mutating,
    admissionregistration::policies::mutating_binding,
    admissionregistration::webhooks::mutating,
    admissionregistration::policies::validating,
    admissionregistration::policies::validating_binding,
    admissionregistration::webhooks::validating,
    apiextensions::custom_resource_definition,
    scheduling::priority_class,
    coordination::lease,
    node::runtime_class,
    discovery::endpoint_slice,
    resource::class::kind,
    resource::taint_rule::kind,
    resource::claim::claim,
    resource::claim::template,
    resource::slice::kind,
    flowcontrol::flow_schema::kind,
    flowcontrol::priority_level::kind,
    storagemigration::storage_version_migration,
];

/// The built-in rows.
pub fn table() -> Vec<std::sync::Arc<KindDef>> {
    KINDS.iter().map(|row| std::sync::Arc::new(row())).collect()
}
