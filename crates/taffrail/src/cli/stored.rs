//! `taffrail store`: the store's files, while no cluster runs from them.

use super::DataDir;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Args)]
pub struct Stores {
    #[command(flatten)]
    dir: DataDir,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check every record
    Verify,
    /// Cut a damaged log back to what is whole; what is cut off is kept beside it
    Repair,
    /// Write a copy
    Backup {
        /// The file to make
        file: PathBuf,
    },
    /// Make a store from a copy; the directory must have none
    Restore {
        /// A file that backup made
        file: PathBuf,
    },
}

pub fn run(s: &Stores) -> Result<(), String> {
    let data_dir = &s.dir.data_dir;
    let dir = data_dir.join("store");
    let disk = store::disk::RealDisk;
    let clock = base::clock::SystemClock::shared();
    let settings = || {
        let mut o = store::Options::new(dir.clone());
        o.data_dir.clone_from(data_dir);
        o
    };
    let fail = |e: store::tools::ToolError| super::lifecycle::chain(e);
    match &s.command {
        Command::Verify => {
            let report = store::tools::verify(&disk, &dir, data_dir).map_err(fail)?;
            println!(
                "revision {}, {} keys, {} segments",
                report.revision,
                report.keys,
                report.segments.len()
            );
            if report.torn_bytes > 0 {
                println!(
                    "{} bytes of an interrupted write will be cut off when it is opened",
                    report.torn_bytes
                );
            }
            if !report.problems.is_empty() {
                return Err(report.problems.join("; "));
            }
        }
        Command::Repair => {
            let bytes = settings().segment_bytes;
            let done = store::tools::repair(&disk, &dir, data_dir, &clock, bytes).map_err(fail)?;
            done.problems.iter().for_each(|p| println!("{p}"));
            done.set_aside.iter().for_each(|f| println!("set aside: {}", f.display()));
            println!("the store is whole at revision {}", done.revision);
        }
        Command::Backup { file } => {
            let revision = store::tools::backup(&disk, &dir, data_dir, file, &clock).map_err(fail)?;
            println!("revision {revision} written to {}", file.display());
            note_key(data_dir);
        }
        Command::Restore { file } => {
            // Clients that saw later revisions of the lost store must not mistake new ones for them.
            const BUMP: u64 = 1_000_000;
            let revision = store::tools::restore(&disk, file, &settings(), BUMP, &clock).map_err(fail)?;
            println!("restored; the store goes on at revision {revision}");
            note_key(data_dir);
        }
    }
    Ok(())
}

/// A copy of a store opens only with the keys that its values are sealed with.
fn note_key(data_dir: &std::path::Path) {
    let key = data_dir.join(crate::up::KEY_FILE);
    println!("its Secrets open only with the keys that they were written with: {}", key.display());
    println!("and what --encryption-provider-config named; keep copies of those apart from this one");
}
