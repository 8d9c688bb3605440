//! Streams to a node's kubelet: logs, exec, attach, port-forward, proxy
//! (upstream: `pkg/registry/core/pod/rest/{log,subresources}.go`, `pkg/kubelet/client`).
//!
//! The kubelet's address comes from the Node object and is never one that a pod could choose; a connection is only
//! spliced to the client after the kubelet answered 101.

use super::options;
use crate::context::Context;
use crate::filters::authorization::attributes;
use crate::kubelet::{self, Target};
use crate::reply::Reply;
use http::Method;
use kinds::KindDef;
use meta::field::quoted;
use meta::status::{Result, Status};
use serde_json::Value;
use std::sync::Arc;

/// A pod's subresource that its node serves.
pub async fn pod(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let info = &ctx.info;
    require_create_for_upgrade(ctx).await?;
    match info.subresource.as_str() {
        "log" => options::check_log(&info.query, &info.name)?,
        "portforward" => options::check_ports(&info.query)?,
        _ => {}
    }
    if info.subresource != "log" {
        ctx.admit_connect(kind, connect_options(ctx)).await?;
    }
    ctx.server.registry.consistent().await?;
    let get = |name: &str| ctx.server.registry.get_value(&ctx.permit, kind, &info.namespace, name);
    if info.subresource == "proxy" {
        let (name, port) = name_and_port(&info.name)?;
        return kubelet::proxy_to_pod(ctx, &get(name)?, port, &raw_query(ctx)).await;
    }
    let pod = get(&info.name)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    let path = format!("{}/{}", info.namespace, info.name);
    let (target, method) = match info.subresource.as_str() {
        "portforward" => (format!("/portForward/{path}"), ctx_method(ctx)),
        sub => {
            let container = container(ctx, &pod)?;
            let verb = if sub == "log" { "containerLogs" } else { sub };
            let method = if sub == "log" { Method::GET } else { ctx_method(ctx) };
            (format!("/{verb}/{path}/{container}"), method)
        }
    };
    if node.is_empty() {
        // A pod without a node has no logs yet; everything else needs a host.
        if info.subresource == "log" {
            return Ok(Reply::Text { code: 204, content_type: "", body: bytes::Bytes::new() });
        }
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name)));
    }
    let query = node_query(ctx)?;
    // upstream names whatever is not found by the resource of the request
    let address = kubelet::address(ctx, node).map_err(|e| match e.is_not_found() {
        true => Status::not_found(&kind.group_resource(), node),
        false => e,
    })?;
    let target = Target { address, node: node.to_owned(), method, path: target, query };
    if info.subresource == "log" {
        kubelet::fetch(ctx, target).await
    } else {
        kubelet::splice(ctx, target).await
    }
}

/// A proxied pod's name with its port: `NAME`, `NAME:PORT` or `http:NAME:PORT` (upstream: `net.SplitSchemeNamePort`).
fn name_and_port(text: &str) -> Result<(&str, Option<u16>)> {
    let refused = |why: &str| {
        Err(Status::bad_request(format!("invalid pod request {text}: {why}", text = quoted(text))))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return refused("expected NAME, NAME:PORT or SCHEME:NAME:PORT"),
    };
    if !matches!(scheme, "" | "http") {
        return refused("only http is proxied to pods");
    }
    match port {
        "" => Ok((name, None)),
        port => match port.parse() {
            Ok(port) => Ok((name, Some(port))),
            Err(_) => refused("the port is no number"),
        },
    }
}

/// A node's own endpoint, as `nodes/proxy`.
pub async fn node(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    ctx.admit_connect(kind, connect_options(ctx)).await?;
    let registry = &ctx.server.registry;
    registry.get_live::<serde::de::IgnoredAny>(&ctx.permit, kind, "", &ctx.info.name).await?;
    let address = kubelet::address(ctx, &ctx.info.name)?;
    let path = format!("/{}", ctx.info.rest);
    let query = raw_query(ctx);
    let target = Target { address, node: ctx.info.name.clone(), method: ctx_method(ctx), path, query };
    if ctx.headers.contains_key(http::header::UPGRADE) {
        return kubelet::splice(ctx, target).await;
    }
    kubelet::fetch(ctx, target).await
}

/// WebSocket exec, attach and port-forward arrive as GET; they need the create permission all the same
/// (upstream: `AuthorizePodWebsocketUpgradeCreatePermission`).
async fn require_create_for_upgrade(ctx: &Context) -> Result<()> {
    let info = &ctx.info;
    if info.verb != "get" || !matches!(info.subresource.as_str(), "exec" | "attach" | "portforward") {
        return Ok(());
    }
    let mut attributes = attributes(info, &ctx.user);
    attributes.verb = "create".into();
    ctx.server.authorizer.require(&attributes).await.map(drop)
}

/// What the client asks for, as admission sees it (upstream: `PodExecOptions`, `PodAttachOptions`, …).
fn connect_options(ctx: &Context) -> Value {
    let (info, q) = (&ctx.info, &ctx.info.query);
    let flags = |names: &[&str]| -> Value {
        let set = names.iter().filter(|n| q.flag(n)).map(|n| ((*n).to_owned(), Value::Bool(true)));
        Value::Object(set.collect())
    };
    let (kind, mut options) = match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "exec") => ("PodExecOptions", flags(&["stdin", "stdout", "stderr", "tty"])),
        ("pods", "attach") => ("PodAttachOptions", flags(&["stdin", "stdout", "stderr", "tty"])),
        ("pods", "portforward") => ("PodPortForwardOptions", flags(&[])),
        ("pods", _) => ("PodProxyOptions", flags(&[])),
        ("services", _) => ("ServiceProxyOptions", flags(&[])),
        _ => ("NodeProxyOptions", flags(&[])),
    };
    if !q.get("container").is_empty() {
        options["container"] = q.get("container").into();
    }
    let command: Vec<&str> = q.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    let ports: Vec<i64> = q.all("ports").filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = ports.into();
    }
    if kind.ends_with("ProxyOptions") {
        options["path"] = info.rest.as_str().into();
    }
    options["kind"] = kind.into();
    options["apiVersion"] = "v1".into();
    options
}

fn ctx_method(ctx: &Context) -> Method {
    match ctx.info.verb.as_str() {
        "get" => Method::GET,
        "create" => Method::POST,
        "update" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" => Method::DELETE,
        _ => Method::GET,
    }
}

/// The container asked for, or the pod's only (or default) one.
fn container(ctx: &Context, pod: &Value) -> Result<String> {
    let asked = ctx.info.query.get("container");
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (regular, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    let pod_name = &ctx.info.name;
    if !asked.is_empty() {
        let known = regular.iter().chain(&init).chain(&ephemeral).any(|n| *n == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
        };
    }
    if let [only] = regular.as_slice() {
        return Ok((*only).to_owned());
    }
    if let Some(default) = meta::object::annotation(pod, "kubectl.kubernetes.io/default-container")
        && regular.contains(&default)
    {
        return Ok(default.to_owned());
    }
    let all: Vec<&str> = init.into_iter().chain(regular).chain(ephemeral).collect();
    let text =
        format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", all.join(" "));
    Err(Status::bad_request(text))
}

/// The client's options in the kubelet's words.
fn node_query(ctx: &Context) -> Result<String> {
    let q = &ctx.info.query;
    if ctx.info.subresource == "log" {
        return Ok(raw_query(ctx));
    }
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if q.flag(ours) {
            out.append_pair(theirs, "1");
        }
    }
    for name in ["command", "ports", "port"] {
        for value in q.all(name) {
            out.append_pair(name, value);
        }
    }
    Ok(out.finish())
}

fn raw_query(ctx: &Context) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for name in ctx.info.query.names().collect::<std::collections::BTreeSet<_>>() {
        for value in ctx.info.query.all(name) {
            out.append_pair(name, value);
        }
    }
    out.finish()
}
