//! The APIServices of what this server answers itself: its own groups once at every start, those of custom resources all
//! the time (upstream: kube-aggregator `pkg/controllers/autoregister`, `pkg/controlplane/controller/crdregistration`).
//!
//! Invariant: an APIService without the label is somebody else's, and is left alone.

use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Preconditions};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use kinds::apiregistration::{CUSTOM_PRIORITY, Priority, priority};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const WORKERS: usize = 5;

/// How long an APIService is kept as it should be; the label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Managed {
    OnStart,
    Always,
}

impl Managed {
    fn label(self) -> &'static str {
        match self {
            Self::OnStart => "onstart",
            Self::Always => "true",
        }
    }

    fn of(service: &APIService) -> Option<Self> {
        [Self::OnStart, Self::Always].into_iter().find(|m| service.label(LABEL) == Some(m.label()))
    }
}

/// What is to be done about one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Create,
    Update,
    Delete,
}

/// Upstream: `checkAPIService`, whose table this is. `at_start`: it was there when the controller began; `synced`: this
/// name has been looked at with success since.
#[must_use]
pub fn plan(
    wanted: Option<(&APIServiceSpec, Managed)>,
    there: Option<&APIService>,
    at_start: bool,
    synced: bool,
) -> Action {
    let once = matches!(wanted, Some((_, Managed::OnStart)));
    match (there, wanted) {
        (None, None) => Action::Nothing,
        _ if once && synced => Action::Nothing,
        (None, Some(_)) => Action::Create,
        (Some(there), wanted) => match (Managed::of(there), wanted) {
            (None, _) => Action::Nothing,
            (Some(Managed::OnStart), _) if !at_start || synced => Action::Nothing,
            (Some(_), None) => Action::Delete,
            (Some(_), Some((spec, _))) if there.spec.as_ref() == Some(spec) => Action::Nothing,
            (Some(_), Some(_)) => Action::Update,
        },
    }
}

struct Registration {
    client: Client,
    services: Informer<APIService>,
    definitions: Informer<CustomResourceDefinition>,
    own: BTreeMap<String, APIServiceSpec>,
    at_start: OnceLock<HashSet<String>>,
    /// Names that were looked at with success; as many as there have been APIServices.
    synced: Mutex<HashSet<String>>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let services = setup.informers.of::<APIService>();
    let definitions = setup.informers.of::<CustomResourceDefinition>();
    let own = own();
    let names: Vec<String> = own.keys().cloned().collect();
    let this = Registration {
        client: setup.system.clone(),
        services: services.clone(),
        definitions: definitions.clone(),
        own,
        at_start: OnceLock::new(),
        synced: Mutex::default(),
    };
    let controller = Controller::new("api-service-registration", Arc::new(this), setup.clock.clone());
    names.iter().for_each(|name| controller.queue().add(ObjectKey::new("", name)));
    controller
        .workers(WORKERS)
        .watches(&services, |c, q| c.latest().into_iter().for_each(|s| q.add(ObjectKey::of(&**s))))
        .watches(&definitions, |c, q| {
            // what one state has and the other has not is added, or removed
            for d in c.old.iter().chain(&c.new) {
                d.spec.versions.iter().for_each(|v| q.add(ObjectKey::new("", &name(&v.name, &d.spec.group))));
            }
        })
        .start(setup.cancel.clone())
}

/// The group versions of this server, but for that of APIServices themselves, which upstream does not register either.
fn own() -> BTreeMap<String, APIServiceSpec> {
    let rows = kinds::table();
    let known = rows.iter().filter_map(|r| Some((r, priority(&r.group, &r.version)?)));
    known.map(|(r, p)| (name(&r.version, &r.group), spec(&r.group, &r.version, p))).collect()
}

fn name(version: &str, group: &str) -> String {
    format!("{version}.{group}")
}

fn spec(group: &str, version: &str, priority: Priority) -> APIServiceSpec {
    let number = |n: i64| i32::try_from(n).unwrap_or(i32::MAX);
    APIServiceSpec {
        group: (!group.is_empty()).then(|| group.to_owned()),
        version: Some(version.to_owned()),
        group_priority_minimum: number(priority.group),
        version_priority: number(priority.version),
        ..APIServiceSpec::default()
    }
}

impl Registration {
    fn wanted(&self, name: &str) -> Option<(APIServiceSpec, Managed)> {
        if let Some(spec) = self.own.get(name) {
            return Some((spec.clone(), Managed::OnStart));
        }
        let (version, group) = name.split_once('.')?;
        let served =
            self.definitions.store().list().iter().any(|d| {
                d.spec.group == group && d.spec.versions.iter().any(|v| v.name == version && v.served)
            });
        served.then(|| (spec(group, version, CUSTOM_PRIORITY), Managed::Always))
    }

    async fn act(
        &self,
        action: Action,
        name: &str,
        wanted: Option<(APIServiceSpec, Managed)>,
        there: Option<&APIService>,
    ) -> Result<(), meta::Status> {
        match (action, wanted, there) {
            (Action::Create, Some((spec, managed)), _) => {
                let labels = BTreeMap::from([(LABEL.to_owned(), managed.label().to_owned())]);
                let metadata =
                    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() };
                let made = APIService { metadata, spec: Some(spec), ..APIService::default() };
                self.client.create(&made).await.map(drop)
            }
            (Action::Update, Some((spec, _)), Some(there)) => {
                let changed = APIService { spec: Some(spec), ..there.clone() };
                self.client.update(&changed).await.map(drop)
            }
            (Action::Delete, _, Some(there)) => {
                let uid = Preconditions { uid: Some(there.uid().to_owned()), ..Preconditions::default() };
                let options = DeleteOptions { preconditions: Some(uid), ..DeleteOptions::default() };
                self.client.delete::<APIService>("", name, &options).await
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Reconcile for Registration {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let names = || self.services.store().list().iter().map(|s| s.name().to_owned()).collect();
        let at_start = self.at_start.get_or_init(names).contains(&key.name);
        let synced = self.synced.lock().contains(&key.name);
        let there = self.services.store().get("", &key.name);
        let wanted = self.wanted(&key.name);
        let action = plan(wanted.as_ref().map(|(s, m)| (s, *m)), there.as_deref(), at_start, synced);
        match self.act(action, &key.name, wanted, there.as_deref()).await {
            // somebody was faster; the change comes by the watch
            Err(e) if e.is_not_found() || e.is_conflict() || e.is_already_exists() => {}
            other => other?,
        }
        self.synced.lock().insert(key.name.clone());
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use client::fake::FakeApi;
    use serde_json::json;
    use std::time::Duration;

    fn there(managed: Option<Managed>, priority: i32) -> APIService {
        let labels = managed.map(|m| BTreeMap::from([(LABEL.to_owned(), m.label().to_owned())]));
        let metadata = ObjectMeta { labels, ..ObjectMeta::default() };
        let spec = APIServiceSpec { version_priority: priority, ..APIServiceSpec::default() };
        APIService { metadata, spec: Some(spec), ..APIService::default() }
    }

    #[test]
    fn what_is_done_is_upstreams_table() {
        let spec = APIServiceSpec { version_priority: 1, ..APIServiceSpec::default() };
        let (once, always) = (Some((&spec, Managed::OnStart)), Some((&spec, Managed::Always)));
        let (free, on_start) = (there(None, 2), there(Some(Managed::OnStart), 2));
        let (synced, same) = (there(Some(Managed::Always), 2), there(Some(Managed::Always), 1));
        use Action::{Create, Delete, Nothing, Update};
        let cases = [
            (None, None, false, false, Nothing),
            (once, None, false, false, Create),
            (once, None, false, true, Nothing),
            (always, None, false, true, Create),
            (None, Some(&free), true, false, Nothing),
            (once, Some(&free), true, false, Nothing),
            (always, Some(&free), true, false, Nothing),
            (None, Some(&on_start), false, false, Nothing),
            (once, Some(&on_start), false, false, Nothing),
            (None, Some(&on_start), true, false, Delete),
            (None, Some(&on_start), true, true, Nothing),
            (once, Some(&on_start), true, false, Update),
            (once, Some(&on_start), true, true, Nothing),
            (None, Some(&synced), false, true, Delete),
            (always, Some(&synced), false, true, Update),
            (always, Some(&same), false, true, Nothing),
        ];
        for (n, (wanted, there, at_start, synced, expected)) in cases.into_iter().enumerate() {
            assert_eq!(plan(wanted, there, at_start, synced), expected, "case {n}");
        }
    }

    #[test]
    fn own_groups_have_their_places() {
        let own = own();
        let of = |name: &str| own.get(name).map(|s| (s.group_priority_minimum, s.version_priority));
        assert_eq!(of("v1."), Some((18_000, 1)));
        assert_eq!(of("v2.autoscaling"), Some((17_500, 30)));
        assert_eq!(of("v1.apiregistration.k8s.io"), None);
        assert_eq!(own["v1."].group, None);
    }

    #[tokio::test]
    async fn custom_groups_come_and_go_with_their_definitions() {
        let api = Arc::new(FakeApi::new());
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let all = "/apis/apiregistration.k8s.io/v1/apiservices";
        let version = |name: &str, served| json!({"name": name, "served": served, "storage": served});
        api.seed(
            crds,
            &json!({"metadata": {"name": "foos.example.com"}, "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
                "versions": [version("v1", true), version("v2", false)],
            }}),
        );
        let labels = json!({LABEL: "true"});
        api.seed(
            all,
            &json!({"metadata": {"name": "v3.example.com", "labels": labels, "uid": "u"}, "spec": {
            "group": "example.com", "version": "v3", "groupPriorityMinimum": 1000, "versionPriority": 100}}),
        );
        let setup = Setup::of_fake(&api, SystemClock::shared());
        let handle = start(&setup);
        let begun = std::time::Instant::now();
        let done = || {
            let objects = api.objects(all);
            let names: Vec<&str> = objects.iter().map(meta::object::name).collect();
            names.contains(&"v1.example.com")
                && names.contains(&"v1.apps")
                && !names.contains(&"v3.example.com")
        };
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", api.objects(all));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let made = api.object(&format!("{all}/v1.example.com")).expect("made");
        assert_eq!(made["metadata"]["labels"][LABEL], "true");
        assert_eq!(
            api.object(&format!("{all}/v1.apps")).expect("made")["metadata"]["labels"][LABEL],
            "onstart"
        );
        assert!(api.object(&format!("{all}/v2.example.com")).is_none(), "not served");
        setup.cancel.cancel();
        handle.stopped().await;
    }
}
