//! Ranges of service addresses and the objects that stand for addresses.
//!
//! Three controllers: the range that the operator names is always there ([`default`]), a range stays while addresses
//! need it ([`ranges`]), and Services and IPAddresses name each other ([`repair`]).

pub mod default;
pub mod ranges;
pub mod repair;

use crate::start::Setup;
use client::Kind;
use client::controller::Handle;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kinds::ip::{self, Cidr};
use std::net::IpAddr;
use std::sync::Arc;

/// Who makes the addresses of Services (upstream: `ipallocator.ControllerName`).
const MANAGER: &str = "ipallocator.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const READY: &str = "Ready";

/// Starts the three.
pub(crate) fn start(setup: &Setup) -> [Handle; 3] {
    [default::start(setup), ranges::start(setup), repair::start(setup)]
}

fn texts(object: &ServiceCIDR) -> &[String] {
    object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn cidrs_of(object: &ServiceCIDR) -> impl Iterator<Item = Cidr> + '_ {
    texts(object).iter().filter_map(|c| ip::parse_cidr(c))
}

fn ready(object: &ServiceCIDR) -> Option<&Condition> {
    object.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == READY)
}

/// The ranges that an address can be of.
fn with_address(all: &[Arc<ServiceCIDR>], ip: IpAddr) -> impl Iterator<Item = &Arc<ServiceCIDR>> {
    all.iter().filter(move |object| cidrs_of(object).any(|c| c.serves(ip)))
}

fn is_managed(address: &IPAddress) -> bool {
    address.label(MANAGED_BY) == Some(MANAGER)
}

/// The name of an address's family.
fn family(is_ipv4: bool) -> &'static str {
    if is_ipv4 { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests;
