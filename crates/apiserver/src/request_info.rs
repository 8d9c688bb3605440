//! What a request asks for, read from its URL once and used by routing, authorisation, audit and flow control
//! (upstream: apiserver `pkg/endpoints/request/requestinfo.go#NewRequestInfo`).

use http::Method;

/// The parts of a request that policies speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    /// `get`, `list` … for resources, else the lower-cased HTTP method.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Path segments after the resource's name and subresource (the proxied path).
    pub rest: String,
    /// The version is absent (`/api`, `/apis/GROUP`): discovery.
    pub query: Query,
}

/// Decoded query parameters, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Self {
        Self(form_urlencoded::parse(raw.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter, empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, _)| k.as_str())
    }

    /// As it goes on to others, by name (upstream: Go `url.Values.Encode`).
    pub fn encode(&self) -> String {
        let mut sorted: Vec<&(String, String)> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (name, value) in sorted {
            out.append_pair(name, value);
        }
        out.finish()
    }

    /// A boolean as Go's query conversion reads it: present and not `false` or `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "false" | "0")
    }
}

impl RequestInfo {
    pub fn parse(method: &Method, uri: &http::Uri) -> Self {
        let mut info = Self {
            path: uri.path().to_owned(),
            verb: method.as_str().to_ascii_lowercase(),
            query: Query::parse(uri.query().unwrap_or("")),
            ..Self::default()
        };
        // Segments are decoded after splitting, so that an escaped slash cannot make a new one.
        let decoded: Vec<String> = uri.path().split('/').filter(|s| !s.is_empty()).map(unescape).collect();
        let mut parts: &[String] = &decoded;
        match parts {
            [api, version, rest @ ..] if api == "api" => {
                info.version.clone_from(version);
                parts = rest;
            }
            [apis, group, version, rest @ ..] if apis == "apis" => {
                info.group.clone_from(group);
                info.version.clone_from(version);
                parts = rest;
            }
            _ => return info,
        }
        if parts.is_empty() {
            info.group.clear();
            info.version.clear();
            return info;
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        if parts.len() > 1 && parts[0] == "watch" {
            info.verb = "watch".to_owned();
            parts = &parts[1..];
        }
        info.take_resource(parts);
        info.settle_verb();
        info
    }

    /// `namespaces/NS/RESOURCE/NAME/SUB…`, `RESOURCE/NAME/SUB…`; a namespace itself is in the namespace of its name.
    fn take_resource(&mut self, mut parts: &[String]) {
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace.clone_from(&parts[1]);
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        self.resource.clone_from(&parts[0]);
        if let Some(name) = parts.get(1) {
            self.name.clone_from(name);
        }
        if let Some(sub) = parts.get(2) {
            self.subresource.clone_from(sub);
        }
        self.rest = parts.get(3..).unwrap_or_default().join("/");
    }

    fn settle_verb(&mut self) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if self.query.flag("watch") { "watch" } else { "list" }.to_owned();
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") && self.name.is_empty() {
            // A list of one name is authorised by that name.
            if let Some(name) = single_name(self.query.get("fieldSelector")) {
                self.name = name;
            }
        }
    }

    /// Requests that are not bounded by the request timeout (upstream: `BasicLongRunningRequestCheck`).
    pub fn is_long_running(&self) -> bool {
        (self.is_resource
            && (matches!(self.verb.as_str(), "watch" | "proxy")
                || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")))
            || self.path.starts_with("/debug/pprof/")
    }

    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }

    pub fn group_resource(&self) -> meta::GroupResource {
        meta::GroupResource::new(&self.group, &self.resource)
    }
}

/// The name in a field selector that selects exactly one, as `metadata.name=x`.
fn single_name(selector: &str) -> Option<String> {
    let mut found = None;
    for term in selector.split(',') {
        if let Some(value) = term.strip_prefix("metadata.name=") {
            let value = value.strip_prefix('=').unwrap_or(value);
            let plain =
                !value.is_empty() && !matches!(value, "." | "..") && !value.contains(['/', '%', '\\']);
            found = plain.then(|| value.to_owned());
        }
    }
    found
}

fn unescape(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().expect("a URI"))
    }

    #[test]
    fn paths_and_verbs() {
        let cases = [
            (Method::GET, "/api/v1/namespaces/ns/pods/p/log", "get", "", "ns", "pods", "p", "log"),
            (Method::GET, "/api/v1/pods", "list", "", "", "pods", "", ""),
            (Method::GET, "/api/v1/pods?watch=true", "watch", "", "", "pods", "", ""),
            (Method::GET, "/api/v1/watch/namespaces/ns/pods", "watch", "", "ns", "pods", "", ""),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/ns/deployments",
                "deletecollection",
                "apps",
                "ns",
                "deployments",
                "",
                "",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/ns/finalize",
                "update",
                "",
                "ns",
                "namespaces",
                "ns",
                "finalize",
            ),
            (Method::GET, "/api/v1/namespaces/ns", "get", "", "ns", "namespaces", "ns", ""),
            (Method::GET, "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
            (
                Method::GET,
                "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
                "list",
                "",
                "",
                "nodes",
                "n1",
                "",
            ),
            (
                Method::POST,
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "create",
                "rbac.authorization.k8s.io",
                "",
                "clusterroles",
                "",
                "",
            ),
        ];
        for (method, uri, verb, group, ns, resource, name, sub) in cases {
            let i = parse(method, uri);
            assert!(i.is_resource, "{uri}");
            assert_eq!(
                (&*i.verb, &*i.group, &*i.namespace, &*i.resource, &*i.name, &*i.subresource),
                (verb, group, ns, resource, name, sub),
                "{uri}"
            );
        }
    }

    #[test]
    fn other_paths_are_not_resources() {
        for uri in ["/healthz", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/"] {
            let i = parse(Method::GET, uri);
            assert!(!i.is_resource && i.verb == "get", "{uri}");
        }
    }

    #[test]
    fn an_escaped_slash_stays_in_its_segment() {
        let i = parse(Method::GET, "/api/v1/namespaces/a%2Fsecrets/pods/x");
        assert_eq!((&*i.namespace, &*i.resource), ("a/secrets", "pods"));
    }
}
