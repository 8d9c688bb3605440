//! The controllers: each brings one kind of object to what its spec asks for, through the API, under its own identity.
//!
//! A folder per controller: a pure `plan` from a view of the world to actions, its wiring to informers and the one
//! control loop, and its cases. Constants, messages and conditions are upstream's.

mod all_kinds;
pub mod api_services;
pub mod apiserver_lease;
pub mod authentication_trust;
pub mod certificates;
pub mod cluster_role;
pub mod common;
pub mod cronjob;
pub mod custom_resources;
pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod garbage;
pub mod job;
pub mod legacy_tokens;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_ports;
pub mod pod_gc;
pub mod policy_status;
pub mod replicaset;
mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_cidrs;
mod start;
pub mod storage_migration;
pub mod token_secrets;
pub mod ttl_after_finished;
pub mod volume_protection;

pub use start::{Clients, Config, Handles, start, start_in_server};
