//! What differs between Taffrail and the real control plane: discovery, OpenAPI, and the answers to odd requests.
//!
//! Invariant: every difference is printed, or listed with its reason in `compare/accepted.yaml`; what is listed and no
//! longer seen is told.

mod accepted;
mod diff;
mod documents;
mod fuzz;
mod http;
mod requests;

use crate::bench::side::Side;
use accepted::Accepted;
use std::ffi::OsStr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The program to compare.
    #[arg(long, default_value = "target/release/taffrail")]
    program: PathBuf,
    /// A script that starts and stops the real control plane; without it made requests only show what ours endures.
    #[arg(long, required_unless_present = "fuzz")]
    peers: Option<PathBuf>,
    /// Instead, so many requests made from the OpenAPI documents, with mistakes.
    #[arg(long)]
    fuzz: Option<usize>,
    /// Where these requests start from; by default something new.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these: discovery, openapi, requests.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only requests of cases whose names contain this; of made requests, those of resources whose paths contain it.
    #[arg(long, default_value = "")]
    case: String,
    /// No requests of cases whose names contain this.
    #[arg(long)]
    skip: Option<String>,
    /// Differences that are printed of one document or request.
    #[arg(long, default_value_t = 20)]
    each: usize,
}

/// One difference.
pub struct Finding {
    /// Document or case, and the place in it.
    pub place: String,
    /// What the real one has and what ours.
    pub text: String,
}

pub fn run(args: &Args) -> Result<(), String> {
    let alike = ["--nodes", "0", "--service-cluster-ip-range", "10.0.0.0/24"].map(OsStr::new);
    let real = args.peers.as_deref().map(|script| Side::peers(script, None)).transpose()?;
    let ours = Side::taffrail(&args.program, &alike)?;
    if let Some(count) = args.fuzz {
        let seed = args.seed.unwrap_or_else(|| base::rng::Rng::from_os().below(1_000_000));
        return fuzz::run(real.as_ref(), &ours, count, seed, &args.case);
    }
    let Some(real) = real else { return Err("--peers is missing".into()) };
    let wanted = |part: &str| args.only.is_empty() || args.only.iter().any(|o| o == part);
    let mut findings = Vec::new();
    if wanted("discovery") {
        findings.extend(documents::discovery(&real, &ours)?);
    }
    if wanted("openapi") {
        findings.extend(documents::openapi(&real, &ours)?);
    }
    if wanted("requests") {
        findings.extend(requests::all(&real, &ours, &args.case, args.skip.as_deref())?);
    }
    drop((real, ours));
    let mut accepted = Accepted::load()?;
    findings.retain(|f| !accepted.holds(&f.place));
    print(&findings, args.each);
    if args.only.is_empty() && args.case.is_empty() && args.skip.is_none() {
        accepted.unused().for_each(|place| println!("no longer seen, but accepted: {place}"));
    }
    match findings.len() {
        0 => Ok(()),
        n => Err(format!("{n} differences")),
    }
}

fn print(findings: &[Finding], each: usize) {
    let document = |f: &Finding| f.place.split_once(": ").map_or(f.place.clone(), |(d, _)| d.to_owned());
    for group in findings.chunk_by(|a, b| document(a) == document(b)) {
        for finding in group.iter().take(each) {
            println!("{}: {}", finding.place, finding.text);
        }
        if group.len() > each {
            println!("{}: … and {} more", document(&group[0]), group.len() - each);
        }
    }
}
