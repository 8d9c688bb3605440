//! Requests on plain trees, by group, version and plural, for callers that learn the kinds at run time.

use crate::kind::path;
use crate::typed::{Client, DeleteOptions, List, ListOptions, Patch, encode, require};
use http::Method;
use meta::Status;
use meta::status::Result;
use serde::Deserialize;
use serde_json::Value;

/// A served resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiResource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl ApiResource {
    pub fn new(group: &str, version: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        let [group, version, kind, plural] = [group, version, kind, plural].map(str::to_owned);
        Self { group, version, kind, plural, namespaced, verbs: Vec::new() }
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The path of a collection or object; the namespace is left out for cluster-scoped resources.
    pub fn path(&self, ns: &str, name: &str, subresource: &str) -> String {
        let ns = if self.namespaced { ns } else { "" };
        path(&self.group, &self.version, &self.plural, ns, name, subresource)
    }
}

/// Requests on one resource's trees. An empty namespace means all namespaces in lists.
#[derive(Clone)]
pub struct Dynamic {
    client: Client,
    resource: ApiResource,
}

impl Dynamic {
    pub(crate) fn new(client: Client, resource: ApiResource) -> Self {
        Self { client, resource }
    }

    pub fn resource(&self) -> &ApiResource {
        &self.resource
    }

    pub async fn get(&self, ns: &str, name: &str) -> Result<Value> {
        self.client.json(Method::GET, &self.resource.path(ns, require(name)?, ""), None).await
    }

    pub async fn list(&self, ns: &str, options: &ListOptions) -> Result<List<Value>> {
        let mut uri = self.resource.path(ns, "", "");
        options.write(&mut uri);
        self.client.list_at(&uri, None).await
    }

    pub async fn create(&self, ns: &str, object: &Value) -> Result<Value> {
        self.client.json(Method::POST, &self.resource.path(ns, "", ""), Some(encode(object)?)).await
    }

    /// Updates the object that the tree's metadata names, or a subresource of it (`status`, `finalize`).
    pub async fn update(&self, object: &Value, subresource: &str) -> Result<Value> {
        let (ns, name) = (meta::object::namespace(object), meta::object::name(object));
        self.client
            .json(Method::PUT, &self.resource.path(ns, require(name)?, subresource), Some(encode(object)?))
            .await
    }

    pub async fn patch(&self, ns: &str, name: &str, subresource: &str, patch: &Patch) -> Result<Value> {
        self.client.patch_at(&self.resource.path(ns, require(name)?, subresource), patch).await
    }

    pub async fn delete(&self, ns: &str, name: &str, options: &DeleteOptions) -> Result<()> {
        self.client.delete_at(&self.resource.path(ns, require(name)?, ""), options).await
    }

    pub async fn delete_collection(
        &self,
        ns: &str,
        options: &DeleteOptions,
        list: &ListOptions,
    ) -> Result<()> {
        let mut uri = self.resource.path(ns, "", "");
        list.write(&mut uri);
        self.client.delete_at(&uri, options).await
    }
}

/// What a server serves, each group in its preferred version.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    pub resources: Vec<ApiResource>,
    /// Group versions (`apps/v1`, `v1`) whose resources could not be learned.
    pub failures: Vec<(String, Status)>,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<RawResource>,
}

#[derive(Deserialize)]
struct RawResource {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawGroup {
    name: String,
    #[serde(default)]
    versions: Vec<RawVersion>,
    #[serde(default)]
    preferred_version: Option<RawVersion>,
}

#[derive(Clone, Deserialize)]
struct RawVersion {
    version: String,
}

impl Client {
    /// Learns the served resources, without subresources, each group in its preferred version and, for resources that
    /// only another version has, in that one (upstream: `discovery.ServerPreferredResources`).
    ///
    /// # Errors
    /// The list of groups could not be had. A single group that fails is listed in the result.
    pub async fn discover(&self) -> Result<Discovery> {
        let groups: GroupList = self.json(Method::GET, "/apis", None).await?;
        let mut out = Discovery::default();
        let mut wanted = vec![(String::new(), "v1".to_owned())];
        for g in groups.groups {
            let first = g.preferred_version.or_else(|| g.versions.first().cloned()).map(|v| v.version);
            let rest = g
                .versions
                .into_iter()
                .map(|v| v.version)
                .filter(|v| Some(v) != first.as_ref())
                .collect::<Vec<_>>();
            wanted.extend(first.into_iter().chain(rest).map(|v| (g.name.clone(), v)));
        }
        for (group, version) in wanted {
            let at =
                if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            match self.json::<ResourceList>(Method::GET, &at, None).await {
                Ok(list) => {
                    for r in list.resources.into_iter().filter(|r| !r.name.contains('/')) {
                        if out.resources.iter().any(|x| x.group == group && x.plural == r.name) {
                            continue;
                        }
                        let mut resource = ApiResource::new(&group, &version, &r.kind, &r.name, r.namespaced);
                        resource.verbs = r.verbs;
                        out.resources.push(resource);
                    }
                }
                Err(e) => {
                    let group_version = if group.is_empty() { version } else { format!("{group}/{version}") };
                    out.failures.push((group_version, e));
                }
            }
        }
        Ok(out)
    }
}
