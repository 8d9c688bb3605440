//! Which form of an answer a client takes (upstream: apiserver `pkg/endpoints/handlers/negotiation`).

use crate::request_info::Query;
use http::{HeaderMap, header};
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
    /// Metadata only, of one object or of the items of a list.
    Partial,
    PartialList,
}

/// How an answer's bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    pub format: Format,
    /// JSON for human readers.
    pub pretty: bool,
    /// The client takes compressed bodies.
    pub gzip: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub view: View,
    /// The view is asked for in its `v1beta1`.
    pub beta: bool,
    /// The client takes the same in JSON too, where its first choice does not exist.
    pub or_json: bool,
}

impl Accepted {
    /// The version of tables and metadata.
    pub fn view_version(&self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
}

/// The media types of objects, as upstream lists them in refusals.
pub const OBJECT_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What routes produce beside [`OBJECT_TYPES`] that can also be watched.
const STREAM_TYPES: &[&str] =
    &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Whether the client takes a media type of a route, which goes by names alone, without parameters or ranges but the
/// widest (upstream: go-restful `Route.matchesAccept`). Custom resources have no routes.
///
/// # Errors
/// 406, which lists what the route produces.
pub fn route(headers: &HeaderMap, streams: bool) -> Result<()> {
    let header = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let produced = |ty: &str| {
        ty == "*/*"
            || OBJECT_TYPES.contains(&ty)
            || ty == Format::Cbor.content_type()
            || ty == Format::Cbor.watch_type()
    };
    let media = |part: &str| part.split(';').next().unwrap_or("").trim_matches(' ').to_owned();
    if header.is_empty() || header.split(',').any(|part| produced(&media(part))) {
        return Ok(());
    }
    let streams = if streams { STREAM_TYPES } else { &[] };
    Err(Status::no_representation(&[OBJECT_TYPES, streams].concat()))
}

/// One media type of an `Accept` header.
struct Clause<'a> {
    ty: &'a str,
    subtype: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f64,
}

/// Reads `Accept`; the first clause that can be served wins, in upstream's order.
///
/// # Errors
/// 406: no clause can be served.
pub fn accept(headers: &HeaderMap, query: &Query) -> Result<Accepted> {
    let clauses = clauses(headers);
    let Some(clauses) = clauses else {
        return Ok(Accepted { encoding: Encoding::of(Format::Json, headers, query), ..Accepted::default() });
    };
    let (mut first, pretty) =
        clauses.iter().find_map(serve).ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))?;
    first.or_json = clauses
        .iter()
        .filter_map(serve)
        .any(|(a, _)| a.encoding.format == Format::Json && a.view == first.view);
    first.encoding = Encoding::of(first.encoding.format, headers, query);
    first.encoding.pretty |= pretty && first.encoding.format == Format::Json;
    Ok(first)
}

/// How a refusal is written: it has no other views, and goes out as indented JSON where nothing else is taken
/// (upstream: `responsewriters.ErrorNegotiated`).
pub fn of_refusals(headers: &HeaderMap, query: &Query) -> Encoding {
    let Some(clauses) = clauses(headers) else { return Encoding::of(Format::Json, headers, query) };
    let plain = clauses.iter().filter_map(serve).find(|(a, _)| a.view == View::Object);
    match plain {
        Some((a, _)) => Encoding::of(a.encoding.format, headers, query),
        None => Encoding { pretty: true, ..Encoding::default() },
    }
}

impl Encoding {
    fn of(format: Format, headers: &HeaderMap, query: &Query) -> Self {
        let pretty = format == Format::Json && is_human(headers, query);
        Self { format, pretty, gzip: takes_gzip(headers) }
    }
}

/// Upstream: `isPrettyPrint` in `negotiate.go`.
fn is_human(headers: &HeaderMap, query: &Query) -> bool {
    if !query.get("pretty").is_empty() {
        return matches!(query.get("pretty"), "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
}

/// Whether the client takes compressed bodies (upstream: `responsewriters.ContentEncodingSupported`).
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let encodings = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    encodings.split(',').any(|token| token.trim() == "gzip")
}

/// As [`accept`], for what has no table (upstream: a scope without table conversion).
pub fn without_table(headers: &HeaderMap) -> Result<View> {
    let Some(clauses) = clauses(headers) else { return Ok(View::Object) };
    let mut served = clauses.iter().filter_map(serve).map(|(a, _)| a.view);
    served.find(|view| *view != View::Table).ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))
}

/// The media types of `Accept`, type and subtype, in the order of preference; `None` without the header.
pub fn media_types(headers: &HeaderMap) -> Option<Vec<(&str, &str)>> {
    Some(clauses(headers)?.into_iter().map(|c| (c.ty, c.subtype)).collect())
}

/// The clauses of `Accept` in the order of preference; `None` without the header.
fn clauses(headers: &HeaderMap) -> Option<Vec<Clause<'_>>> {
    let header = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("").trim();
    if header.is_empty() {
        return None;
    }
    let mut all: Vec<Clause> = header.split(',').filter_map(clause).collect();
    // The order of goautoneg, whose comparison is no order at all: only the same steps end in the same place.
    for i in 1..all.len() {
        let mut at = i;
        while at > 0 && before(&all[at], &all[at - 1]) {
            all.swap(at, at - 1);
            at -= 1;
        }
    }
    Some(all)
}

/// Whether a clause goes before another (upstream: goautoneg `acceptSlice.Less`).
fn before(a: &Clause, b: &Clause) -> bool {
    a.quality > b.quality || (a.ty != "*" && b.ty == "*") || (a.subtype != "*" && b.subtype == "*")
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';');
    let media = parts.next().unwrap_or("").trim();
    let (ty, subtype) = match media.split_once('/') {
        Some((ty, subtype)) if !subtype.contains('/') && !subtype.is_empty() => (ty.trim(), subtype.trim()),
        None if media == "*" => ("*", "*"),
        _ => return None,
    };
    let params = parts.filter_map(|p| p.split_once('=')).filter(|(_, v)| !v.contains('='));
    let params: Vec<(&str, &str)> = params.map(|(k, v)| (k.trim(), v.trim())).collect();
    let quality = params.iter().find(|(k, _)| *k == "q").map_or(1.0, |(_, v)| v.parse().unwrap_or(0.0));
    Some(Clause { ty, subtype, params, quality })
}

fn format(c: &Clause) -> Option<Format> {
    match (c.ty, c.subtype) {
        ("application", "json" | "*") | ("*", "*") => Some(Format::Json),
        ("application", "yaml") => Some(Format::Yaml),
        ("application", "vnd.kubernetes.protobuf") => Some(Format::Protobuf),
        ("application", "cbor" | "cbor-seq") => Some(Format::Cbor),
        _ => None,
    }
}

/// What a clause asks for, and whether for human readers; `None` when it is not served: the client's next one decides
/// (upstream: `acceptMediaTypeOptions`, `RequestScope.AllowsMediaTypeTransform`).
fn serve(c: &Clause) -> Option<(Accepted, bool)> {
    let format = format(c)?;
    let param = |name: &str| c.params.iter().rev().find(|(k, _)| *k == name).map(|(_, v)| *v);
    if param("stream").is_some_and(|s| !matches!(s, "" | "watch")) {
        return None;
    }
    if param("sv").is_some_and(|v| !matches!(v, "" | "v1")) {
        return None;
    }
    let (view, beta) = match (param("as"), param("g"), param("v")) {
        (None, None, None) => (View::Object, false),
        (Some(form), Some("meta.k8s.io"), Some(version @ ("v1" | "v1beta1"))) => {
            let view = match form {
                // Tables have no binary form.
                "Table" if matches!(format, Format::Json | Format::Yaml | Format::Cbor) => View::Table,
                "PartialObjectMetadata" => View::Partial,
                "PartialObjectMetadataList" => View::PartialList,
                _ => return None,
            };
            (view, version == "v1beta1")
        }
        _ => return None,
    };
    let encoding = Encoding { format, ..Encoding::default() };
    Some((Accepted { encoding, view, beta, or_json: false }, param("pretty") == Some("1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Accepted> {
        let mut h = HeaderMap::new();
        h.insert(header::ACCEPT, text.parse().expect("a header"));
        accept(&h, &Query::default())
    }

    fn format_of(text: &str) -> Option<Format> {
        of(text).ok().map(|a| a.encoding.format)
    }

    #[test]
    fn what_kubectl_sends() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(table).map(|a| (a.view, a.beta)), Ok((View::Table, false)));
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(old).map(|a| (a.view, a.view_version())), Ok((View::Table, "meta.k8s.io/v1beta1")));
        let proto = of("application/vnd.kubernetes.protobuf,application/json");
        assert_eq!(proto.map(|a| (a.encoding.format, a.or_json)), Ok((Format::Protobuf, true)));
        let only = of("application/vnd.kubernetes.protobuf");
        assert_eq!(only.map(|a| (a.encoding.format, a.or_json)), Ok((Format::Protobuf, false)));
        assert_eq!(format_of("application/yaml"), Some(Format::Yaml));
        assert_eq!(format_of("text/html, */*;q=0.1"), Some(Format::Json));
        assert_eq!(of("text/html").map_err(|s| s.code), Err(406));
        assert_eq!(format_of("application/json;q=0.1,application/yaml"), Some(Format::Yaml));
    }

    #[test]
    fn routes_go_by_names_of_media_types() {
        let route = |text: &str, streams: bool| {
            let mut h = HeaderMap::new();
            h.insert(header::ACCEPT, text.parse().expect("a header"));
            route(&h, streams).map_err(|s| s.message)
        };
        for taken in ["", "*/*;q=0.1", "nope, application/yaml", "application/json;as=Nope"] {
            assert_eq!(route(taken, false), Ok(()), "{taken}");
        }
        assert!(route("application/*", false).is_err_and(|m| m.ends_with("vnd.kubernetes.protobuf")));
        assert!(route("text/html", true).is_err_and(|m| m.ends_with("protobuf;stream=watch")));
    }

    #[test]
    fn clauses_that_cannot_be_served_are_passed_over() {
        let proto_table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, application/yaml;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(of(proto_table).map(|a| (a.encoding.format, a.view)), Ok((Format::Yaml, View::Table)));
        assert_eq!(format_of("application/json;as=Table, application/yaml"), Some(Format::Yaml));
        assert_eq!(format_of("application/json;stream=other, application/yaml"), Some(Format::Yaml));
        // What is named goes before what is not, whatever its quality.
        assert_eq!(format_of("*/*, application/yaml;q=0.5"), Some(Format::Yaml));
        assert_eq!(format_of("junk, application/yaml"), Some(Format::Yaml));
    }

    #[test]
    fn people_read_indented_json() {
        let mut h = HeaderMap::new();
        h.insert(header::USER_AGENT, "curl/8.5.0".parse().expect("a header"));
        let pretty = |h: &HeaderMap, q: &str| accept(h, &Query::parse(q)).map(|a| a.encoding.pretty);
        assert_eq!(pretty(&h, ""), Ok(true));
        assert_eq!(pretty(&h, "pretty=false"), Ok(false));
        h.insert(header::ACCEPT, "application/yaml".parse().expect("a header"));
        assert_eq!(pretty(&h, "pretty=true"), Ok(false));
        assert_eq!(pretty(&HeaderMap::new(), "pretty=1"), Ok(true));
        h.insert(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io".parse().expect("a header"));
        assert!(of_refusals(&h, &Query::default()).pretty);
    }
}
