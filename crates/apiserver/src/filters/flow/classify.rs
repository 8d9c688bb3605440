//! Which flow a request belongs to (upstream: apiserver `pkg/util/flowcontrol/{rule,formatting}.go`).

use crate::request_info::RequestInfo;
use auth::identity::{Identity, split_service_account};
use base::metrics::Family;
use meta::object;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

const ALL: &str = "*";

/// What a flow's requests have in common beyond the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Clone, Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount(String, String),
}

#[derive(Clone, Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    /// Verbs and paths.
    others: Vec<(Vec<String>, Vec<String>)>,
}

/// A FlowSchema.
#[derive(Clone, Debug)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    pub precedence: i64,
    pub distinguisher: Distinguisher,
    /// Requests that were let through.
    pub dispatched: Arc<AtomicU64>,
    rules: Vec<Rule>,
}

impl Schema {
    /// `dispatched` has the numbers of all schemas.
    pub fn parse(v: &Value, dispatched: &Family) -> Self {
        let spec = &v["spec"];
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let level = spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
        Self {
            dispatched: dispatched.of(&[("flow_schema", object::name(v)), ("priority_level", level)]),
            name: object::name(v).to_owned(),
            uid: object::uid(v).to_owned(),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(&spec["rules"]).map(rule).collect(),
        }
    }

    pub fn matches(&self, info: &RequestInfo, user: &Identity) -> bool {
        self.rules.iter().any(|r| r.subjects.iter().any(|s| s.matches(user)) && r.matches(info))
    }

    /// Requests of one flow have one number.
    pub fn flow(&self, info: &RequestInfo, user: &Identity) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::None => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn rule(v: &Value) -> Rule {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let subject = |s: &Value| match s["kind"].as_str()? {
        "User" => Some(Subject::User(text(&s["user"]["name"]))),
        "Group" => Some(Subject::Group(text(&s["group"]["name"]))),
        "ServiceAccount" => {
            let s = &s["serviceAccount"];
            Some(Subject::ServiceAccount(text(&s["namespace"]), text(&s["name"])))
        }
        _ => None,
    };
    Rule {
        subjects: list(&v["subjects"]).filter_map(subject).collect(),
        resources: list(&v["resourceRules"])
            .map(|r| ResourceRule {
                verbs: object::strings(&r["verbs"]),
                groups: object::strings(&r["apiGroups"]),
                resources: object::strings(&r["resources"]),
                namespaces: object::strings(&r["namespaces"]),
                cluster: r["clusterScope"] == true,
            })
            .collect(),
        others: list(&v["nonResourceRules"])
            .map(|r| (object::strings(&r["verbs"]), object::strings(&r["nonResourceURLs"])))
            .collect(),
    }
}

impl Subject {
    fn matches(&self, user: &Identity) -> bool {
        match self {
            Self::User(name) => name == ALL || *name == user.name,
            Self::Group(name) => name == ALL || user.groups.iter().any(|g| g == name),
            Self::ServiceAccount(namespace, name) => split_service_account(&user.name)
                .is_some_and(|(ns, n)| ns == namespace && (name == ALL || n == name)),
        }
    }
}

fn has(list: &[String], what: &str) -> bool {
    list.iter().any(|i| i == ALL || i == what)
}

impl Rule {
    fn matches(&self, info: &RequestInfo) -> bool {
        if info.is_resource {
            self.resources.iter().any(|r| r.matches(info))
        } else {
            self.matches_path(info)
        }
    }

    fn matches_path(&self, info: &RequestInfo) -> bool {
        let path = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => *url == info.path,
        };
        self.others.iter().any(|(verbs, urls)| has(verbs, &info.verb) && urls.iter().any(path))
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = |r: &String| match (r.as_str(), r.split_once('/')) {
            (ALL, _) => true,
            (_, Some((resource, sub))) => resource == info.resource && sub == info.subresource,
            (r, None) => r == info.resource && info.subresource.is_empty(),
        };
        has(&self.verbs, &info.verb)
            && has(&self.groups, &info.group)
            && self.resources.iter().any(resource)
            && if info.namespace.is_empty() { self.cluster } else { has(&self.namespaces, &info.namespace) }
    }
}

static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    // The text is part of the program and read by a test.
    meta::yaml::parse_yaml(include_bytes!("defaults.yaml"), 1 << 20).map(|(v, _)| v).unwrap_or_default()
});

/// The objects with which a cluster begins: priority levels, then flow schemas.
pub fn defaults() -> (Vec<Value>, Vec<Value>) {
    (list(&DEFAULTS["levels"]).map(level).collect(), list(&DEFAULTS["schemas"]).map(schema).collect())
}

fn object_of(kind: &str, name: &Value, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec,
    })
}

fn level(d: &Value) -> Value {
    let mut shares = json!({"nominalConcurrencyShares": d["shares"], "lendablePercent": d["lendable"]});
    if d["type"] == "Exempt" {
        return object_of(
            "PriorityLevelConfiguration",
            &d["name"],
            json!({"type": "Exempt", "exempt": shares}),
        );
    }
    shares["limitResponse"] = match d["queues"].as_i64() {
        Some(queues) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": d["hand"], "queueLengthLimit": d["length"]},
        }),
        None => json!({"type": "Reject"}),
    };
    object_of("PriorityLevelConfiguration", &d["name"], json!({"type": "Limited", "limited": shares}))
}

fn schema(d: &Value) -> Value {
    let named = |kind: &str, field: &str, names: &Value| -> Vec<Value> {
        list(names).map(|n| json!({"kind": kind, field: {"name": n}})).collect()
    };
    let mut subjects = named("User", "user", &d["users"]);
    subjects.extend(named("Group", "group", &d["groups"]));
    if d["kubeSystemAccounts"] == true {
        let account = json!({"name": ALL, "namespace": "kube-system"});
        subjects.push(json!({"kind": "ServiceAccount", "serviceAccount": account}));
    }
    let mut rule = json!({"subjects": subjects});
    if d["everything"] == true {
        rule["resourceRules"] = json!([{
            "verbs": [ALL], "apiGroups": [ALL], "resources": [ALL], "namespaces": [ALL], "clusterScope": true,
        }]);
        rule["nonResourceRules"] = json!([{"verbs": [ALL], "nonResourceURLs": [ALL]}]);
    }
    let resources: Vec<Value> = list(&d["resources"])
        .map(|r| {
            let mut rule = json!({
                "verbs": d["verbs"], "apiGroups": r["groups"], "resources": r["resources"], "namespaces": [ALL],
            });
            if r["clusterScope"] == true {
                rule["clusterScope"] = true.into();
            }
            rule
        })
        .collect();
    if !resources.is_empty() {
        rule["resourceRules"] = resources.into();
    }
    if !d["urls"].is_null() {
        rule["nonResourceRules"] = json!([{"verbs": d["verbs"], "nonResourceURLs": d["urls"]}]);
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": d["level"]}, "matchingPrecedence": d["precedence"], "rules": [rule],
    });
    if !d["by"].is_null() {
        spec["distinguisherMethod"] = json!({"type": d["by"]});
    }
    object_of("FlowSchema", &d["name"], spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(method: &str, uri: &str, user: &str, groups: &[&str]) -> String {
        let info = RequestInfo::parse(&method.parse().expect("a method"), &uri.parse().expect("a URI"));
        let user = Identity::new(user, groups);
        let counts = Family::counter("x", "");
        let mut all: Vec<Schema> = defaults().1.iter().map(|v| Schema::parse(v, &counts)).collect();
        all.sort_by_key(|s| s.precedence);
        all.into_iter().find(|s| s.matches(&info, &user)).map_or_else(String::new, |s| s.name)
    }

    #[test]
    fn requests_fall_into_upstreams_flows() {
        assert_eq!(defaults().0.len(), 8);
        let auth = "system:authenticated";
        let node = ["system:nodes", auth];
        for (method, uri, user, groups, flow) in [
            ("GET", "/api/v1/pods", "admin", &["system:masters", auth][..], "exempt"),
            ("GET", "/readyz", "system:anonymous", &["system:unauthenticated"][..], "probes"),
            ("PUT", "/api/v1/nodes/a/status", "system:node:a", &node[..], "system-node-high"),
            ("GET", "/api/v1/nodes/a/proxy", "system:node:a", &node[..], "system-nodes"),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
                "system:kube-scheduler",
                &[auth][..],
                "system-leader-election",
            ),
            ("GET", "/api/v1/pods", "system:kube-scheduler", &[auth][..], "kube-scheduler"),
            (
                "GET",
                "/api/v1/pods",
                "system:serviceaccount:kube-system:x",
                &["system:serviceaccounts", auth][..],
                "kube-system-service-accounts",
            ),
            (
                "GET",
                "/api/v1/pods",
                "system:serviceaccount:a:x",
                &["system:serviceaccounts", auth][..],
                "service-accounts",
            ),
            ("GET", "/api/v1/pods", "jane", &[auth][..], "global-default"),
        ] {
            assert_eq!(named(method, uri, user, groups), flow, "{method} {uri} {user}");
        }
    }
}
