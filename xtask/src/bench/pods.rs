//! How long pods take to run, seen by a watch.

use super::call::Call;
use super::connection::Connection;
use super::side::{Side, parse};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::time::{Duration, Instant};

const IMAGE: &str = "taffrail.io/hello:1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two pods, so that one's end is not the next one's start.
const PAUSE: Duration = Duration::from_millis(200);

fn pod(name: &str) -> Bytes {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":1,"containers":[{{"name":"c","image":"{IMAGE}"}}]}}}}"#
    )
    .into()
}

/// Milliseconds from the server's start to its first running pod.
pub async fn first(side: &Side) -> Result<f64, String> {
    let began = Instant::now();
    loop {
        // The default service account comes a moment after the server.
        let mut c = Connection::open(side).await?;
        match c.json("POST", PODS, pod("first")).await {
            Ok(_) => break,
            Err(e) if began.elapsed() > TIMEOUT => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    running(side, "first").await?;
    let took = side.started.elapsed();
    delete(side, "first").await?;
    Ok(took.as_secs_f64() * 1000.0)
}

/// Milliseconds from create to Running of pods started one after the other.
pub async fn starts(side: &Side, count: usize) -> Result<Vec<f64>, String> {
    let mut out = Vec::new();
    for i in 0..count {
        let name = format!("p{i}");
        let mut c = Connection::open(side).await?;
        let begun = Instant::now();
        c.json("POST", PODS, pod(&name)).await?;
        running(side, &name).await?;
        out.push(begun.elapsed().as_secs_f64() * 1000.0);
        delete(side, &name).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(out)
}

async fn delete(side: &Side, name: &str) -> Result<(), String> {
    Connection::open(side).await?.json("DELETE", &format!("{PODS}/{name}"), Bytes::new()).await.map(drop)
}

/// Waits until a watch shows the pod running.
async fn running(side: &Side, name: &str) -> Result<(), String> {
    let mut c = Connection::open(side).await?;
    let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3D{name}");
    let mut body = c.send(&Call::get(&path), 0, 0).await?.into_body();
    let mut rest: Vec<u8> = Vec::new();
    let seen = async {
        loop {
            let frame = body.frame().await.ok_or("the watch ended early")?.map_err(|e| e.to_string())?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if is_running(&parse(&line)?["object"]) {
                    return Ok(());
                }
            }
        }
    };
    tokio::time::timeout(TIMEOUT, seen).await.map_err(|_| format!("the pod {name} did not run in time"))?
}

fn is_running(pod: &Value) -> bool {
    let containers = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    pod["status"]["phase"] == "Running" && containers.iter().all(|c| c["state"]["running"].is_object())
}
