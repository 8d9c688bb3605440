//! The spec of a Job, also inside a CronJob (upstream: `validateJobSpec`).

use super::policies;
use crate::helpers::{dns_subdomain_errors, regex_error};
use crate::validate::{non_negative, one_of, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Upstream: `maxParallelismForIndexedJob`.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
/// Upstream: `maxFailedIndexesForIndexedJob`.
const FAILED_INDEXES_MAX: i64 = 100_000;
/// Above so many completions a limit per index needs limits of its own.
const MANY_COMPLETIONS: i64 = 100_000;
const PARALLELISM_MAX_WITH_MANY: i64 = 10_000;
const FAILED_INDEXES_MAX_WITH_MANY: i64 = 10_000;
/// Longest name of a controller, in bytes.
const MANAGED_BY_BYTES_MAX: usize = 63;

const PATH_PATTERN: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";

/// Errors of a spec, but for its selector.
pub fn errors(spec: &Value, at: &Path, errors: &mut ErrorList) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ] {
        non_negative(spec, field, at, errors);
    }
    if !spec["maxFailedIndexes"].is_null() {
        non_negative(spec, "maxFailedIndexes", at, errors);
        if spec["backoffLimitPerIndex"].is_null() {
            let detail = "when maxFailedIndexes is specified";
            errors.push(Error::required(&at.child("backoffLimitPerIndex"), detail));
        }
    }
    if let Some(name) = spec["managedBy"].as_str() {
        managed_by(name, &at.child("managedBy"), errors);
    }
    completion_mode(spec, at, errors);
    if !spec["podFailurePolicy"].is_null() {
        policies::failure(spec, &at.child("podFailurePolicy"), errors);
    }
    let policy = &spec["successPolicy"];
    if !policy.is_null() {
        let path = at.child("successPolicy");
        match spec["completionMode"] == "Indexed" {
            true => policies::success(spec, &path, errors),
            false => errors.push(Error::invalid(&path, policy.clone(), "requires indexed completion mode")),
        }
    }
    let known: &[&str] = match spec["podFailurePolicy"].is_null() {
        true => &["Failed", "TerminatingOrFailed"],
        false => &["Failed"],
    };
    one_of(spec, "podReplacementPolicy", at, known, errors);
    errors.extend(crate::core::pod::validation::template(&spec["template"], &at.child("template")));
    restart_policy(spec, &at.child("template").child("spec").child("restartPolicy"), errors);
}

fn completion_mode(spec: &Value, at: &Path, errors: &mut ErrorList) {
    one_of(spec, "completionMode", at, &["NonIndexed", "Indexed"], errors);
    let number = |f: &str| spec[f].as_i64();
    match text(spec, "completionMode") {
        "Indexed" => indexed(spec, at, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(n) = number(field) {
                    errors.push(Error::invalid(&at.child(field), n, "requires indexed completion mode"));
                }
            }
        }
        _ => {}
    }
}

fn indexed(spec: &Value, at: &Path, errors: &mut ErrorList) {
    let number = |f: &str| spec[f].as_i64();
    let (completions, parallelism) = (number("completions"), number("parallelism"));
    let failed = number("maxFailedIndexes");
    let mut push = |e: Error| errors.push(e);
    let most = |n: i64| format!("must be less than or equal to {n}");
    if completions.is_none() {
        push(Error::required(&at.child("completions"), "when completion mode is Indexed"));
    }
    if let Some(n) = parallelism.filter(|n| *n > INDEXED_PARALLELISM_MAX) {
        let detail = format!("{} when completion mode is Indexed", most(INDEXED_PARALLELISM_MAX));
        push(Error::invalid(&at.child("parallelism"), n, detail));
    }
    let path = at.child("maxFailedIndexes");
    if let Some(n) = failed.filter(|n| completions.is_some_and(|c| *n > c)) {
        push(Error::invalid(&path, n, "must be less than or equal to completions"));
    }
    if let Some(n) = failed.filter(|n| *n > FAILED_INDEXES_MAX) {
        push(Error::invalid(&path, n, most(FAILED_INDEXES_MAX)));
    }
    if completions.is_none_or(|n| n <= MANY_COMPLETIONS) || number("backoffLimitPerIndex").is_none() {
        return;
    }
    let why = format!("when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        push(Error::required(&path, detail));
    }
    if let Some(n) = parallelism.filter(|n| *n > PARALLELISM_MAX_WITH_MANY) {
        let detail = format!("{} {why}", most(PARALLELISM_MAX_WITH_MANY));
        push(Error::invalid(&at.child("parallelism"), n, detail));
    }
    if let Some(n) = failed.filter(|n| *n > FAILED_INDEXES_MAX_WITH_MANY) {
        push(Error::invalid(&path, n, format!("{} {why}", most(FAILED_INDEXES_MAX_WITH_MANY))));
    }
}

/// Upstream: `IsDomainPrefixedPath`.
fn managed_by(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    match name.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            errors.extend(dns_subdomain_errors(host, false).into_iter().map(|m| Error::invalid(at, host, m)));
            let fine = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !path.bytes().all(fine) {
                errors.push(Error::invalid(at, path, regex_error("Invalid path", PATH_PATTERN, &[])));
            }
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(Error::invalid(at, name, detail));
        }
    }
    if name.len() > MANAGED_BY_BYTES_MAX {
        errors.push(Error::too_long(at, MANAGED_BY_BYTES_MAX));
    }
}

fn restart_policy(spec: &Value, at: &Path, errors: &mut ErrorList) {
    match text(&spec["template"]["spec"], "restartPolicy") {
        // What says nothing was given the default, which a Job cannot have.
        "Always" | "" => errors.push(Error::required(at, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" if spec["podFailurePolicy"].is_null() => {}
        "OnFailure" => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(Error::invalid(at, "OnFailure", detail));
        }
        other => errors.push(Error::not_supported(at, other, &["OnFailure", "Never"])),
    }
}
