//! Requests out of the OpenAPI documents, with mistakes in them, to both servers.
//!
//! Invariants: a seed means the same requests again. What changes something is a dry run, but for the objects that are
//! made first. Beside the comparison ours is held to this: no answer of 500 or more that the real one does not give, no
//! broken connection, and memory below [`MEMORY_MAX_MB`].

mod catalog;
mod dice;
mod generate;
mod group;
mod mutate;
mod options;
mod patch;
mod schema;

use super::accepted::Accepted;
use super::http::{Ask, Connection};
use super::requests::{both, prepare, told};
use crate::bench::side::Side;
use catalog::Catalog;
use dice::Dice;
use generate::Generator;
use group::Groups;
use serde_json::{Value, json};
use std::time::Duration;

/// Requests between two looks at the memory.
const BATCH: usize = 500;
/// Resident memory of ours in MB.
const MEMORY_MAX_MB: f64 = 600.0;
/// Choices that make no request, in a row of choices for one that does.
const TRIES: usize = 20;
/// How long controllers may take with the first objects.
const SETTLE: Duration = Duration::from_secs(3);

/// Without the real one only what ours endures is looked at.
pub fn run(real: Option<&Side>, ours: &Side, count: usize, seed: u64, only: &str) -> Result<(), String> {
    println!("{count} requests, --seed {seed}");
    let mut catalog = Catalog::read(documents(real.unwrap_or(ours))?);
    catalog.resources.retain(|r| r.path.contains(only));
    if catalog.resources.is_empty() {
        return Err(format!("no resource has {only:?} in its path"));
    }
    let generator = Generator::new(&catalog)?;
    let mut seen = Seen { groups: Groups::default(), accepted: Accepted::load()?, broken: Vec::new() };
    let mut ask = |asks: &[Ask], first: bool| -> Result<(), String> {
        let theirs = || real.map(|real| ask_all(real, asks, first)).transpose();
        let (theirs, mine) = both(theirs, || ask_all(ours, asks, first).map(Some))?;
        let mine = mine.unwrap_or_default();
        for (ask, answer) in asks.iter().zip(&mine).filter(|(_, a)| first && a["code"] != 201) {
            println!("not made: {}: {}", ask.path, answer["body"]["message"]);
        }
        seen.compare(asks, theirs.as_deref(), &mine);
        Ok(())
    };
    ask(&generator.first(), true)?;
    std::thread::sleep(SETTLE);
    let dice = Dice::seeded(seed);
    let mut left = count;
    let mut most = 0.0_f64;
    while left > 0 {
        let mut asks = Vec::new();
        for _ in 0..BATCH.min(left) * TRIES {
            asks.extend(generator.request(&dice));
            if asks.len() == BATCH.min(left) {
                break;
            }
        }
        left -= BATCH.min(left);
        ask(&asks, false)?;
        most = most.max(ours.memory_mb().0);
    }
    if most > MEMORY_MAX_MB {
        seen.broken.push(format!("memory grew to {most:.0} MB"));
    }
    seen.groups.print();
    seen.broken.iter().for_each(|b| println!("broken: {b}"));
    let found = format!("{} kinds of differences, {} broken answers", seen.groups.len(), seen.broken.len());
    println!("\n{count} requests, --seed {seed}: {found}, at most {most:.0} MB");
    if seen.broken.is_empty() && seen.groups.len() == 0 { Ok(()) } else { Err(found) }
}

struct Seen {
    groups: Groups,
    accepted: Accepted,
    broken: Vec<String>,
}

impl Seen {
    fn compare(&mut self, asks: &[Ask], theirs: Option<&[Value]>, mine: &[Value]) {
        for (i, (ask, ours)) in asks.iter().zip(mine).enumerate() {
            let real = theirs.and_then(|t| t.get(i));
            let failed = ours["code"].as_u64().is_none_or(|c| c >= 500);
            // upstream gives errors of its libraries as they are, with 500 and without a reason
            let meant = real.map_or(ours["body"]["reason"].is_null(), |r| r["code"] == ours["code"]);
            if failed && !(meant && ours["error"].is_null()) {
                let said = if ours["error"].is_null() { &ours["body"]["message"] } else { &ours["error"] };
                self.broken.push(format!("{} {}: {} {said}", ask.method, ask.path, ours["code"]));
            }
            let Some(real) = real else { continue };
            let path = ask.path.split('?').next().unwrap_or("");
            let resource =
                path.replace("/namespaces/compare", "").replace(&format!("/{}", generate::BASE), "");
            self.groups.compare(ask, &resource, real, ours, &mut |place| self.accepted.holds(place));
        }
    }
}

fn documents(side: &Side) -> Result<Vec<Value>, String> {
    side.with(async |side| {
        let mut connection = Connection::new(side);
        let index = connection.send(&Ask::get("/openapi/v3")).await?.document();
        let mut out = Vec::new();
        for (name, at) in index["paths"].as_object().into_iter().flatten() {
            let path = at["serverRelativeURL"].as_str().unwrap_or("");
            if name.starts_with("api/v1") || name.matches('/').count() == 2 {
                out.push(connection.send(&Ask::get(path)).await?.document());
            }
        }
        Ok(out)
    })
}

fn ask_all(side: &Side, asks: &[Ask], first: bool) -> Result<Vec<Value>, String> {
    side.with(async |side| {
        let mut connection = Connection::new(side);
        if first {
            prepare(&mut connection).await?;
        }
        let mut out = Vec::new();
        for ask in asks {
            out.push(match connection.send(ask).await {
                Ok(answer) => told(answer),
                Err(error) => json!({ "error": error }),
            });
        }
        Ok(out)
    })
}
