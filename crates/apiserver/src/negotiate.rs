//! Which form of an answer a client takes (upstream: apiserver `pkg/endpoints/handlers/negotiation`).

use http::HeaderMap;
use meta::status::{Result, Status};

/// Serialisation of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
            Self::Cbor => "application/cbor",
        }
    }

    /// The content type of a watch.
    pub fn watch_type(self) -> &'static str {
        match self {
            Self::Json | Self::Yaml => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Self::Cbor => "application/cbor-seq",
        }
    }
}

/// What the object is turned into before it is serialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    #[default]
    Object,
    Table,
    /// Metadata only.
    Partial,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub format: Format,
    pub view: View,
    /// The client takes the same in JSON too, where its first choice does not exist.
    pub or_json: bool,
}

/// The media types of objects, as upstream lists them in refusals.
pub const OBJECT_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

/// Reads `Accept`; the first clause that can be served wins, in order of quality.
pub fn accept(headers: &HeaderMap) -> Result<Accepted> {
    let header = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    if header.trim().is_empty() {
        return Ok(Accepted::default());
    }
    let mut clauses: Vec<Clause> = header.split(',').map(clause).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let mut first = clauses.iter().find_map(serve).ok_or_else(|| refusal(&clauses))?;
    first.or_json =
        clauses.iter().filter_map(serve).any(|a| a.format == Format::Json && a.view == first.view);
    Ok(first)
}

/// Nothing that the client takes is served: not even a media type, or no form of one.
fn refusal(clauses: &[Clause<'_>]) -> Status {
    match clauses.iter().any(|c| format(c.media).is_some()) {
        true => Status::not_acceptable(OBJECT_TYPES),
        false => Status::no_representation(OBJECT_TYPES),
    }
}

/// As [`accept`], for what can only be shown as it is (upstream: a scope without table conversion).
pub fn accept_object(headers: &HeaderMap) -> Result<()> {
    let header = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut clauses = header.split(',').map(clause).filter_map(|c| serve(&c));
    if header.trim().is_empty() || clauses.any(|a| a.view == View::Object) {
        return Ok(());
    }
    Err(Status::not_acceptable(OBJECT_TYPES))
}

fn clause(text: &str) -> Clause<'_> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or("");
    let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
    let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
    Clause { media, params, quality }
}

fn format(media: &str) -> Option<Format> {
    match media {
        "application/json" | "*/*" | "application/*" => Some(Format::Json),
        "application/yaml" => Some(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
        "application/cbor" | "application/cbor-seq" => Some(Format::Cbor),
        _ => None,
    }
}

fn serve(c: &Clause) -> Option<Accepted> {
    let format = format(c.media)?;
    let param = |name: &str| c.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    let view = match (param("as"), param("g"), param("v")) {
        (None, _, _) => View::Object,
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => View::Table,
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            View::Partial
        }
        // A form that is not served: the client's next clause decides.
        _ => return None,
    };
    if format == Format::Protobuf && view == View::Table {
        // Tables have no protobuf form (upstream: `errNotMarshalable`).
        return None;
    }
    Some(Accepted { format, view, or_json: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Accepted> {
        let mut h = HeaderMap::new();
        h.insert(http::header::ACCEPT, text.parse().expect("a header"));
        accept(&h)
    }

    #[test]
    fn what_kubectl_sends() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(table).map(|a| a.view), Ok(View::Table));
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(old).map(|a| a.view), Ok(View::Object));
        let proto = of("application/vnd.kubernetes.protobuf,application/json");
        assert_eq!(proto.map(|a| (a.format, a.or_json)), Ok((Format::Protobuf, true)));
        let only = of("application/vnd.kubernetes.protobuf");
        assert_eq!(only.map(|a| (a.format, a.or_json)), Ok((Format::Protobuf, false)));
        assert_eq!(of("application/yaml").map(|a| a.format), Ok(Format::Yaml));
        assert_eq!(of("text/html, */*;q=0.1").map(|a| a.format), Ok(Format::Json));
        assert_eq!(of("text/html").map_err(|s| s.code), Err(406));
        assert_eq!(of("application/json;q=0.1,application/yaml").map(|a| a.format), Ok(Format::Yaml));
    }
}
