//! Managed fields: after every write the object says who set what; server-side apply goes by it
//! (upstream: apiserver `pkg/endpoints/handlers/{fieldmanager,patch.go}`).

use crate::context::Context;
use apply::{ApplyError, FieldSet, Options, View};
use kinds::KindDef;
use meta::field::{Error, ErrorList, Path};
use meta::status::{Cause, Reason, Result, Status};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::LazyLock;

/// The longest name of a field manager (upstream: `FieldManagerMaxLength`).
const MANAGER_BYTES_MAX: usize = 128;

static NONE: LazyLock<FieldSet> = LazyLock::new(FieldSet::default);
static STATUS: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&["status"]));
static SPEC: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&["spec"]));

/// Fields that a write to this path cannot change: nobody comes to own them by it.
fn reset(kind: &KindDef, subresource: &str) -> Cow<'static, FieldSet> {
    if let Some(paths) = kind.strategy.reset_fields(subresource) {
        return Cow::Owned(FieldSet::of_fields(paths));
    }
    Cow::Borrowed(match (kind.subresource("status").is_some(), subresource) {
        (true, "") => &STATUS,
        (true, "status") => &SPEC,
        _ => &NONE,
    })
}

fn options<'a>(
    ctx: &'a Context,
    kind: &'a KindDef,
    api_version: &'a str,
    reset: &'a FieldSet,
) -> Options<'a> {
    let types = kinds::schema::schema();
    let view = match &kind.custom {
        None => View::Typed { types, definition: &kind.schema },
        Some(custom) => match &custom.raw_schema {
            Some(schema) => View::Structural { types, schema },
            None => View::Deduced,
        },
    };
    Options {
        manager: manager(ctx),
        api_version,
        subresource: &ctx.info.subresource,
        now: ctx.server.clock.now(),
        view,
        reset,
    }
}

/// The writer's name: the `fieldManager` parameter, else the program of the user agent (upstream: `managerOrUserAgent`).
fn manager(ctx: &Context) -> &str {
    match ctx.info.query.get("fieldManager") {
        "" => {
            let agent = ctx.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
            let name = agent.split('/').next().unwrap_or("");
            let end = name
                .char_indices()
                .map(|(i, c)| i + c.len_utf8())
                .take_while(|end| *end <= MANAGER_BYTES_MAX);
            &name[..end.last().unwrap_or(0)]
        }
        given => given,
    }
}

/// Writes down who owns what after a write that is no apply.
pub fn track(ctx: &Context, kind: &KindDef, old: Option<&Value>, new: &mut Value) {
    let api_version = kind.api_version();
    let reset = reset(kind, &ctx.info.subresource);
    apply::update(old, new, &options(ctx, kind, &api_version, &reset));
}

/// The object after an applied configuration.
pub fn apply(ctx: &Context, kind: &KindDef, old: Option<&Value>, config: &Value) -> Result<Value> {
    let api_version = kind.api_version();
    let text = |field: &str| config[field].as_str().unwrap_or("");
    let (given, named) = (text("apiVersion"), text("kind"));
    if given != api_version || named != kind.kind {
        // upstream: managedfields `versioncheck.go`
        if !given.is_empty() && meta::GroupVersion::parse(given).is_none() {
            return Err(Status::bad_request("invalid object type: /, Kind="));
        }
        let slash = if given.contains('/') { "" } else { "/" };
        return Err(Status::bad_request(format!("invalid object type: {slash}{given}, Kind={named}")));
    }
    let force = ctx.info.query.flag("force");
    let reset = reset(kind, &ctx.info.subresource);
    ::apply::apply(old, config, &options(ctx, kind, &api_version, &reset), force).map_err(|e| match e {
        ApplyError::Conflicts(conflicts) => {
            let mut s = Status::new(409, Reason::Conflict, ::apply::message(&conflicts));
            let causes = ::apply::causes(&conflicts).into_iter();
            let causes =
                causes.map(|c| Cause { reason: c.reason.into(), message: c.message, field: c.field });
            s.details.get_or_insert_default().causes = causes.collect();
            s
        }
        ApplyError::BadRequest(why) => Status::bad_request(why),
        ApplyError::Other(why) => Status::new(500, Reason::Unknown, why),
    })
}

/// The type as upstream prints it.
pub fn type_text(kind: &KindDef) -> String {
    let slash = if kind.group.is_empty() { "/" } else { "" };
    format!("{slash}{}, Kind={}", kind.api_version(), kind.kind)
}

/// An object that was sent, as upstream's messages name it (upstream: `objectGVKNN`).
pub fn named(obj: &Value, kind: &KindDef) -> String {
    let text = |field: &str| obj["metadata"][field].as_str().unwrap_or("");
    format!("{}/{}; {}", text("namespace"), text("name"), type_text(kind))
}

/// Checks the parameters that writes share (upstream: apimachinery `validation.Validate{Create,Update,Patch}Options`).
pub fn check(ctx: &Context, kind: &str, is_apply: bool) -> Result<()> {
    let q = &ctx.info.query;
    let mut errors: ErrorList = Vec::new();
    let at = Path::new("fieldManager");
    let given = q.get("fieldManager");
    if is_apply && given.is_empty() {
        errors.push(Error::required(&at, "is required for apply patch"));
    }
    if kind == "PatchOptions" && !is_apply && q.has("force") {
        errors.push(Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
    }
    if given.len() > MANAGER_BYTES_MAX {
        errors.push(Error::too_long(&at, MANAGER_BYTES_MAX));
    }
    for (i, c) in given.char_indices().filter(|(_, c)| !is_printable(*c)) {
        let detail = format!("invalid character U+{:04X} (at position {i})", c as u32);
        errors.push(Error::invalid(&at, given, detail));
    }
    let dry_run: Vec<&str> = q.all("dryRun").collect();
    if dry_run.iter().any(|d| *d != "All") {
        errors.push(Error::not_supported(&Path::new("dryRun"), dry_run, &["All"]));
    }
    let validation = q.get("fieldValidation");
    if !matches!(validation, "" | "Ignore" | "Strict" | "Warn") {
        let supported = ["", "Ignore", "Strict", "Warn"];
        errors.push(Error::text_not_supported(&Path::new("fieldValidation"), validation, &supported));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let gk = meta::GroupKind { group: "meta.k8s.io".into(), kind: kind.into() };
    Err(Status::invalid(&gk, "", &errors))
}

/// Go's `unicode.IsPrint`, near enough: no controls, no blanks but the one, nothing invisible or private.
fn is_printable(c: char) -> bool {
    let invisible = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}'
        | '\u{e0000}'..='\u{10ffff}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible)
}
