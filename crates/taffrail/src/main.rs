//! The program: what it was started as decides which face it shows.
//!
//! A pod's shim and the built-in image's server are dispatched before argument parsing and before any thread exists:
//! the shim must stay small and single-threaded.

mod cli;
mod config;
mod hello;
mod logging;
mod node;
mod steps;
mod up;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("__shim") => code(::node::runtime::shim_main(&args[2..])),
        Some("__node") => code(node::process::main(&args[2..])),
        Some("__hello") => code(hello::main()),
        _ => cli::main(args),
    }
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
