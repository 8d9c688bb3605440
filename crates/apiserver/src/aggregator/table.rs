//! The APIServices as the server acts by them: which group versions there are, in which order, and which of them
//! another server answers (upstream: kube-aggregator `pkg/apis/apiregistration/v1/helper`).
//!
//! Invariant: what is listed is answered: by a row of this server, or by the server that an APIService names.

use base64::Engine as _;
use kinds::apiregistration::{CUSTOM_PRIORITY, GROUP, Priority, priority};
use kinds::custom::compare_versions;
use kinds::validate::text;
use meta::object;
use registry::Kinds;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// Stands before all others (upstream: `APIRegistrationGroupPriority`).
const OWN_PRIORITY: Priority = Priority { group: 20_001, version: 15 };

/// The server that answers a group version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Of the APIService.
    pub name: String,
    pub group: String,
    pub version: String,
    /// The Service before it.
    pub namespace: String,
    pub service: String,
    pub port: u16,
    pub ca_pem: Vec<u8>,
    pub insecure: bool,
    /// Its condition Available.
    pub available: bool,
}

/// A group version that is served.
#[derive(Clone, Debug)]
pub struct Served {
    pub group: String,
    pub version: String,
    /// `None` where this server answers.
    pub backend: Option<Arc<Backend>>,
    priority: Priority,
}

impl Served {
    /// The APIService's name.
    fn name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }
}

/// A group with its versions, the preferred one first.
pub type Group = (String, Vec<Served>);

/// What all APIServices say.
#[derive(Default)]
pub struct Table {
    priorities: HashMap<(String, String), Priority>,
    backends: HashMap<(String, String), Arc<Backend>>,
}

impl Table {
    pub fn read(services: &[Value]) -> Self {
        let mut out = Self::default();
        for s in services {
            let spec = &s["spec"];
            let key = (text(spec, "group").to_owned(), text(spec, "version").to_owned());
            let of = |field: &str| spec[field].as_i64().unwrap_or(0);
            let both = Priority { group: of("groupPriorityMinimum"), version: of("versionPriority") };
            out.priorities.insert(key.clone(), both);
            if let Some(backend) = backend(s) {
                out.backends.insert(key, Arc::new(backend));
            }
        }
        out
    }

    /// The server that answers a path (upstream: `APIAggregator.AddAPIService`, whose handlers own all of
    /// `/apis/GROUP/VERSION`, and of `/api` for the group without a name).
    pub fn backend_of(&self, path: &str) -> Option<&Arc<Backend>> {
        if self.backends.is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|p| !p.is_empty());
        let mut next = || parts.next().map(|p| percent_encoding::percent_decode_str(p).decode_utf8_lossy());
        match next()?.as_ref() {
            "api" => self.backends.get(&(String::new(), "v1".to_owned())),
            "apis" => self.backends.get(&(next()?.into_owned(), next()?.into_owned())),
            _ => None,
        }
    }

    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values()
    }

    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.values().find(|b| b.name == name)
    }

    /// Named groups that are served, as `/apis` lists them: by priority, then by the APIServices' names.
    pub fn groups(&self, kinds: &Kinds) -> Vec<Group> {
        let mut all = self.served(kinds);
        all.sort_by_cached_key(|s| (Reverse(s.priority.group), s.name()));
        by_group(all)
    }

    /// As [`Self::groups`], in the order of the document that lists resources as well: of groups that come equal, the
    /// name decides (upstream: apiserver `pkg/endpoints/discovery/aggregated`).
    pub fn groups_by_name(&self, kinds: &Kinds) -> Vec<Group> {
        let mut groups = self.groups(kinds);
        groups.sort_by_cached_key(|(name, versions)| {
            (Reverse(versions.iter().map(|v| v.priority.group).max()), name.clone())
        });
        groups
    }

    fn served(&self, kinds: &Kinds) -> Vec<Served> {
        let mut all: HashMap<(String, String), Served> = HashMap::new();
        for row in kinds.rows().iter().filter(|r| !r.group.is_empty()) {
            let key = (row.group.to_string(), row.version.to_string());
            all.entry(key).or_insert_with_key(|key| {
                // a row may be there before its APIService
                let own = match row.group == GROUP {
                    true => Some(OWN_PRIORITY),
                    false => self.priorities.get(key).copied().or_else(|| priority(&key.0, &key.1)),
                };
                let priority = own.unwrap_or(CUSTOM_PRIORITY);
                Served { group: key.0.clone(), version: key.1.clone(), backend: None, priority }
            });
        }
        for (key, backend) in self.backends.iter().filter(|(key, _)| !key.0.is_empty()) {
            let priority = self.priorities.get(key).copied().unwrap_or(CUSTOM_PRIORITY);
            let (group, version) = key.clone();
            all.insert(key.clone(), Served { group, version, backend: Some(backend.clone()), priority });
        }
        all.into_values().collect()
    }
}

fn by_group(all: Vec<Served>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for served in all {
        match groups.iter_mut().find(|(name, _)| *name == served.group) {
            Some((_, versions)) => versions.push(served),
            None => groups.push((served.group.clone(), vec![served])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by(|a, b| {
            let by_priority = b.priority.version.cmp(&a.priority.version);
            by_priority.then_with(|| compare_versions(&b.version, &a.version))
        });
    }
    groups
}

fn backend(s: &Value) -> Option<Backend> {
    let (spec, service) = (&s["spec"], &s["spec"]["service"]);
    if !service.is_object() {
        return None;
    }
    let ca = base64::engine::general_purpose::STANDARD.decode(text(spec, "caBundle")).unwrap_or_default();
    Some(Backend {
        name: object::name(s).to_owned(),
        group: text(spec, "group").to_owned(),
        version: text(spec, "version").to_owned(),
        namespace: text(service, "namespace").to_owned(),
        service: text(service, "name").to_owned(),
        port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
        ca_pem: ca,
        insecure: spec["insecureSkipTLSVerify"] == true,
        available: kinds::apiregistration::is_available(s),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn remote(group: &str, version: &str, (of_group, of_version): (i64, i64)) -> Value {
        json!({"metadata": {"name": format!("{version}.{group}")}, "spec": {
            "group": group, "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version,
            "service": {"namespace": "n", "name": "s", "port": 7443}, "insecureSkipTLSVerify": true,
        }, "status": {"conditions": [{"type": "Available", "status": "True"}]}})
    }

    #[test]
    fn paths_find_their_server() {
        let t = Table::read(&[
            remote("a.example.com", "v1", (2000, 10)),
            json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps", "version": "v1"}}),
        ]);
        let of = |path: &str| t.backend_of(path).map(|b| b.name.as_str());
        for path in ["/apis/a.example.com/v1", "/apis/a.example.com/v1/", "/apis/a.example.com/v1/flunders/x"]
        {
            assert_eq!(of(path), Some("v1.a.example.com"), "{path}");
        }
        assert_eq!(of("/apis/a%2Eexample.com/v1/flunders"), Some("v1.a.example.com"));
        for path in ["/apis/a.example.com", "/apis/a.example.com/v2", "/apis/apps/v1/x", "/api/v1", "/apis"] {
            assert_eq!(of(path), None, "{path}");
        }
        let b = t.backend("v1.a.example.com").expect("there");
        assert!(b.available && b.insecure && b.port == 7443);
    }

    #[test]
    fn priority_orders_groups_and_versions() {
        let kinds = Kinds::new(kinds::table());
        let t = Table::read(&[
            remote("z.example.com", "v1", (1000, 10)),
            remote("a.example.com", "v1beta1", (1000, 10)),
            remote("a.example.com", "v2", (1000, 5)),
            remote("first.example.com", "v1", (19_000, 10)),
        ]);
        let names = |groups: Vec<Group>| groups.into_iter().map(|g| g.0).collect::<Vec<_>>();
        let plain = names(t.groups(&kinds));
        assert_eq!(plain[..3], ["apiregistration.k8s.io", "first.example.com", "apps"]);
        assert_eq!(plain[plain.len() - 2..], ["z.example.com", "a.example.com"], "by v1.z and v1beta1.a");
        let by_name = names(t.groups_by_name(&kinds));
        assert_eq!(by_name[by_name.len() - 2..], ["a.example.com", "z.example.com"]);
        let a = t.groups(&kinds).into_iter().find(|g| g.0 == "a.example.com").expect("listed").1;
        assert_eq!(a.iter().map(|v| v.version.as_str()).collect::<Vec<_>>(), ["v1beta1", "v2"]);
    }

    #[test]
    fn built_in_groups_stand_as_upstream_lists_them() {
        let kinds = Kinds::new(kinds::table());
        let names: Vec<String> = Table::default().groups(&kinds).into_iter().map(|g| g.0).collect();
        let expected = [
            "apiregistration.k8s.io",
            "apps",
            "events.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io",
            "autoscaling",
            "batch",
            "certificates.k8s.io",
            "networking.k8s.io",
            "policy",
            "rbac.authorization.k8s.io",
            "storage.k8s.io",
            "admissionregistration.k8s.io",
            "apiextensions.k8s.io",
            "scheduling.k8s.io",
            "coordination.k8s.io",
            "node.k8s.io",
            "discovery.k8s.io",
            "resource.k8s.io",
            "flowcontrol.apiserver.k8s.io",
        ];
        assert_eq!(names.iter().filter(|n| expected.contains(&n.as_str())).collect::<Vec<_>>(), expected);
    }
}
