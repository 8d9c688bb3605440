//! Real containers from a tiny root filesystem: this very test program, copied there with its libraries, is also what
//! runs inside, and what is started as the shim. Needs root; everything it makes is gone afterwards, and that is one of
//! the things tested.

#![allow(clippy::unwrap_used, reason = "a test program of its own, which clippy does not take for tests")]

#[path = "runtime/act.rs"]
mod act;
#[path = "runtime/isolation.rs"]
mod isolation;
#[path = "runtime/lifecycle.rs"]
mod lifecycle;
#[path = "runtime/streams.rs"]
mod streams;
#[path = "runtime/world.rs"]
mod world;

use std::panic::AssertUnwindSafe;
use std::time::Instant;
use world::{Layer, World};

type Case = (&'static str, fn(&World));

const CASES: &[Case] = &[
    ("a_container_starts_logs_and_exits", lifecycle::starts_logs_exits),
    ("starting_is_idempotent_and_failing_leaves_nothing", lifecycle::start_errors),
    ("a_stop_is_graceful_and_then_not", lifecycle::stop),
    ("want_of_memory_is_reported", lifecycle::out_of_memory),
    ("containers_outlive_the_program", lifecycle::survives_the_parent),
    ("a_lost_shim_is_buried", lifecycle::lost_shim),
    ("limits_and_usage", lifecycle::limits_and_usage),
    ("exec_returns_output_codes_and_errors", streams::exec),
    ("terminals", streams::terminals),
    ("several_attach_to_one_container", streams::attach),
    ("logs_are_reopened", streams::reopen),
    ("privileges_are_given_up", isolation::privileges),
    ("a_localhost_profile_is_obeyed", isolation::localhost_profile),
    ("a_privileged_container_keeps_them", isolation::privileged),
    ("the_filesystem_is_as_asked", isolation::filesystem),
    ("links_lead_nowhere", isolation::links),
    ("volumes", isolation::volumes),
    ("namespaces_are_the_pods", isolation::namespaces),
    ("a_shared_process_namespace", isolation::shared_pid),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("__shim") => std::process::exit(node::runtime::shim_main(&args[2..])),
        Some("__parent") => world::parent(&args[2], &args[3]),
        Some("__act") => std::process::exit(act::main(&args[2..])),
        _ => {}
    }
    if args.iter().any(|a| a == "--list") {
        CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if sys::process::own_uid() != 0 {
        println!("skipped: real containers need root");
        return;
    }
    let wanted: Vec<&String> = args[1..].iter().filter(|a| !a.starts_with("--")).collect();
    let layer = Layer::make();
    let mut failed = vec![];
    for (name, case) in
        CASES.iter().filter(|(n, _)| wanted.is_empty() || wanted.iter().any(|w| n.contains(*w)))
    {
        let world = World::new(&layer, name);
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| case(&world)));
        let residue = world.remove();
        let fine = outcome.is_ok() && residue.is_empty();
        println!(
            "test {name} ... {} ({} ms)",
            if fine { "ok" } else { "FAILED" },
            started.elapsed().as_millis()
        );
        for what in residue {
            println!("  left behind: {what}");
        }
        if !fine {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}
