//! Get and list.

use crate::context::Context;
use crate::filters::latency::Layer;
use crate::reply::Reply;
use kinds::KindDef;
use meta::field::{Error, Path, quoted};
use meta::selector::{FieldSelector, LabelSelector};
use meta::status::{Result, Status};
use registry::cursor::Cursor;
use registry::{ListQuery, Match, Selectors};
use std::num::IntErrorKind;
use std::sync::Arc;

pub async fn get(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let (info, registry) = (&ctx.info, &ctx.server.registry);
    let version = info.query.get("resourceVersion");
    let begun = tokio::time::Instant::now();
    let bytes = registry.get(&ctx.permit, kind, &info.namespace, &info.name, version).await;
    ctx.audit.latency.spent(Layer::Storage, begun.elapsed());
    let bytes = bytes?;
    Ok(Reply::Object { code: 200, kind: Some(kind.clone()), bytes })
}

pub async fn list(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let query = query(ctx, kind)?;
    let begun = tokio::time::Instant::now();
    let listed = ctx.server.registry.list(&ctx.permit, kind, ctx.namespace(kind), &query).await;
    ctx.audit.latency.spent(Layer::Storage, begun.elapsed());
    Ok(Reply::List { kind: kind.clone(), listed: listed? })
}

/// The selectors of a request.
pub fn selectors(ctx: &Context) -> Result<Selectors> {
    let q = &ctx.info.query;
    let labels = q.get("labelSelector");
    let fields = q.get("fieldSelector");
    let labels = LabelSelector::parse(labels).map_err(Status::bad_request)?;
    let fields = FieldSelector::parse(fields).map_err(Status::bad_request)?;
    Ok(Selectors { labels, fields })
}

/// The list options of a request.
pub fn query(ctx: &Context, kind: &KindDef) -> Result<ListQuery> {
    let mut query = query_without_cursor(ctx)?;
    query
        .selectors
        .fields
        .keys()
        .try_for_each(|field| kind.check_field(field))
        .map_err(Status::bad_request)?;
    let token = ctx.info.query.get("continue");
    if !token.is_empty() {
        let cursor = Cursor::decode(token);
        if let Err(e) = &cursor {
            return Err(Status::bad_request(format!("invalid continue token: {e}")));
        }
        if !query.resource_version.is_empty() && query.resource_version != "0" {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        query.resume = cursor.ok();
    }
    Ok(query)
}

/// The same, of what is not kept in a store, which alone knows where a list goes on (upstream: `ValidateListOptions`).
pub fn query_without_cursor(ctx: &Context) -> Result<ListQuery> {
    let q = &ctx.info.query;
    integer(ctx, "timeoutSeconds")?;
    let limit = integer(ctx, "limit")?.unwrap_or(0);
    let selectors = selectors(ctx)?;
    let resource_version = q.get("resourceVersion").to_owned();
    let token = q.get("continue");
    let at = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    let matching = match q.get("resourceVersionMatch") {
        "" => Match::Unset,
        "Exact" => Match::Exact,
        "NotOlderThan" => Match::NotOlderThan,
        other => {
            errors.push(Error::not_supported(&at, other, &["Exact", "NotOlderThan", ""]));
            Match::Unset
        }
    };
    if q.has("resourceVersionMatch") && !q.get("resourceVersionMatch").is_empty() {
        if resource_version.is_empty() {
            errors.push(Error::forbidden(
                &at,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !token.is_empty() {
            errors.push(Error::forbidden(&at, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if matching == Match::Exact && resource_version == "0" {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(Error::forbidden(&at, detail));
        }
    }
    if q.has("sendInitialEvents") {
        errors.push(Error::forbidden(
            &Path::new("sendInitialEvents"),
            "sendInitialEvents is forbidden for list",
        ));
    }
    invalid_options(errors)?;
    Ok(ListQuery {
        selectors,
        limit: usize::try_from(limit).unwrap_or(0),
        resume: None,
        resource_version,
        matching,
    })
}

/// A number among the parameters, refused in Go's words; an empty one is no number.
pub fn integer(ctx: &Context, name: &str) -> Result<Option<i64>> {
    if !ctx.info.query.has(name) {
        return Ok(None);
    }
    let text = ctx.info.query.get(name);
    text.parse().map(Some).map_err(|e: std::num::ParseIntError| {
        let why = match e.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {text}: {why}", text = quoted(text)))
    })
}

pub fn invalid_options(errors: Vec<Error>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let gk = meta::GroupKind { group: "meta.k8s.io".into(), kind: "ListOptions".into() };
    Err(Status::invalid(&gk, "", &errors))
}
