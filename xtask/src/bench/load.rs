//! The same load for every server, over kept-alive HTTP/1.1 connections: each shape of request by itself, as fast as answers
//! come.

use super::call::{self, Call, Form};
use super::connection::Connection;
use super::side::Side;
use super::{Amounts, Row};
use http_body_util::BodyExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 32;
/// Connections that list at a time.
const LISTERS: usize = 4;
/// One in this many pods is found by the selector.
const SELECTED_EACH: usize = 10;
/// How long all watchers may take to see all events.
const WATCH_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a namespace may be without its service account.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(10);

// The bars: the server's CPU time of one request as a part of the real one's.
const SMALL_BAR: f64 = 1.0 / 8.0;
const LIST_BAR: f64 = 1.0 / 15.0;
const SELECTED_BAR: f64 = 1.0 / 10.0;
const WATCH_BAR: f64 = 1.0 / 6.0;

/// The value below which a part of the sorted values lies.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Every shape of request whose name contains `only`.
pub async fn all(side: &Side, n: Amounts, only: &str) -> Result<Vec<Row>, String> {
    let mut rows = small(side, n, only).await?;
    rows.extend(pods(side, n, only).await?);
    for watchers in n.watchers {
        let what = format!("watch, {} events to {watchers}", n.events);
        if what.contains(only) {
            rows.push(watch(side, what, watchers, n.events).await?);
        }
    }
    Ok(rows)
}

/// Creates, gets and patches of one small object, in JSON and protobuf.
pub async fn small(side: &Side, n: Amounts, only: &str) -> Result<Vec<Row>, String> {
    namespace(side, "bench").await?;
    let mut c = Connection::open(side).await?;
    for i in 0..CONNECTIONS {
        c.call(&call::named_config_map("bench", &format!("one-{i}")), 0, 0).await?;
    }
    let mut rows = Vec::new();
    // Once without counting: caches, connections, code.
    requests(side, "", CONNECTIONS, n.gets / 20, &call::get("bench", Form::Json)).await?;
    for form in [Form::Json, Form::Protobuf] {
        for connections in [1, CONNECTIONS] {
            let share = if connections == 1 { 4 } else { 1 };
            let plural = if connections == 1 { "" } else { "s" };
            for (verb, total, call) in [
                ("create", n.creates / share, call::create("bench", form)),
                ("get", n.gets / share, call::get("bench", form)),
                ("patch", n.creates / share, call::patch("bench", form)),
            ] {
                let what = format!("{verb}, {form}, {connections} connection{plural}");
                if !what.contains(only) {
                    continue;
                }
                let row = requests(side, &what, connections, total, &call).await?;
                rows.push(Row { bar: Some(SMALL_BAR), ..row });
            }
        }
    }
    Ok(rows)
}

/// Lists of many pods: all of them, and those that a selector finds.
pub async fn pods(side: &Side, n: Amounts, only: &str) -> Result<Vec<Row>, String> {
    let shapes = [Form::Json, Form::Protobuf].into_iter().flat_map(|form| {
        let all = format!("list of {} pods, {form}", n.listed);
        let some = format!("1 in {SELECTED_EACH} by label, {form}");
        [
            (all, "", form, n.lists, LIST_BAR),
            (some, "labelSelector=found%3Dyes", form, n.lists * 2, SELECTED_BAR),
        ]
    });
    let shapes: Vec<_> = shapes.filter(|(what, ..)| what.contains(only)).collect();
    let mut rows = Vec::new();
    if shapes.is_empty() {
        return Ok(rows);
    }
    namespace(side, "bench-pods").await?;
    let create = call::create_pod("bench-pods", SELECTED_EACH);
    requests(side, "", CONNECTIONS, n.listed, &create).await?;
    for (what, query, form, lists, bar) in shapes {
        let list = call::list("pods", "bench-pods", query, form);
        // Once without counting.
        requests(side, "", 1, 1, &list).await?;
        let row = requests(side, &what, LISTERS, lists, &list).await?;
        rows.push(Row { bar: Some(bar), ..row });
    }
    Ok(rows)
}

/// Fills a namespace with small objects; gives the server's resident memory then, in MB.
pub async fn fill(side: &Side, total: usize) -> Result<f64, String> {
    namespace(side, "bench-fill").await?;
    requests(side, "", CONNECTIONS, total, &call::create("bench-fill", Form::Json)).await?;
    // What was only needed for the writes has gone then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(side.memory_mb().0)
}

/// Makes a namespace, and waits until pods may be made in it.
pub async fn namespace(side: &Side, name: &str) -> Result<(), String> {
    let mut c = Connection::open(side).await?;
    c.call(&call::namespace(name), 0, 0).await?;
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    let begun = Instant::now();
    while let Err(e) = c.get(&account).await {
        if begun.elapsed() > ACCOUNT_TIMEOUT {
            return Err(e);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Sends `total` requests over some connections, each as fast as answers come.
pub async fn requests(
    side: &Side,
    what: &str,
    connections: usize,
    total: usize,
    call: &Call,
) -> Result<Row, String> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(side).await?);
    }
    let left = AtomicUsize::new(total);
    let (cpu, begun) = (side.cpu(), Instant::now());
    let work = open.into_iter().enumerate().map(async |(i, mut c)| -> Result<Vec<f64>, String> {
        let mut times = Vec::with_capacity(total / connections + 1);
        while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
            let at = Instant::now();
            c.call(call, i, n).await?;
            times.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    });
    let times = futures::future::try_join_all(work).await?.concat();
    let took = begun.elapsed().as_secs_f64();
    let cpu = side.cpu() - cpu;
    Ok(Row {
        what: what.to_owned(),
        per_second: Some(total as f64 / took),
        p50_ms: Some(quantile(&times, 0.5)),
        p99_ms: Some(quantile(&times, 0.99)),
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / total as f64),
        bar: None,
    })
}

/// Watchers of one namespace, and changes in it: deliveries a second and the server's CPU time for one.
async fn watch(side: &Side, what: String, watching: usize, events: usize) -> Result<Row, String> {
    let ns = format!("bench-watch-{watching}");
    namespace(side, &ns).await?;
    let watch = call::list("configmaps", &ns, "watch=1", Form::Json);
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..watching {
        let mut c = Connection::open(side).await?;
        let answer = c.send(&watch, 0, 0).await?;
        watchers.spawn(async move {
            // The connection must outlive the stream.
            let _c = c;
            follow(answer.into_body(), events, |_| {}).await
        });
    }
    let (cpu, begun) = (side.cpu(), Instant::now());
    requests(side, "", CONNECTIONS, events, &call::create(&ns, Form::Json)).await?;
    let (mut deliveries, mut ended) = (0, 0);
    let seen = async {
        while let Some(done) = watchers.join_next().await {
            let seen = done.map_err(|e| e.to_string())?;
            deliveries += seen;
            ended += usize::from(seen < events);
        }
        Ok::<_, String>(())
    };
    tokio::time::timeout(WATCH_TIMEOUT, seen).await.map_err(|_| "watchers did not see all events")??;
    let (took, cpu) = (begun.elapsed().as_secs_f64(), side.cpu() - cpu);
    if ended > 0 {
        // kube-apiserver ends watches of clients that do not keep up.
        println!("{}: {ended} of {watching} watches ended before they had all events", side.address);
    }
    let deliveries = deliveries as f64;
    Ok(Row {
        what,
        per_second: Some(deliveries / took),
        p50_ms: None,
        p99_ms: None,
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / deliveries),
        bar: Some(WATCH_BAR),
    })
}

/// Reads a watch until `events` lines came or it ended; each is shown to `seen`, whole. Gives how many there were.
pub async fn follow(mut body: hyper::body::Incoming, events: usize, mut seen: impl FnMut(&[u8])) -> usize {
    let mut left = events;
    let mut rest: Vec<u8> = Vec::new();
    while left > 0 {
        let Some(Ok(frame)) = body.frame().await else { break };
        let Ok(data) = frame.into_data() else { continue };
        for piece in data.split_inclusive(|b| *b == b'\n') {
            let whole = piece.ends_with(b"\n");
            match (whole, rest.is_empty()) {
                (true, true) => seen(piece),
                (true, false) => {
                    rest.extend_from_slice(piece);
                    seen(&rest);
                    rest.clear();
                }
                (false, _) => rest.extend_from_slice(piece),
            }
            left = left.saturating_sub(usize::from(whole));
        }
    }
    events - left
}
