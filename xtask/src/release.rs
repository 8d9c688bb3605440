//! `cargo xtask release`: a release build that was shown what it will do. A first build counts how often each part of the code
//! runs while the load of the bench is on it; the second is optimised by these counts.
//!
//! Both builds are kept apart from others under `target/profiled`: their flags would make all dependencies anew each time.

use crate::bench;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// The program to write
    #[arg(long, default_value = "target/profiled/taffrail")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<(), String> {
    let dir = std::env::current_dir().map_err(|e| format!("find the current directory: {e}"))?;
    let dir = dir.join("target/profiled");
    let (counts, merged) = (dir.join("counts"), dir.join("merged.profdata"));
    let tool = profdata()?;
    let host = asked("host-tuple")?;
    let _ = std::fs::remove_dir_all(&counts);

    println!("building the program that counts");
    // Where code is in the end does not matter to what is counted.
    let quick = ["--config", "profile.release.lto=false", "--config", "profile.release.codegen-units=16"];
    let counting =
        build(&dir.join("counting"), &host, &format!("-Cprofile-generate={}", counts.display()), &quick)?;
    println!("running the load of the bench");
    bench::exercise(&counting)?;
    let mut merge = Command::new(tool);
    merge.args(["merge", "--output"]).arg(&merged).arg(&counts);
    succeed(&mut merge)?;

    println!("building the program");
    let built = build(&dir.join("built"), &host, &format!("-Cprofile-use={}", merged.display()), &[])?;
    std::fs::copy(built, &args.out).map_err(|e| format!("write {}: {e}", args.out.display()))?;
    println!("{}", args.out.display());
    Ok(())
}

/// The toolchain's program that merges counts.
fn profdata() -> Result<PathBuf, String> {
    let tool = PathBuf::from(asked("target-libdir")?).with_file_name("bin").join("llvm-profdata");
    match tool.exists() {
        true => Ok(tool),
        false => Err(format!("there is no {}: rustup component add llvm-tools", tool.display())),
    }
}

/// Something that the compiler knows.
fn asked(what: &str) -> Result<String, String> {
    let out =
        Command::new("rustc").args(["--print", what]).output().map_err(|e| format!("run rustc: {e}"))?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Gives the program.
fn build(target: &Path, host: &str, flags: &str, more: &[&str]) -> Result<PathBuf, String> {
    let mut cargo = Command::new("cargo");
    // Where the target is named, flags are not those of build scripts and macros, which would count as well.
    cargo.args(["build", "--release", "--package", "taffrail", "--target", host, "--target-dir"]).arg(target);
    succeed(cargo.args(more).env("RUSTFLAGS", flags))?;
    Ok(target.join(host).join("release/taffrail"))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_owned();
    let of = |e: &dyn std::fmt::Display| format!("{}: {e}", Path::new(OsStr::new(&name)).display());
    let status = command.status().map_err(|e| of(&e))?;
    if status.success() { Ok(()) } else { Err(of(&status)) }
}
