//! Project tasks.

mod bench;
mod compare;
mod schema;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Tasks of the project that are no part of the program")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measures a release build, beside the real control plane if wanted
    Bench(bench::Args),
    /// Prints what differs from the real control plane
    Compare(compare::Args),
    /// Derives the type table from the published Kubernetes API
    Schema(schema::Args),
    /// Checks the rules of the house: layers, docs, sizes, leftovers, rustfmt, clippy
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Compare(args) => compare::run(&args),
        Task::Schema(args) => schema::run(&args),
        Task::Tidy(args) => tidy::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}
