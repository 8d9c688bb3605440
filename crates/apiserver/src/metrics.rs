//! Metrics in the Prometheus text format, under upstream's names.
//!
//! Label values come from the table of kinds and from HTTP, never from what clients make up (CVE-2020-8552).

use crate::context::Context;
use crate::request_info::RequestInfo;
use base::metrics::Family;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the request duration histogram, in seconds (a subset of upstream's).
const BUCKETS_SECONDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 60.0];

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

/// Series of requests; beyond, what is new is counted without its resource.
const SERIES_MAX: usize = 8192;

#[derive(Default, Clone)]
struct Histogram {
    count: u64,
    sum_seconds: f64,
    buckets: [u64; BUCKETS_SECONDS.len()],
}

pub struct Metrics {
    /// How long requests took, and without waiting for others.
    requests: Mutex<BTreeMap<Series, (Histogram, Histogram)>>,
    watch_events: Family,
    /// Group, version, resource and subresource of deprecated kinds that were asked for; all are in the table.
    deprecated: Mutex<BTreeSet<[String; 4]>>,
    panics: AtomicU64,
    running: Arc<Mutex<RunningSeries>>,
    /// What other parts of the program tell.
    sources: Mutex<Vec<Source>>,
    handshakes: AtomicU64,
    authentications: Family,
    authorizations: Family,
    authenticated: [Arc<AtomicU64>; 2],
    authorized: [Arc<AtomicU64>; 4],
}

/// What became of looking who somebody is.
#[derive(Clone, Copy)]
pub enum Authentication {
    Success,
    Error,
}

/// What became of looking what somebody may do.
#[derive(Clone, Copy)]
pub enum Authorization {
    Allowed,
    Denied,
    NoOpinion,
    Error,
}

/// Writes metrics of another part.
pub type Source = Box<dyn Fn(&mut String) + Send + Sync>;

impl Default for Metrics {
    fn default() -> Self {
        let authentications =
            Family::counter("authentication_attempts", "Counter of authenticated attempts.");
        let authorizations = Family::counter(
            "authorization_attempts_total",
            "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
        );
        Self {
            requests: Mutex::default(),
            watch_events: Family::counter(
                "apiserver_watch_events_total",
                "Number of events sent in watch clients",
            ),
            deprecated: Mutex::default(),
            panics: AtomicU64::new(0),
            running: Arc::default(),
            sources: Mutex::default(),
            handshakes: AtomicU64::new(0),
            authenticated: ["success", "error"].map(|result| authentications.of(&[("result", result)])),
            authorized: ["allowed", "denied", "no-opinion", "error"]
                .map(|result| authorizations.of(&[("result", result)])),
            authentications,
            authorizations,
        }
    }
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.sum_seconds += seconds;
        for (slot, bound) in self.buckets.iter_mut().zip(BUCKETS_SECONDS) {
            if seconds <= bound {
                *slot += 1;
            }
        }
    }
}

/// One more of something that is counted while it lasts; one fewer when dropped.
pub(crate) struct Counted(Arc<AtomicU64>);

impl Counted {
    pub fn of(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which requests are counted while they run: labels, and how many there are.
type RunningSeries = BTreeMap<String, u64>;

/// A long-running request; no more counted when dropped.
pub struct Running {
    all: Arc<Mutex<RunningSeries>>,
    labels: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.labels) {
            *count -= 1;
            if *count == 0 {
                // A path says what it likes of its resource: nothing is left of it.
                all.remove(&self.labels);
            }
        }
    }
}

impl Metrics {
    /// Counts a long-running request until what is returned is dropped.
    pub fn running(&self, info: &RequestInfo) -> Running {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
        let of = |text: &str| text.chars().filter(|c| plain(*c)).collect::<String>();
        let verb = match (info.verb.as_str(), info.subresource.as_str()) {
            ("watch", _) => "WATCH",
            (_, "log") => "GET",
            _ => "CONNECT",
        };
        let labels = labels(
            &of(&info.group),
            &of(&info.resource),
            scope(info),
            &of(&info.subresource),
            verb,
            &of(&info.version),
        );
        *self.running.lock().entry(labels.clone()).or_default() += 1;
        Running { all: self.running.clone(), labels }
    }

    /// A request was answered after a time; of that it waited for others (webhooks, its turn).
    pub fn request(&self, info: &RequestInfo, code: u16, took: Duration, waited: Duration) {
        let known = info.is_resource && code != 404;
        let of = |text: &str| if known { text.to_owned() } else { String::new() };
        let mut series = Series {
            verb: verb(&info.verb),
            group: of(&info.group),
            version: of(&info.version),
            resource: of(&info.resource),
            subresource: of(&info.subresource),
            scope: scope(info),
            code,
        };
        let seconds = took.as_secs_f64();
        let mut all = self.requests.lock();
        if all.len() >= SERIES_MAX && !all.contains_key(&series) {
            // A path says what it likes of its resource, where another server answers or nobody may ask.
            [&mut series.group, &mut series.version, &mut series.resource, &mut series.subresource]
                .into_iter()
                .for_each(String::clear);
        }
        let (total, own) = all.entry(series).or_default();
        total.add(seconds);
        if !info.is_long_running() {
            own.add(took.saturating_sub(waited).as_secs_f64());
        }
    }

    /// Events that watches of a kind were sent; counted by who sends them.
    pub fn watch_events(&self, group: &str, version: &str, resource: &str) -> Arc<AtomicU64> {
        self.watch_events.of(&[("group", group), ("resource", resource), ("version", version)])
    }

    /// Counts a request for a deprecated kind that is served.
    pub fn deprecated(&self, info: &RequestInfo) {
        let of = [&info.group, &info.version, &info.resource, &info.subresource].map(Clone::clone);
        self.deprecated.lock().insert(of);
    }

    /// From now on another part's metrics are told too.
    pub fn include(&self, source: impl Fn(&mut String) + Send + Sync + 'static) {
        self.sources.lock().push(Box::new(source));
    }

    pub fn authenticated(&self, outcome: Authentication) {
        self.authenticated[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn authorized(&self, outcome: Authorization) {
        self.authorized[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A client that did not get through its TLS handshake.
    pub fn handshake_failed(&self) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub fn render(&self, ctx: &Context) -> String {
        let mut out = String::with_capacity(16 << 10);
        self.render_requests(&mut out);
        self.render_deprecated(&mut out);
        self.render_running(&mut out);
        let store = ctx.server.registry.store().stats();
        gauge(
            &mut out,
            "apiserver_storage_size_bytes",
            "Bytes that the store takes on the disk.",
            store.disk_bytes as f64,
        );
        gauge(
            &mut out,
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes of keys and values kept.",
            store.used_bytes as f64,
        );
        gauge(&mut out, "taffrail_store_revision", "Newest durable revision.", store.revision as f64);
        gauge(&mut out, "taffrail_store_commits_total", "Commits since start.", store.commits as f64);
        gauge(&mut out, "taffrail_store_fsyncs_total", "Flushes to disk since start.", store.fsyncs as f64);
        gauge(&mut out, "apiserver_registered_watchers", "Running watches.", store.watchers as f64);
        let panics = self.panics.load(Ordering::Relaxed);
        gauge(&mut out, "apiserver_request_panics_total", "Requests that panicked.", panics as f64);
        gauge(
            &mut out,
            "apiserver_tls_handshake_errors_total",
            "Number of requests dropped with 'TLS handshake error from' error",
            self.handshakes.load(Ordering::Relaxed) as f64,
        );
        self.watch_events.render(&mut out);
        self.authentications.render(&mut out);
        self.authorizations.render(&mut out);
        let cut = ctx.server.outflow.cut() as f64;
        gauge(&mut out, "taffrail_responses_cut_total", "Responses cut off because nobody read them.", cut);
        out.push_str(&ctx.server.audit.metrics());
        out.push_str(&ctx.server.flow.metrics());
        out.push_str(&ctx.server.aggregator.metrics());
        self.render_objects(&mut out, ctx);
        self.sources.lock().iter().for_each(|source| source(&mut out));
        out
    }

    fn render_requests(&self, out: &mut String) {
        let all = self.requests.lock().clone();
        out.push_str("# HELP apiserver_request_total Counter of apiserver requests.\n# TYPE apiserver_request_total counter\n");
        for (s, (h, _)) in &all {
            let _ =
                writeln!(out, "apiserver_request_total{{code=\"{}\",{}}} {}", s.code, s.labels(), h.count);
        }
        let own = "Response latency (not counting webhook duration and priority & fairness queue wait times) in seconds.";
        histogram(
            out,
            "apiserver_request_duration_seconds",
            "Response latency in seconds.",
            all.iter().map(|(s, h)| (s, &h.0)),
        );
        histogram(out, "apiserver_request_sli_duration_seconds", own, all.iter().map(|(s, h)| (s, &h.1)));
    }

    fn render_deprecated(&self, out: &mut String) {
        let name = "apiserver_requested_deprecated_apis";
        let _ = writeln!(out, "# HELP {name} Deprecated APIs that have been requested.\n# TYPE {name} gauge");
        for [group, version, resource, subresource] in &*self.deprecated.lock() {
            let _ = writeln!(
                out,
                "{name}{{group=\"{group}\",removed_release=\"\",resource=\"{resource}\",subresource=\"{subresource}\",version=\"{version}\"}} 1"
            );
        }
    }

    fn render_running(&self, out: &mut String) {
        let name = "apiserver_longrunning_requests";
        let _ = writeln!(
            out,
            "# HELP {name} Gauge of all active long-running apiserver requests.\n# TYPE {name} gauge"
        );
        for (labels, count) in &*self.running.lock() {
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
    }

    fn render_objects(&self, out: &mut String, ctx: &Context) {
        // The second is the newer name of the first, which it will replace.
        let (name, newer) = ("apiserver_storage_objects", "apiserver_resource_objects");
        let _ = writeln!(out, "# HELP {name} Number of stored objects.\n# TYPE {name} gauge");
        let mut again = format!("# HELP {newer} Number of stored objects.\n# TYPE {newer} gauge\n");
        for row in ctx
            .server
            .registry
            .kinds()
            .rows()
            .iter()
            .filter(|r| !r.storage.is_empty() && r.stored_as.is_none())
        {
            let count = ctx.server.registry.store().count(&row.key_prefix());
            let _ = writeln!(out, "{name}{{resource=\"{}\"}} {count}", row.group_resource());
            let _ = writeln!(again, "{newer}{{group=\"{}\",resource=\"{}\"}} {count}", row.group, row.plural);
        }
        out.push_str(&again);
    }
}

impl Series {
    fn labels(&self) -> String {
        labels(&self.group, &self.resource, self.scope, &self.subresource, self.verb, &self.version)
    }
}

fn labels(group: &str, resource: &str, scope: &str, subresource: &str, verb: &str, version: &str) -> String {
    format!(
        "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
    )
}

fn histogram<'a>(
    out: &mut String,
    name: &str,
    help: &str,
    all: impl Iterator<Item = (&'a Series, &'a Histogram)>,
) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
    for (s, h) in all.filter(|(_, h)| h.count > 0) {
        let labels = s.labels();
        for (count, bound) in h.buckets.iter().zip(BUCKETS_SECONDS) {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", h.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", h.sum_seconds);
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", h.count);
    }
}

fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

fn verb(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
        (false, _, _) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_requests_count_while_they_run() {
        let metrics = Metrics::default();
        let of = |uri: &str| {
            metrics.running(&RequestInfo::parse(&http::Method::GET, &uri.parse().expect("a URI")))
        };
        let text = || {
            let mut out = String::new();
            metrics.render_running(&mut out);
            out.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n")
        };
        let pods = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}";
        let watches = [of("/api/v1/pods?watch=true"), of("/api/v1/pods?watch=true")];
        assert_eq!(text(), format!("{pods} 2"));
        let exec = of("/api/v1/namespaces/n/pods/p/exec");
        drop(watches);
        assert!(text().contains("subresource=\"exec\",verb=\"CONNECT\""), "{}", text());
        drop(exec);
        assert_eq!(text(), "");
    }
}
