//! Which address families a Service has (upstream: `pkg/registry/core/service/storage/alloc.go#initIPFamilyFields`).
//! Pure: reads and writes the Service only.

use kinds::core::service::cluster_ip_errors;
use kinds::ip;
use kinds::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

pub const V4: &str = "IPv4";
pub const V6: &str = "IPv6";

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// The family of an address; anything that is no IPv6 address counts as IPv4, as upstream's does.
pub fn of_address(address: &str) -> &'static str {
    if ip::parse(address).is_some_and(|a| a.is_ipv6()) { V6 } else { V4 }
}

/// Whether an update leaves all about addresses as it is: such a Service of two wishes is neither given a second
/// address nor robbed of it because the cluster changed (upstream: `isMatchingPreferDualStackClusterIPFields`).
pub fn stays(new: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    let (n, o) = (&new["spec"], &old["spec"]);
    let policy_of_old = text(o, "ipFamilyPolicy");
    text(n, "ipFamilyPolicy") == PREFER
        && (policy_of_old.is_empty() || policy_of_old == PREFER)
        && n["type"] == o["type"]
        && matches!(text(n, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        && same_addresses(n, o)
        && items(n, "ipFamilies") == items(o, "ipFamilies")
}

/// Completes policy and families. `configured` are the cluster's families, the default first.
pub fn settle(new: &mut Value, old: Option<&Value>, configured: &[&'static str]) -> Result<(), ErrorList> {
    if text(&new["spec"], "type") == "ExternalName" || stays(new, old) {
        return Ok(());
    }
    let free = text(&new["spec"], "clusterIP") == "None" && !has_selector(&new["spec"]);
    if text(&new["spec"], "ipFamilyPolicy").is_empty() {
        let before = old.map_or("", |o| text(&o["spec"], "ipFamilyPolicy"));
        let policy = match before {
            "" if free => REQUIRE,
            "" => SINGLE,
            before => before,
        };
        new["spec"]["ipFamilyPolicy"] = policy.into();
    }
    failed(cluster_ip_errors(new, old))?;
    let mut errors = Vec::new();
    if let Some(old) = old {
        shrink(&mut new["spec"], &old["spec"], &mut errors);
    }
    let mut families = infer(&new["spec"], configured, &mut errors);
    failed(errors)?;
    let policy = text(&new["spec"], "ipFamilyPolicy").to_owned();
    let mut dual = configured.len() == 2;
    if free {
        dual = true;
    } else {
        failed(unserved(&policy, &families, configured))?;
    }
    if families.is_empty() {
        families.extend(configured.first().map(|f| (*f).to_owned()));
    }
    if policy != SINGLE && families.len() == 1 && dual {
        let other = if families[0] == V4 { V6 } else { V4 };
        families.push(other.to_owned());
    }
    new["spec"]["ipFamilies"] = json!(families);
    Ok(())
}

fn failed(errors: ErrorList) -> Result<(), ErrorList> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn has_selector(spec: &Value) -> bool {
    spec["selector"].as_object().is_some_and(|s| !s.is_empty())
}

fn same_addresses(new: &Value, old: &Value) -> bool {
    items(new, "clusterIPs") == items(old, "clusterIPs")
}

fn policy_error(spec: &Value, detail: &str) -> Error {
    Error::invalid(&Path::new("spec").child("ipFamilyPolicy"), text(spec, "ipFamilyPolicy"), detail)
}

/// What an update gives up: one that asks for a single family lets the second go, another may not leave it out.
fn shrink(new: &mut Value, old: &Value, errors: &mut ErrorList) {
    if text(new, "ipFamilyPolicy") == SINGLE {
        let (same_ips, same_families) =
            (same_addresses(new, old), items(new, "ipFamilies") == items(old, "ipFamilies"));
        for (field, _) in [("clusterIPs", same_ips), ("ipFamilies", same_families)].iter().filter(|(_, s)| *s)
        {
            let list = new.get_mut(*field).and_then(Value::as_array_mut);
            list.into_iter().for_each(|l| l.truncate(1));
        }
        return;
    }
    let reduced = |field: &str| {
        let (has, had) = (items(new, field).len(), items(old, field).len());
        has > 0 && has < had
    };
    if reduced("clusterIPs") {
        errors.push(policy_error(new, "must be 'SingleStack' to release the secondary cluster IP"));
    }
    if reduced("ipFamilies") {
        errors.push(policy_error(new, "must be 'SingleStack' to release the secondary IP family"));
    }
}

/// The families asked for, and those of addresses asked for.
fn infer(spec: &Value, configured: &[&'static str], errors: &mut ErrorList) -> Vec<String> {
    let (addresses, mut families) =
        (object::strings(&spec["clusterIPs"]), object::strings(&spec["ipFamilies"]));
    if text(spec, "ipFamilyPolicy") == SINGLE {
        let needs = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
        if addresses.len() == 2 {
            errors.push(policy_error(spec, &format!("{needs} cluster IPs are specified")));
        }
        if families.len() == 2 {
            errors.push(policy_error(spec, &format!("{needs} IP families are specified")));
        }
    }
    for (i, address) in addresses.iter().enumerate().take_while(|(_, a)| *a != "None") {
        let family = of_address(address);
        if i < families.len() {
            continue;
        }
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let at = Path::new("spec").child("clusterIPs").index(i);
            let detail = format!("{family} is not configured on this cluster");
            errors.push(Error::invalid(&at, spec["clusterIPs"].clone(), detail));
        }
    }
    families
}

/// What is asked for that the cluster does not have.
fn unserved(policy: &str, families: &[String], configured: &[&'static str]) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if policy == REQUIRE && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&path.child("ipFamilyPolicy"), policy, detail));
    }
    for (i, family) in families.iter().enumerate().filter(|(_, f)| !configured.contains(&f.as_str())) {
        let at = path.child("ipFamilies").index(i);
        errors.push(Error::invalid(&at, family.as_str(), "not configured on this cluster"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        let mut s = json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}}});
        for (k, v) in spec.as_object().unwrap() {
            s["spec"][k] = v.clone();
        }
        s
    }

    fn settled(spec: Value, old: Option<Value>, configured: &[&'static str]) -> (Value, Value) {
        let mut new = service(spec);
        settle(&mut new, old.map(service).as_ref(), configured).unwrap();
        (new["spec"]["ipFamilyPolicy"].clone(), new["spec"]["ipFamilies"].clone())
    }

    fn refused(spec: Value, old: Option<Value>, configured: &[&'static str]) -> Vec<String> {
        let errors = settle(&mut service(spec), old.map(service).as_ref(), configured).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_left_out_is_the_clusters() {
        assert_eq!(settled(json!({}), None, &[V6, V4]), (json!(SINGLE), json!([V6])));
        let prefer = json!({"ipFamilyPolicy": PREFER});
        assert_eq!(settled(prefer.clone(), None, &[V4]).1, json!([V4]));
        assert_eq!(settled(prefer, None, &[V4, V6]).1, json!([V4, V6]));
        let given = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]});
        assert_eq!(settled(given, None, &[V4, V6]).1, json!([V6]));
        let free = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {}});
        assert_eq!(settled(free, None, &[V4]), (json!(REQUIRE), json!([V4, V6])));
    }

    #[test]
    fn what_the_cluster_does_not_have_is_told() {
        assert_eq!(
            refused(json!({"ipFamilyPolicy": REQUIRE}), None, &[V4]),
            [
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
            ]
        );
        assert_eq!(
            refused(json!({"ipFamilies": [V6]}), None, &[V4]),
            ["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"]
        );
        let v6 = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]});
        assert_eq!(
            refused(v6, None, &[V4]),
            ["spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"]
        );
        let two = json!({"ipFamilyPolicy": SINGLE, "ipFamilies": [V4, V6]});
        assert_eq!(
            refused(two, None, &[V4, V6]),
            [
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
            ]
        );
    }

    #[test]
    fn an_update_keeps_or_lets_go() {
        let ips = json!(["10.0.0.1", "fd00::1"]);
        let old = json!({"clusterIP": "10.0.0.1", "clusterIPs": ips, "ipFamilies": [V4, V6], "ipFamilyPolicy": REQUIRE});
        let mut new = service(old.clone());
        new["spec"]["ipFamilyPolicy"] = json!(SINGLE);
        settle(&mut new, Some(&service(old.clone())), &[V4, V6]).unwrap();
        assert_eq!(
            (&new["spec"]["clusterIPs"], &new["spec"]["ipFamilies"]),
            (&json!(["10.0.0.1"]), &json!([V4]))
        );
        let mut less = old.clone();
        less["clusterIPs"] = json!(["10.0.0.1"]);
        assert_eq!(
            refused(less, Some(old.clone()), &[V4, V6]),
            [
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP"
            ]
        );
        let one = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": [V4], "ipFamilyPolicy": PREFER});
        assert_eq!(settled(one.clone(), Some(one), &[V4, V6]).1, json!([V4]), "nothing was asked");
        assert_eq!(settled(json!({}), Some(old), &[V4, V6]).0, json!(REQUIRE));
    }
}
