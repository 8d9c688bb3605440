//! Every parser that meets bytes from outside, on damaged samples: a while of what `cargo fuzz` does for hours.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use base::rng::Rng;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// How long each parser is tried.
const EACH: Duration = Duration::from_millis(300);
const BYTES_MAX: usize = 64 << 10;

/// A sample with some of its bytes changed, cut, doubled or followed by others.
fn damaged(sample: &[u8], rng: &Rng) -> Vec<u8> {
    let below = |n: usize| rng.below(n.max(1) as u64) as usize;
    let mut out = sample.to_vec();
    for _ in 0..=below(8) {
        let at = below(out.len());
        match below(7) {
            0 if !out.is_empty() => out[at] = below(256) as u8,
            1 if !out.is_empty() => out[at] ^= 1 << below(8),
            2 => out.truncate(at),
            3 => {
                let piece = out[at..].to_vec();
                out.extend(piece);
            }
            4 => {
                let end = at + below(out.len() - at);
                out.drain(at..end);
            }
            5 => {
                let odd: &[&[u8]] = &[
                    b"\0",
                    b"-1",
                    b"99999999999999999999",
                    b"\xff\xfe",
                    b"{}",
                    b"[",
                    b"..",
                    b"&a *a",
                    b"\n",
                    b"null",
                ];
                let piece = odd[below(odd.len())];
                out.splice(at..at, piece.iter().copied());
            }
            _ => out.extend((0..below(64)).map(|_| below(256) as u8)),
        }
        out.truncate(BYTES_MAX);
    }
    out
}

/// Samples that are made rather than written down.
fn made(name: &str) -> Option<Vec<u8>> {
    if !matches!(name, "layer" | "archive") {
        return (name == "log").then(|| (0..48).collect());
    }
    let header = |name: &str, kind: u8, link: &str, size: usize| {
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"00000000000");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..263].copy_from_slice(b"ustar\0");
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block.to_vec()
    };
    let mut tar = Vec::new();
    tar.extend(header("dir/", b'5', "", 0));
    tar.extend(header("dir/link", b'2', "../../outside", 0));
    tar.extend(header("dir/link/file", b'0', "", 0));
    tar.extend(header("../escape", b'0', "", 0));
    tar.extend(header("hard", b'1', "dir/link", 0));
    tar.extend(header("dir/.wh.link", b'0', "", 0));
    tar.extend([0; 1024]);
    if name == "archive" {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        return Some(gzip.finish().unwrap());
    }
    Some(tar)
}

#[test]
fn nothing_from_outside_makes_a_parser_panic() {
    #[allow(clippy::disallowed_methods)] // a failure's seed is given again by the environment
    let seed = std::env::var("TAFFRAIL_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let rng = Rng::seeded(seed);
    for (name, run, sample) in targets::TARGETS {
        let sample = made(name).unwrap_or_else(|| sample.to_vec());
        run(&sample);
        let begun = Instant::now();
        let mut count = 0u32;
        while begun.elapsed() < EACH {
            let input = damaged(&sample, &rng);
            let outcome = std::panic::catch_unwind(|| run(&input));
            assert!(outcome.is_ok(), "{name} panicked on {:?}", String::from_utf8_lossy(&input));
            count += 1;
        }
        println!("{name}: {count} inputs");
    }
}
