//! Measures a release build: starts, memory, API throughput and CPU time per request, pod starts, scale; beside the real
//! control plane in the same run when `--peers` names a script that starts one.
//!
//! Invariants: each side runs in a network namespace and a directory of its own, which go at the end, also after an
//! error; the load and the audit policy are the same for both. The load generator shares the machine, so the servers' CPU
//! time per request is what counts; throughputs are shown beside it.

mod call;
mod connection;
mod load;
mod pods;
mod scale;
pub mod side;

use serde::Serialize;
use serde_json::json;
use side::Side;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the bench can be told.
#[derive(clap::Args)]
pub struct Args {
    /// The program to measure
    #[arg(long, default_value = "target/release/taffrail")]
    program: PathBuf,
    /// Script that starts the real control plane (`start AUDIT-POLICY-FILE` prints `export KUBECONFIG=…`, `stop` ends it;
    /// its state, with a `NAME.pid` for each process, is in $STATE)
    #[arg(long)]
    peers: Option<PathBuf>,
    /// A tenth of the load
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = PARTS)]
    parts: Vec<Part>,
    /// Of the API, only requests whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// Also write the results to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Starts, idle cluster, pods on a node
    Node,
    /// Requests and watches, beside the real one
    Api,
    /// 50,000 objects in memory, beside the real one
    Memory,
    /// What a full audit record costs
    Audit,
    /// 100,000 objects, 1,000 watchers, 2,000 writes a second
    Scale,
}

const PARTS: [Part; 5] = [Part::Node, Part::Api, Part::Memory, Part::Audit, Part::Scale];

/// How much of each kind of load.
#[derive(Clone, Copy)]
pub struct Amounts {
    pub creates: usize,
    pub gets: usize,
    pub lists: usize,
    pub listed: usize,
    pub watchers: [usize; 2],
    pub events: usize,
    pub pods: usize,
    pub filled: usize,
    pub scale: scale::Scale,
}

const FULL: Amounts = Amounts {
    creates: 4000,
    gets: 20_000,
    lists: 20,
    listed: 5000,
    watchers: [200, 1000],
    events: 500,
    pods: 30,
    filled: 50_000,
    scale: scale::FULL,
};
const QUICK: Amounts = Amounts {
    creates: 400,
    gets: 2000,
    lists: 8,
    listed: 1000,
    watchers: [20, 100],
    events: 100,
    pods: 10,
    filled: 5000,
    scale: scale::QUICK,
};
/// How long a cluster is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(10);
/// The memory of the filled server as a part of the real one's.
const MEMORY_BAR: f64 = 0.25;
/// What a record at RequestResponse may cost above none, as a part of the CPU time.
const AUDIT_BAR: f64 = 1.10;
/// How often each of the two is measured; the median counts.
const AUDIT_ROUNDS: usize = 5;

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    /// Requests or deliveries a second, where that means something.
    pub per_second: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Server CPU time of one request or delivery, in microseconds.
    pub cpu_us: Option<f64>,
    /// The most that the CPU time may be of the other side's.
    pub bar: Option<f64>,
}

/// A figure with the bar that it is held to.
#[derive(Serialize)]
struct Figure {
    what: &'static str,
    value: f64,
    unit: &'static str,
    bar: f64,
}

impl Figure {
    fn new(what: &'static str, value: f64, unit: &'static str, bar: f64) -> Self {
        Self { what, value, unit, bar }
    }
}

pub fn run(args: &Args) -> Result<(), String> {
    let n = if args.quick { QUICK } else { FULL };
    let wants = |part| args.parts.contains(&part);
    let metadata = policy("Metadata")?;
    let mut figures = Vec::new();
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    if wants(Part::Node) {
        node(args, n, &mut figures)?;
    }
    let ours = || api_server(&args.program, metadata.path());
    let peers = || args.peers.as_ref().map(|s| Side::peers(s, Some(metadata.path()))).transpose();
    if wants(Part::Api) {
        mine = ours()?.with(async |side| load::all(side, n, &args.only).await)?;
        if let Some(peers) = peers()? {
            println!("the real one: start to /readyz {:.0} ms", peers.ready_ms);
            theirs = peers.with(async |side| load::all(side, n, &args.only).await)?;
        }
    }
    if wants(Part::Memory) {
        let own = ours()?.with(async |side| load::fill(side, n.filled).await)?;
        println!("memory with {} ConfigMaps of 1 KiB: {own:.0} MB", n.filled);
        if let Some(peers) = peers()? {
            let other = peers.with(async |side| load::fill(side, n.filled).await)?;
            println!("the real one's (kube-apiserver and etcd): {other:.0} MB");
            figures.push(Figure::new("memory when filled, of the real", own / other, "", MEMORY_BAR));
        }
    }
    if wants(Part::Audit) {
        figures.extend(audit(args, n)?);
    }
    if wants(Part::Scale) {
        let side = ours()?;
        if let Err(e) = scale::run(&side, n.scale) {
            println!("scale: MISSED: {e}");
        }
    }
    print(&figures, &mine, &theirs);
    if let Some(file) = &args.json {
        let all = json!({"figures": figures, "taffrail": mine, "peers": theirs});
        let text = serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?;
        std::fs::write(file, text).map_err(|e| format!("write {}: {e}", file.display()))?;
    }
    Ok(())
}

/// An audit policy of one rule, in a file.
fn policy(level: &str) -> Result<tempfile::NamedTempFile, String> {
    let file = tempfile::NamedTempFile::new().map_err(|e| format!("make a file: {e}"))?;
    let text = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{{level: {level}}}]\n"
    );
    std::fs::write(file.path(), text).map_err(|e| format!("write {}: {e}", file.path().display()))?;
    Ok(file)
}

/// The control plane alone, as the real one is without nodes.
fn api_server(program: &Path, policy: &Path) -> Result<Side, String> {
    let flags = ["--nodes", "0", "--audit-policy-file"].map(OsStr::new);
    Side::taffrail(program, &[&flags[..], &[policy.as_os_str()]].concat())
}

/// A cluster of one node: how soon it works, what it takes when idle, how soon pods run.
fn node(args: &Args, n: Amounts, figures: &mut Vec<Figure>) -> Result<(), String> {
    let ours = Side::taffrail(&args.program, &[])?;
    let first = ours.with(pods::first)?;
    std::thread::sleep(IDLE);
    let (rss, pss) = ours.memory_mb();
    let idle = ours.cpu();
    std::thread::sleep(IDLE);
    let idle_cpu = (ours.cpu() - idle).as_secs_f64() * 60.0 / IDLE.as_secs_f64();
    let starts = ours.with(async |side| pods::starts(side, n.pods).await)?;
    println!("idle: {pss:.1} MB proportional, {idle_cpu:.2} s CPU a minute");
    println!("pod create to Running, p99: {:.1} ms", load::quantile(&starts, 0.99));
    figures.extend([
        Figure::new("start to /readyz", ours.ready_ms, "ms", 1000.0),
        Figure::new("start to first pod Running", first, "ms", 2000.0),
        Figure::new("idle memory, resident", rss, "MB", 100.0),
        Figure::new("pod create to Running, p50", load::quantile(&starts, 0.5), "ms", 100.0),
    ]);
    Ok(())
}

/// The same load with the fullest record and with none, by turns: what is compared is some per cent, and the machine's
/// own speed changes as much from minute to minute.
fn audit(args: &Args, n: Amounts) -> Result<Vec<Figure>, String> {
    // Each row's CPU times without and with a record, a round each.
    let mut measured: Vec<(String, [Vec<f64>; 2])> = Vec::new();
    for round in 0..AUDIT_ROUNDS {
        for (at, level) in ["None", "RequestResponse"].into_iter().enumerate() {
            let policy = policy(level)?;
            let side = api_server(&args.program, policy.path())?;
            let rows = side.with(async |side| {
                let mut rows = load::small(side, n, &args.only).await?;
                rows.extend(load::pods(side, n, &args.only).await?);
                Ok(rows)
            })?;
            let resident = side.memory_mb().0;
            println!("audit at {level}, round {}: {resident:.0} MB resident after the load", round + 1);
            for row in rows {
                let Some(cpu_us) = row.cpu_us else { continue };
                let known = measured.iter().position(|(what, _)| *what == row.what).unwrap_or_else(|| {
                    measured.push((row.what, Default::default()));
                    measured.len() - 1
                });
                measured[known].1[at].push(cpu_us);
            }
        }
    }
    let (mut without, mut with) = (0.0, 0.0);
    for (what, rounds) in &measured {
        let [x, y] = [0, 1].map(|at| load::quantile(&rounds[at], 0.5));
        println!("{what:<34} {x:>10.1} us without, {y:>10.1} us at RequestResponse: {:.2}", y / x);
        if what.starts_with("create") || what.starts_with("patch") {
            without += x;
            with += y;
        }
    }
    Ok(vec![Figure::new("writes at RequestResponse, of None", with / without, "", AUDIT_BAR)])
}

fn print(figures: &[Figure], mine: &[Row], theirs: &[Row]) {
    println!("\n{:<34} {:>10} {:>10}", "figure", "measured", "bar");
    for f in figures {
        println!(
            "{:<34} {:>7.2} {:<2} {:>7.2} {:<2} {}",
            f.what,
            f.value,
            f.unit,
            f.bar,
            f.unit,
            verdict(f.value, f.bar)
        );
    }
    let cell = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    println!(
        "\n{:<34} {:>10} {:>9} {:>9} {:>10}   {:>10} {:>10} {:>9} {:>7}",
        "load", "per s", "p50 ms", "p99 ms", "CPU us", "real per s", "real CPU", "CPU ratio", "bar"
    );
    for row in mine {
        let other = theirs.iter().find(|t| t.what == row.what);
        let ratio = other.and_then(|o| Some(row.cpu_us? / o.cpu_us?));
        println!(
            "{:<34} {:>10} {:>9} {:>9} {:>10}   {:>10} {:>10} {:>9} {:>7} {}",
            row.what,
            cell(row.per_second),
            cell(row.p50_ms),
            cell(row.p99_ms),
            cell(row.cpu_us),
            cell(other.and_then(|o| o.per_second)),
            cell(other.and_then(|o| o.cpu_us)),
            ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.3}")),
            row.bar.map_or_else(|| "-".to_owned(), |b| format!("{b:.3}")),
            ratio.zip(row.bar).map_or("", |(r, b)| verdict(r, b)),
        );
    }
}

fn verdict(value: f64, bar: f64) -> &'static str {
    if value <= bar { "ok" } else { "MISSED" }
}
