//! Odd query parameters and headers.
//!
//! Invariant: what would change something asks for a dry run, and a watch for an end.

use super::catalog::Operation;
use super::dice::Dice;

/// A parameter gets one of these values.
const VALUES: &[(&str, &[&str])] = &[
    ("fieldManager", &["", "fuzz", "other", "a%20b", "%09", "x%2Fy"]),
    ("fieldValidation", &["Strict", "Strict", "Strict", "Warn", "Ignore", "Nope", "strict", ""]),
    ("gracePeriodSeconds", &["-1", "0", "5", "x", "99999999999999999999", ""]),
    ("propagationPolicy", &["Orphan", "Background", "Foreground", "Nope", "orphan", ""]),
    ("orphanDependents", &["true", "false", "x", ""]),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", &["true", "x"]),
    ("limit", &["-1", "0", "1", "500", "x", "99999999999999999999", "1.5", ""]),
    ("resourceVersion", &["0", "-1", "x", "1x", "", "0x1", "18446744073709551616"]),
    ("resourceVersionMatch", &["Exact", "NotOlderThan", "Nope", "exact", ""]),
    // the last: {"v":"meta.k8s.io/v1","rv":-1,"start":"x"}, without a revision, and with a wrong version
    (
        "continue",
        &[
            "x",
            "%00",
            "e30",
            "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoieCJ9",
            "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJzdGFydCI6IngifQ",
            "eyJ2IjoieCIsInJ2IjoxLCJzdGFydCI6IngifQ",
        ],
    ),
    (
        "fieldSelector",
        &[
            "metadata.name%3Dx",
            "metadata.name!%3Dx",
            "metadata.namespace%3Dcompare",
            "spec.nope%3D1",
            "metadata.name",
            "%3Dx",
            "metadata.name%3D%3Dx,",
            "metadata.name%3Da%5C,b",
            "metadata.name%3Da%5Cb",
            "a%3Db%3Dc",
            ",",
            "status.phase%3DX",
            "type%3Dx",
            "metadata.name%3Dx,metadata.name%3Dy",
            "%00",
            "spec.nodeName%3D",
        ],
    ),
    (
        "labelSelector",
        &[
            "a",
            "!a",
            "a%3Db",
            "a%3D%3Db,c!%3Dd",
            "a%20in%20(b,c)",
            "a%20notin%20()",
            "a%20in%20(b",
            "a%20in%20b",
            "a%3E5",
            "a%3C5",
            "a%3Ex",
            "a,",
            ",a",
            "a%3D",
            "%3Db",
            "-a%3Db",
            "a%3Db%20c",
            "a%20b",
            "a%2Fb%2Fc%3Dd",
            "A_b",
            "a%20exists",
            "()",
            "a%20in%20(b,,c)",
            "!a%3Db",
            "%00",
            "a%3D%C3%BC",
            "in%20in%20(in)",
            "notin",
        ],
    ),
    ("timeoutSeconds", &["x", "1", "-1", "99999999999999999999", ""]),
    ("pretty", &["true", "false", "x", "1", ""]),
    ("allowWatchBookmarks", &["true", "x", ""]),
    ("sendInitialEvents", &["true", "false", "x"]),
    ("shardSelector", &["x", ""]),
    ("nope", &["x"]),
];

/// The query for an operation; `apply` needs a manager.
pub fn query(operation: &Operation, apply: bool, dice: &Dice) -> String {
    let mut out: Vec<String> = Vec::new();
    let mutating = operation.method != "GET";
    if mutating {
        out.push(match dice.below(120) {
            0 => "dryRun=Nope".into(),
            1 => "dryRun=all".into(),
            2 => "dryRun=All&dryRun=All".into(),
            3 => "dryRun=All&dryRun=x".into(),
            _ => "dryRun=All".into(),
        });
    }
    if apply && !dice.one_in(40) {
        out.push("fieldManager=fuzz".into());
        if dice.one_in(2) {
            out.push(format!("force={}", dice.pick(&["true", "true", "false", "x"])));
        }
    }
    let times = match dice.below(if mutating { 8 } else { 3 }) {
        0 => 1,
        1 if !mutating => 2,
        _ => 0,
    };
    for _ in 0..times {
        let known = |(name, _): &&(&str, &[&str])| operation.parameters.contains(*name);
        let of: Vec<_> = VALUES.iter().filter(known).collect();
        let Some((name, values)) = dice.pick_of(&of) else { break };
        if !(apply && *name == "fieldManager") {
            out.push(format!("{name}={}", dice.pick(values)));
        }
    }
    if operation.action == "list" && dice.one_in(40) {
        out.retain(|p| !p.starts_with("timeoutSeconds"));
        out.push("watch=true&timeoutSeconds=1".into());
    }
    out.join("&")
}

/// Headers beside the content type of a patch.
pub fn headers(operation: &Operation, patch: Option<&str>, dice: &Dice) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let content_type = match patch {
        Some(content_type) if !dice.one_in(60) => Some(content_type),
        _ if operation.method != "GET" && dice.one_in(50) => Some(dice.pick(&[
            "application/yaml",
            "application/json; charset=utf-8",
            "text/plain",
            "application/merge-patch+json",
            "application/x-www-form-urlencoded",
            "application/vnd.kubernetes.protobuf",
            "nope",
            "*/*",
        ])),
        other => other,
    };
    out.extend(content_type.map(|t| ("content-type".to_owned(), t.to_owned())));
    if dice.one_in(30) {
        let accept = [
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            "application/json;as=Nope;v=v1;g=meta.k8s.io",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "text/html",
            "*/*",
            "application/*",
            "application/json;q=0.1",
            "nope",
        ];
        out.push(("accept".into(), dice.pick(&accept).into()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: &str, action: &str) -> Operation {
        let parameters = VALUES.iter().map(|(name, _)| (*name).to_owned()).collect();
        let text = |t: &str| t.to_owned();
        let (method, action, path) = (text(method), text(action), text("/api/v1/pods"));
        let (api_version, kind) = (text("v1"), text("Pod"));
        Operation { method, path, action, api_version, kind, body: None, parameters, on_part: false }
    }

    #[test]
    fn what_changes_something_is_a_dry_run() {
        let post = operation("POST", "post");
        for seed in 0..500 {
            let dice = Dice::seeded(seed);
            assert!(query(&post, seed % 2 == 0, &dice).contains("dryRun="), "{seed}");
        }
    }

    #[test]
    fn watches_end() {
        let list = operation("GET", "list");
        let all: Vec<_> = (0..500).map(|seed| query(&list, false, &Dice::seeded(seed))).collect();
        let watches: Vec<_> = all.iter().filter(|q| q.contains("watch=true")).collect();
        assert!(!watches.is_empty() && watches.iter().all(|w| w.matches("timeoutSeconds").count() == 1));
    }
}
