//! Measures a release build: starts, memory, API throughput and CPU time per request, pod starts; beside the real control
//! plane in the same run when `--peers` names a script that starts one.
//!
//! Invariants: each side runs in a network namespace and a directory of its own, which go at the end, also after an
//! error; the load is the same for both. The load generator shares the machine, so the servers' CPU time per request is
//! what counts; throughputs are shown beside it.

mod load;
mod pods;
pub mod side;

use serde::Serialize;
use serde_json::json;
use side::Side;
use std::path::PathBuf;
use std::time::Duration;

/// What the bench can be told.
#[derive(clap::Args)]
pub struct Args {
    /// The program to measure
    #[arg(long, default_value = "target/release/taffrail")]
    program: PathBuf,
    /// Script that starts the real control plane (`start` prints `export KUBECONFIG=…`, `stop` ends it; its state,
    /// with a `NAME.pid` for each process, is in $STATE)
    #[arg(long)]
    peers: Option<PathBuf>,
    /// A tenth of the load
    #[arg(long)]
    quick: bool,
    /// Also write the results to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How much of each kind of load.
#[derive(Clone, Copy)]
pub struct Amounts {
    pub creates: usize,
    pub gets: usize,
    pub lists: usize,
    pub listed: usize,
    pub watchers: usize,
    pub events: usize,
    pub pods: usize,
}

const FULL: Amounts =
    Amounts { creates: 4000, gets: 20_000, lists: 60, listed: 1000, watchers: 50, events: 500, pods: 30 };
const QUICK: Amounts =
    Amounts { creates: 400, gets: 2000, lists: 10, listed: 1000, watchers: 20, events: 100, pods: 10 };
/// How long a cluster is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(10);

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
}

/// A figure with the bar that it is held to.
#[derive(Serialize)]
struct Figure {
    what: &'static str,
    value: f64,
    unit: &'static str,
    bar: f64,
}

pub fn run(args: &Args) -> Result<(), String> {
    let amounts = if args.quick { QUICK } else { FULL };
    let ours = Side::taffrail(&args.program, &[])?;
    let mut figures = vec![
        Figure { what: "start to /readyz", value: ours.ready_ms, unit: "ms", bar: 1000.0 },
        Figure {
            what: "start to first pod Running",
            value: ours.with(pods::first)?,
            unit: "ms",
            bar: 2000.0,
        },
    ];
    std::thread::sleep(IDLE);
    let (rss, pss) = ours.memory_mb();
    figures.push(Figure { what: "idle memory, resident", value: rss, unit: "MB", bar: 100.0 });
    let idle = ours.cpu();
    std::thread::sleep(IDLE);
    let idle_cpu = (ours.cpu() - idle).as_secs_f64() * 60.0 / IDLE.as_secs_f64();
    let starts = ours.with(async |side| pods::starts(side, amounts.pods).await)?;
    let p50 = load::quantile(&starts, 0.5);
    figures.push(Figure { what: "pod create to Running, p50", value: p50, unit: "ms", bar: 100.0 });
    println!("idle: {pss:.1} MB proportional, {idle_cpu:.2} s CPU a minute");
    println!("pod create to Running, p99: {:.1} ms", load::quantile(&starts, 0.99));
    let mine = ours.with(async |side| load::all(side, amounts).await)?;
    drop(ours);
    let theirs = match &args.peers {
        Some(script) => {
            let peers = Side::peers(script)?;
            println!("the real one: start to /readyz {:.0} ms", peers.ready_ms);
            peers.with(async |side| load::all(side, amounts).await)?
        }
        None => Vec::new(),
    };
    print(&figures, &mine, &theirs);
    if let Some(file) = &args.json {
        let all = json!({"figures": figures, "taffrail": mine, "peers": theirs, "idle_pss_mb": pss, "idle_cpu_s_per_minute": idle_cpu});
        let text = serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?;
        std::fs::write(file, text).map_err(|e| format!("write {}: {e}", file.display()))?;
    }
    Ok(())
}

fn print(figures: &[Figure], mine: &[Row], theirs: &[Row]) {
    println!("\n{:<34} {:>10} {:>10}", "figure", "measured", "bar");
    for f in figures {
        let holds = if f.value <= f.bar { "ok" } else { "MISSED" };
        println!("{:<34} {:>7.1} {:<2} {:>7.0} {:<2} {holds}", f.what, f.value, f.unit, f.bar, f.unit);
    }
    let cell = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    println!(
        "\n{:<34} {:>10} {:>9} {:>9} {:>10}   {:>10} {:>10} {:>9}",
        "load", "per s", "p50 ms", "p99 ms", "CPU us", "real per s", "real CPU", "CPU ratio"
    );
    for row in mine {
        let other = theirs.iter().find(|t| t.what == row.what);
        let ratio = other.and_then(|o| Some(row.cpu_us? / o.cpu_us?));
        println!(
            "{:<34} {:>10} {:>9} {:>9} {:>10}   {:>10} {:>10} {:>9}",
            row.what,
            cell(row.per_second),
            cell(row.p50_ms),
            cell(row.p99_ms),
            cell(row.cpu_us),
            cell(other.and_then(|o| o.per_second)),
            cell(other.and_then(|o| o.cpu_us)),
            cell(ratio)
        );
    }
}
