//! The command line: what can be asked of the program.

mod audit;
mod doctor;
mod image;
mod lifecycle;
mod logs;
mod remote;
mod stored;

use crate::config::{UpOptions, with_file};
use clap::{CommandFactory as _, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A whole Kubernetes cluster in one program, with the audit record as its first citizen.
#[derive(Parser)]
#[command(name = "taffrail", version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where a command finds the cluster's files.
#[derive(clap::Args, Clone, Debug)]
struct DataDir {
    /// The cluster's data directory
    #[arg(
        long,
        global = true,
        default_value = "/var/lib/taffrail",
        value_name = "DIR",
        env = "TAFFRAIL_DATA_DIR"
    )]
    data_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster on this machine, in the foreground
    Up(Box<UpOptions>),
    /// Stop the cluster; containers end, everything is kept
    Down(DataDir),
    /// Stop the cluster and remove everything that it made
    Reset(lifecycle::Reset),
    /// Say how the cluster is
    Status(DataDir),
    /// Check that this machine has what a cluster needs
    Doctor(DataDir),
    /// Ask, follow and verify the audit record
    Audit(audit::Audit),
    /// Import, list and remove images
    Image(image::Images),
    /// Show the log of a component
    Logs(logs::Logs),
    /// Back up, restore, verify and repair the store of a stopped cluster
    Store(stored::Stores),
    /// Print shell completions
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the program's version and the Kubernetes version that it speaks
    Version,
}

pub fn main(args: Vec<String>) -> ExitCode {
    let args = match args.get(1).map(String::as_str) {
        Some("up") => match with_file(args) {
            Ok(args) => args,
            Err(e) => return fail(&e),
        },
        _ => args,
    };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Up(options) => crate::up::run(&options),
        Command::Down(d) => lifecycle::down(&d.data_dir),
        Command::Reset(r) => lifecycle::reset(&r),
        Command::Status(d) => lifecycle::status(&d.data_dir),
        Command::Doctor(d) => doctor::run(&d.data_dir),
        Command::Audit(a) => audit::run(a),
        Command::Image(i) => image::run(i),
        Command::Logs(l) => logs::run(&l),
        Command::Store(s) => stored::run(&s),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "taffrail", &mut std::io::stdout());
            Ok(())
        }
        Command::Version => {
            println!(
                "taffrail {} (Kubernetes {})",
                env!("CARGO_PKG_VERSION"),
                apiserver::version::KUBERNETES
            );
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("taffrail: {message}");
    ExitCode::FAILURE
}
