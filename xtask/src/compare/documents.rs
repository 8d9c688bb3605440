//! Documents that describe the API: discovery and OpenAPI.

use super::http::{Ask, Connection};
use super::{Finding, diff};
use crate::bench::side::Side;
use serde_json::{Map, Value};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Depth of nesting of a document.
const DEPTH_MAX: usize = 128;

fn fetch(side: &Side, paths: &[String], accept: &str) -> Result<Vec<Value>, String> {
    side.with(async |side| {
        let mut connection = Connection::new(side);
        let mut out = Vec::new();
        for path in paths {
            let mut ask = Ask::get(path);
            ask.headers.push(("accept".into(), accept.into()));
            out.push(connection.send(&ask).await?.document());
        }
        Ok(out)
    })
}

/// Fetches the same paths of both and compares them after `prepare`.
fn compare(
    real: &Side,
    ours: &Side,
    paths: &[String],
    accept: &str,
    prepare: fn(&mut Value),
    out: &mut Vec<Finding>,
) -> Result<(), String> {
    let (mut theirs, mut mine) = (fetch(real, paths, accept)?, fetch(ours, paths, accept)?);
    for (path, (theirs, mine)) in paths.iter().zip(theirs.iter_mut().zip(&mut mine)) {
        prepare(theirs);
        prepare(mine);
        let accept = if accept == AGGREGATED { " (aggregated)" } else { "" };
        diff::documents(&format!("GET {path}{accept}"), theirs, mine, out);
    }
    Ok(())
}

pub fn discovery(real: &Side, ours: &Side) -> Result<Vec<Finding>, String> {
    let mut out = Vec::new();
    let mut paths: Vec<String> = ["/api", "/apis", "/api/v1"].map(str::to_owned).into();
    let groups = fetch(real, &paths[1..2], "application/json")?;
    for group in groups[0]["groups"].as_array().into_iter().flatten() {
        paths.push(format!("/apis/{}", group["name"].as_str().unwrap_or("")));
        for version in group["versions"].as_array().into_iter().flatten() {
            paths.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap_or("")));
        }
    }
    compare(real, ours, &paths, "application/json", |d| hide(d, &["serverAddressByClientCIDRs"]), &mut out)?;
    paths.truncate(2);
    compare(
        real,
        ours,
        &paths,
        AGGREGATED,
        |d| hide(d, &["creationTimestamp", "resourceVersion"]),
        &mut out,
    )?;
    Ok(out)
}

pub fn openapi(real: &Side, ours: &Side) -> Result<Vec<Finding>, String> {
    let mut out = Vec::new();
    let index = ["/openapi/v3".to_owned()];
    compare(real, ours, &index, "application/json", |d| hide(d, &["serverRelativeURL"]), &mut out)?;
    let documents = fetch(real, &index, "application/json")?;
    let paths = documents[0]["paths"].as_object().into_iter().flatten();
    let paths: Vec<String> = paths.map(|(path, _)| format!("/openapi/v3/{path}")).collect();
    compare(real, ours, &paths, "application/json", described, &mut out)?;
    compare(real, ours, &["/openapi/v2".to_owned()], "application/json", described, &mut out)?;
    Ok(out)
}

/// What schemas say to people is not compared, nor the order of what has none.
fn described(document: &mut Value) {
    // kube-apiserver names parameters of v2 apart, by their whole text
    if let Some(named) = document.as_object_mut().and_then(|d| d.remove("parameters")) {
        resolve(document, &named, 0);
    }
    hide(document, &["description", "summary"]);
    sort(document, 0);
}

fn resolve(v: &mut Value, named: &Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    if let Some(name) = v.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/parameters/")) {
        *v = named[name].clone();
        return;
    }
    match v {
        Value::Object(map) => map.values_mut().for_each(|v| resolve(v, named, depth + 1)),
        Value::Array(list) => list.iter_mut().for_each(|v| resolve(v, named, depth + 1)),
        _ => {}
    }
}

fn hide(document: &mut Value, fields: &[&str]) {
    fn walk(v: &mut Value, fields: &[&str], depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        match v {
            Value::Object(map) => {
                // a property may have such a name: its schema is an object
                map.retain(|k, v| !fields.contains(&k.as_str()) || v.is_object());
                map.values_mut().for_each(|v| walk(v, fields, depth + 1));
            }
            Value::Array(list) => list.iter_mut().for_each(|v| walk(v, fields, depth + 1)),
            _ => {}
        }
    }
    walk(document, fields, 0);
}

fn sort(v: &mut Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match v {
        Value::Object(map) => {
            map.values_mut().for_each(|v| sort(v, depth + 1));
            let sorted: Map<String, Value> = std::mem::take(map).into_iter().collect();
            *map = sorted;
        }
        Value::Array(list) => {
            list.iter_mut().for_each(|v| sort(v, depth + 1));
            list.sort_by_cached_key(Value::to_string);
        }
        _ => {}
    }
}
