//! Requests of the load: what they are sent to, in which form, with which bodies.

use bytes::Bytes;
use std::fmt;

const VALUE_BYTES: usize = 1024;
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MERGE_PATCH: &str = "application/merge-patch+json";
/// What a protobuf body begins with.
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";

/// How objects are written on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Protobuf,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Json { "JSON" } else { "protobuf" })
    }
}

type BodyOf = Box<dyn Fn(usize, usize) -> Bytes + Send + Sync>;

/// A shape of request. `{c}` in the path is the number of the connection.
pub struct Call {
    pub method: &'static str,
    pub content_type: &'static str,
    pub accept: &'static str,
    path: String,
    /// By connection and request.
    body: BodyOf,
}

impl Call {
    fn new(method: &'static str, path: String, form: Form, body: BodyOf) -> Self {
        let content_type = if form == Form::Json { JSON } else { PROTOBUF };
        Self { method, content_type, accept: content_type, path, body }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path.to_owned(), Form::Json, Box::new(|_, _| Bytes::new()))
    }

    pub fn json(method: &'static str, path: &str, body: Bytes) -> Self {
        Self::new(method, path.to_owned(), Form::Json, Box::new(move |_, _| body.clone()))
    }

    /// A merge patch, in JSON.
    pub fn merge_patch(path: &str, body: Bytes) -> Self {
        Self { content_type: MERGE_PATCH, ..Self::json("PATCH", path, body) }
    }

    pub fn path(&self, connection: usize) -> String {
        self.path.replace("{c}", &connection.to_string())
    }

    pub fn body(&self, connection: usize, n: usize) -> Bytes {
        (self.body)(connection, n)
    }
}

fn config_maps(ns: &str) -> String {
    format!("/api/v1/namespaces/{ns}/configmaps")
}

pub fn namespace(name: &str) -> Call {
    let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
    Call::json("POST", "/api/v1/namespaces", body.into())
}

pub fn named_config_map(ns: &str, name: &str) -> Call {
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"v":"1"}}}}"#
    );
    Call::json("POST", &config_maps(ns), body.into())
}

/// A new ConfigMap with a value of 1 KiB.
pub fn create(ns: &str, form: Form) -> Call {
    let value = "x".repeat(VALUE_BYTES);
    let body: Bytes = match form {
        Form::Json => format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"generateName":"b-"}},"data":{{"v":"{value}"}}}}"#
        )
        .into(),
        Form::Protobuf => {
            // ObjectMeta.generateName is field 2; ConfigMap.metadata 1, data 2, a map of key 1 and value 2.
            let metadata = field(2, b"b-");
            let entry = [field(1, b"v"), field(2, value.as_bytes())].concat();
            unknown("v1", "ConfigMap", &[field(1, &metadata), field(2, &entry)].concat())
        }
    };
    Call::new("POST", config_maps(ns), form, Box::new(move |_, _| body.clone()))
}

/// Reads the connection's own ConfigMap.
pub fn get(ns: &str, form: Form) -> Call {
    let path = format!("{}/one-{{c}}", config_maps(ns));
    Call::new("GET", path, form, Box::new(|_, _| Bytes::new()))
}

/// Changes the connection's own ConfigMap by a merge patch; the answer is in the form.
pub fn patch(ns: &str, form: Form) -> Call {
    let path = format!("{}/one-{{c}}", config_maps(ns));
    let body: BodyOf = Box::new(|c, n| format!(r#"{{"data":{{"v":"{c}-{n}"}}}}"#).into());
    Call { content_type: MERGE_PATCH, ..Call::new("PATCH", path, form, body) }
}

pub fn list(resource: &str, ns: &str, query: &str, form: Form) -> Call {
    let path = format!("/api/v1/namespaces/{ns}/{resource}?{query}");
    Call::new("GET", path, form, Box::new(|_, _| Bytes::new()))
}

/// A pod as deployments make them, of about 3 KB when stored. Its gate keeps schedulers from it, so that both sides have the
/// same work. One in `selected_each` has the label `found: yes`.
pub fn create_pod(ns: &str, selected_each: usize) -> Call {
    let container = |name: &str| {
        format!(
            r#"{{"name":"{name}","image":"registry.example/team/{name}:1.2.3","args":["--listen=:8080","--log=json"],"ports":[{{"name":"http","containerPort":8080}}],"env":[{{"name":"POD","valueFrom":{{"fieldRef":{{"fieldPath":"metadata.name"}}}}}},{{"name":"MODE","value":"production"}}],"resources":{{"requests":{{"cpu":"100m","memory":"128Mi"}},"limits":{{"memory":"256Mi"}}}},"readinessProbe":{{"httpGet":{{"path":"/readyz","port":"http"}}}},"livenessProbe":{{"httpGet":{{"path":"/healthz","port":"http"}}}},"volumeMounts":[{{"name":"config","mountPath":"/etc/app"}}]}}"#
        )
    };
    let spec = format!(
        r#"{{"schedulingGates":[{{"name":"bench.example/gate"}}],"containers":[{},{}],"volumes":[{{"name":"config","configMap":{{"name":"app"}}}}]}}"#,
        container("app"),
        container("proxy")
    );
    let body: BodyOf = Box::new(move |_, n| {
        let found = if n % selected_each == 0 { "yes" } else { "no" };
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"generateName":"app-","labels":{{"app":"app","found":"{found}"}}}},"spec":{spec}}}"#
        )
        .into()
    });
    Call::new("POST", format!("/api/v1/namespaces/{ns}/pods"), Form::Json, body)
}

/// A length-delimited field.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

/// `runtime.Unknown` around an object.
fn unknown(api_version: &str, kind: &str, object: &[u8]) -> Bytes {
    let types = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [PROTOBUF_MAGIC, &field(1, &types), &field(2, object)].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_length_in_seven_bits_a_byte() {
        assert_eq!(field(1, b"ab"), [0x0a, 2, b'a', b'b']);
        assert_eq!(field(2, &[0; 300])[..3], [0x12, 0xac, 0x02]);
    }
}
