//! Many objects of one kind, listed in pages while many watchers follow and writes go on at a steady rate: no watch may be
//! lost, no change missed, and writes must stay quick.

use super::call::{self, Call, Form};
use super::connection::Connection;
use super::load::{self, quantile};
use super::side::Side;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How much of it.
#[derive(Clone, Copy)]
pub struct Scale {
    pub objects: usize,
    pub watchers: usize,
    pub writes_per_second: usize,
    pub seconds: usize,
}

pub const FULL: Scale = Scale { objects: 100_000, watchers: 1000, writes_per_second: 2000, seconds: 30 };
pub const QUICK: Scale = Scale { objects: 10_000, watchers: 100, writes_per_second: 500, seconds: 5 };

/// Watchers that follow every object; each other one follows the namespace of its own, as controllers and nodes do.
const FOLLOW_ALL: usize = 2;
const PAGE: usize = 500;
const WRITERS: usize = 32;
/// The bar for the 99th of a hundred writes.
const WRITE_P99_MS: f64 = 50.0;
/// How long events may still come after the last write.
const DRAIN: Duration = Duration::from_secs(30);

pub fn run(side: &Side, n: Scale) -> Result<(), String> {
    side.with(async |side| drive(side, n).await)
}

fn of_namespace(i: usize) -> String {
    format!("scale-{i}")
}

async fn drive(side: &Side, n: Scale) -> Result<(), String> {
    let each = n.objects / n.watchers;
    let begun = Instant::now();
    for i in 0..n.watchers {
        load::namespace(side, &of_namespace(i)).await?;
    }
    // A writer makes the objects of its namespaces.
    let fill = (0..WRITERS).map(async |w| -> Result<(), String> {
        let mut c = Connection::open(side).await?;
        for ns in (w..n.watchers).step_by(WRITERS) {
            for i in 0..each {
                c.call(&object(ns, i), 0, 0).await?;
            }
        }
        Ok(())
    });
    futures::future::try_join_all(fill).await?;
    println!("{} objects made in {:.1} s", n.objects, begun.elapsed().as_secs_f64());

    let revision = revision(side).await?;
    let done = Arc::new(AtomicBool::new(false));
    let written: Arc<Vec<AtomicUsize>> = Arc::new((0..n.watchers).map(|_| AtomicUsize::new(0)).collect());
    let seen: Arc<Vec<AtomicUsize>> =
        Arc::new((0..n.watchers + FOLLOW_ALL).map(|_| AtomicUsize::new(0)).collect());
    let mut watchers: JoinSet<Result<(), String>> = JoinSet::new();
    for i in 0..n.watchers + FOLLOW_ALL {
        let query = format!("watch=1&resourceVersion={revision}");
        let call = match i.checked_sub(n.watchers) {
            None => call::list("configmaps", &of_namespace(i), &query, Form::Json),
            Some(_) => Call::get(&format!("/api/v1/configmaps?{query}")),
        };
        let mut c = Connection::open(side).await?;
        let body = c.send(&call, 0, 0).await?.into_body();
        let (seen, done) = (seen.clone(), done.clone());
        watchers.spawn(async move {
            let _c = c;
            let mut bad = None;
            let ended = load::follow(body, usize::MAX, |line| {
                if line.starts_with(b"{\"type\":\"MODIFIED\"") {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                } else if bad.is_none() {
                    bad = Some(String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned());
                }
            })
            .await;
            match bad {
                _ if done.load(Ordering::Relaxed) => Ok(()),
                Some(event) => Err(format!("watch {i} got {event}")),
                None => Err(format!("watch {i} ended after {ended} events")),
            }
        });
    }
    let cpu = side.cpu();
    let begun = Instant::now();
    let total = n.writes_per_second * n.seconds;
    let writes = (0..WRITERS).map(async |w| writer(side, n, w, total, begun, &written).await);
    let mut pages = 0;
    let mut listed = Vec::new();
    let stop = AtomicBool::new(false);
    let lists = async {
        while !stop.load(Ordering::Relaxed) {
            let at = Instant::now();
            let (asked, found) = list_all(side).await?;
            if found != n.objects {
                return Err(format!("a list in pages found {found} of {} objects", n.objects));
            }
            pages += asked;
            listed.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(())
    };
    let writes = async {
        let times = futures::future::try_join_all(writes).await;
        stop.store(true, Ordering::Relaxed);
        times.map(|t| t.concat())
    };
    let (times, lists) = tokio::join!(writes, lists);
    let times = times?;
    let took = begun.elapsed().as_secs_f64();
    lists?;
    let cpu = (side.cpu() - cpu).as_secs_f64() / took;
    let missing = drained(&written, &seen, n).await;
    if let Some(lost) = watchers.try_join_next() {
        return Err(format!("a watch was lost: {lost:?}"));
    }
    done.store(true, Ordering::Relaxed);
    watchers.shutdown().await;

    let p99 = quantile(&times, 0.99);
    println!(
        "{} writes at {:.0}/s: p50 {:.1} ms, p99 {p99:.1} ms; {} lists of all in {pages} pages, p50 {:.0} ms; \
         {} watchers, {missing} events missed; server: {:.2} cores, {:.0} MB",
        times.len(),
        times.len() as f64 / took,
        quantile(&times, 0.5),
        listed.len(),
        quantile(&listed, 0.5),
        n.watchers + FOLLOW_ALL,
        cpu,
        side.memory_mb().0,
    );
    match (missing, p99 <= WRITE_P99_MS) {
        (0, true) => Ok(()),
        (0, false) => Err(format!("p99 of a write is {p99:.1} ms; the bar is {WRITE_P99_MS} ms")),
        _ => Err(format!("{missing} events were missed")),
    }
}

fn object(ns: usize, i: usize) -> Call {
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"o-{i}"}},"data":{{"v":"0","text":"{}"}}}}"#,
        "x".repeat(200)
    );
    Call::json("POST", &format!("/api/v1/namespaces/{}/configmaps", of_namespace(ns)), body.into())
}

/// Writes at its share of the rate; a late write is sent at once, and its time counts from when it was due.
async fn writer(
    side: &Side,
    n: Scale,
    number: usize,
    total: usize,
    begun: Instant,
    written: &[AtomicUsize],
) -> Result<Vec<f64>, String> {
    let mut c = Connection::open(side).await?;
    let mut times = Vec::new();
    let each = n.objects / n.watchers;
    for k in (number..total).step_by(WRITERS) {
        let due = begun + Duration::from_secs_f64(k as f64 / n.writes_per_second as f64);
        tokio::time::sleep_until(due.into()).await;
        let (ns, i) = (k % n.watchers, (k / n.watchers) % each);
        let path = format!("/api/v1/namespaces/{}/configmaps/o-{i}", of_namespace(ns));
        // Never what is there: that would change nothing, and be no event.
        let body = Bytes::from(format!(r#"{{"data":{{"v":"write {k}"}}}}"#));
        let call = Call::merge_patch(&path, body);
        c.call(&call, 0, 0).await?;
        times.push(due.elapsed().as_secs_f64() * 1000.0);
        written[ns].fetch_add(1, Ordering::Relaxed);
    }
    Ok(times)
}

async fn revision(side: &Side) -> Result<String, String> {
    let mut c = Connection::open(side).await?;
    let list = c.json("GET", "/api/v1/configmaps?limit=1", Bytes::new()).await?;
    let list = super::side::parse(&list)?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
}

/// Lists every object in pages; gives how many pages and how many objects of ours there were.
async fn list_all(side: &Side) -> Result<(usize, usize), String> {
    let mut c = Connection::open(side).await?;
    let (mut pages, mut token) = (0, String::new());
    let mut found: HashSet<String> = HashSet::new();
    loop {
        let path = format!("/api/v1/configmaps?limit={PAGE}&continue={token}");
        let answer = c.send(&Call::get(&path), 0, 0).await?;
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        // Beside the thread that drives the writes: reading a page takes milliseconds.
        let read = tokio::task::spawn_blocking(move || names(&body)).await.map_err(|e| e.to_string())?;
        let (names, next) = read?;
        pages += 1;
        found.extend(names);
        token = next;
        if token.is_empty() {
            return Ok((pages, found.len()));
        }
    }
}

/// Names of our objects in a page, and the token of the next one.
fn names(page: &[u8]) -> Result<(Vec<String>, String), String> {
    let page = super::side::parse(page)?;
    let items = page["items"].as_array().into_iter().flatten();
    let full = items.filter_map(|item| {
        let text = |f: &str| item["metadata"][f].as_str().unwrap_or_default();
        text("name").starts_with("o-").then(|| format!("{}/{}", text("namespace"), text("name")))
    });
    Ok((full.collect(), page["metadata"]["continue"].as_str().unwrap_or_default().to_owned()))
}

/// Waits until every watcher has seen what was written; gives how many events were not seen.
async fn drained(written: &[AtomicUsize], seen: &[AtomicUsize], n: Scale) -> usize {
    let begun = Instant::now();
    loop {
        let at = |all: &[AtomicUsize], i: usize| all[i].load(Ordering::Relaxed);
        let total: usize = (0..n.watchers).map(|i| at(written, i)).sum();
        let own: usize = (0..n.watchers).map(|i| at(written, i).saturating_sub(at(seen, i))).sum();
        let all: usize = (0..FOLLOW_ALL).map(|i| total.saturating_sub(at(seen, n.watchers + i))).sum();
        if own + all == 0 || begun.elapsed() > DRAIN {
            return own + all;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
