//! `taffrail audit`: the record, asked through the API (so that asking is on the record too), or read from a data
//! directory when told so.

use super::DataDir;
use super::remote;
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;
use std::io::Write as _;

#[derive(Args)]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the events that match; texts may have `*` and `?` in them
    Query(Box<Query>),
    /// Print events as they come
    Tail(Tail),
    /// Check the hash chain of the whole record
    Verify(Verify),
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

#[derive(Args)]
struct Query {
    #[command(flatten)]
    dir: DataDir,
    /// Authenticated or impersonated user
    #[arg(long)]
    user: Option<String>,
    /// get, list, create, patch, delete …
    #[arg(long)]
    verb: Option<String>,
    /// pods, pods/exec, deployments.apps
    #[arg(long)]
    resource: Option<String>,
    #[arg(long)]
    namespace: Option<String>,
    #[arg(long)]
    name: Option<String>,
    /// Response code
    #[arg(long)]
    status: Option<u16>,
    #[arg(long)]
    source_ip: Option<String>,
    /// A time (2026-01-02T15:04:05Z) or how long ago (10m, 2h, 7d)
    #[arg(long)]
    since: Option<String>,
    /// As --since
    #[arg(long)]
    until: Option<String>,
    #[arg(long, short, default_value = "table")]
    output: Output,
    /// The newest this many
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

#[derive(Args)]
struct Tail {
    #[command(flatten)]
    dir: DataDir,
    #[arg(long, short, default_value = "table")]
    output: Output,
}

#[derive(Args)]
struct Verify {
    #[command(flatten)]
    dir: DataDir,
    /// Read the files themselves instead of asking the cluster
    #[arg(long)]
    offline: bool,
}

pub fn run(a: Audit) -> Result<(), String> {
    match a.command {
        Command::Query(q) => query(&q),
        Command::Tail(t) => tail(&t),
        Command::Verify(v) => verify(&v),
    }
}

fn query(q: &Query) -> Result<(), String> {
    let mut uri = String::from("/audit/v1/events");
    let status = q.status.map(|s| s.to_string());
    for (name, value) in [
        ("user", &q.user),
        ("verb", &q.verb),
        ("resource", &q.resource),
        ("namespace", &q.namespace),
        ("name", &q.name),
        ("status", &status),
        ("source-ip", &q.source_ip),
        ("since", &q.since),
        ("until", &q.until),
        ("limit", &Some(q.limit.to_string())),
    ] {
        if let Some(value) = value {
            client::kind::push_query(&mut uri, name, value);
        }
    }
    let client = remote::client(&q.dir.data_dir)?;
    let text = remote::block(async move {
        use http_body_util::BodyExt as _;
        let body = client.stream(&uri, None).await.map_err(|e| e.to_string())?;
        let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string())
    })?;
    let lines = text.lines().filter(|l| !l.is_empty());
    let mut out = std::io::stdout().lock();
    // A reader that went away (`| head`) is no error.
    let _ = print(&mut out, lines, q.output);
    Ok(())
}

fn print<'a>(
    out: &mut impl std::io::Write,
    lines: impl Iterator<Item = &'a str>,
    how: Output,
) -> std::io::Result<()> {
    match how {
        Output::Json => {
            for line in lines {
                writeln!(out, "{line}")?;
            }
        }
        Output::Yaml => {
            for line in lines {
                let value: Value = serde_json::from_str(line)?;
                write!(out, "---\n{}", meta::yaml::to_string(&value))?;
            }
        }
        Output::Table => {
            writeln!(
                out,
                "{}",
                row(["TIME", "CODE", "USER", "VERB", "RESOURCE", "NAMESPACE", "NAME"].map(str::to_owned))
            )?;
            for line in lines {
                let value: Value = serde_json::from_str(line)?;
                writeln!(out, "{}", row(cells(&value)))?;
            }
        }
    }
    Ok(())
}

fn cells(e: &Value) -> [String; 7] {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let r = &e["objectRef"];
    let user = match e["impersonatedUser"]["username"].as_str() {
        Some(as_user) => format!("{} as {as_user}", text(&e["user"]["username"])),
        None => text(&e["user"]["username"]),
    };
    let resource = match (text(&r["resource"]), text(&r["subresource"])) {
        (resource, _) if resource.is_empty() => text(&e["requestURI"]),
        (resource, sub) if sub.is_empty() => resource,
        (resource, sub) => format!("{resource}/{sub}"),
    };
    let code = e["responseStatus"]["code"].as_u64().map_or(String::new(), |c| c.to_string());
    let time = text(&e["stageTimestamp"]);
    [
        time.get(..19).unwrap_or(&time).to_owned(),
        code,
        user,
        text(&e["verb"]),
        resource,
        text(&r["namespace"]),
        text(&r["name"]),
    ]
}

fn row(c: [String; 7]) -> String {
    let [time, code, user, verb, resource, namespace, name] = c;
    format!("{time:<20} {code:<4} {user:<50} {verb:<16} {resource:<24} {namespace:<20} {name}")
        .trim_end()
        .to_owned()
}

fn tail(t: &Tail) -> Result<(), String> {
    let client = remote::client(&t.dir.data_dir)?;
    let how = t.output;
    remote::block(async move {
        let mut after: Option<u64> = None;
        loop {
            let uri = match after {
                Some(n) => format!("/audit/v1/tail?after={n}"),
                None => "/audit/v1/tail".to_owned(),
            };
            let answer = client.raw(Method::GET, &uri, None).await.map_err(|e| e.to_string())?;
            after = answer["last"].as_u64();
            let lines: Vec<String> =
                answer["entries"].as_array().into_iter().flatten().map(|e| e["event"].to_string()).collect();
            let mut out = std::io::stdout().lock();
            for line in &lines {
                let shown = match how {
                    Output::Table => row(cells(&serde_json::from_str(line).unwrap_or_default())),
                    _ => line.clone(),
                };
                if writeln!(out, "{shown}").is_err() {
                    return Ok(());
                }
            }
        }
    })
}

fn verify(v: &Verify) -> Result<(), String> {
    if v.offline {
        let report = trail::verify(&v.dir.data_dir.join("trail")).map_err(|e| e.to_string())?;
        return say(&serde_json::json!({"valid": true, "report": report}));
    }
    let client = remote::client(&v.dir.data_dir)?;
    let answer = remote::block(async move {
        client.raw(Method::GET, "/audit/v1/verify", None).await.map_err(|e| e.to_string())
    })?;
    say(&answer)
}

fn say(answer: &Value) -> Result<(), String> {
    if answer["valid"] != true {
        return Err(format!(
            "the record does not verify: {}",
            answer["problem"].as_str().unwrap_or("unknown problem")
        ));
    }
    let r = &answer["report"];
    println!(
        "the record verifies: {} entries in {} segments, {} to {}, {} gaps, head {}",
        r["entries"],
        r["segments"],
        r["first"],
        r["last"],
        r["gaps"],
        r["head"].as_str().unwrap_or("")
    );
    Ok(())
}
