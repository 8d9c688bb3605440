//! Random histories against a plain map of every revision.

use super::*;
use crate::suite::{delete, put};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        size: u16,
        expect: u8,
    },
    Delete {
        key: u8,
        expect: u8,
    },
    /// A transaction of two keys.
    Both {
        a: u8,
        b: u8,
    },
    Commit,
    Reopen,
    Compact {
        back: u8,
    },
    Page {
        after: u8,
        limit: u8,
        back: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..12, 0u16..400, 0u8..4).prop_map(|(key, size, expect)| Step::Put { key, size, expect }),
        3 => (0u8..12, 0u8..4).prop_map(|(key, expect)| Step::Delete { key, expect }),
        2 => (0u8..12, 0u8..12).prop_map(|(a, b)| Step::Both { a, b }),
        6 => Just(Step::Commit),
        1 => Just(Step::Reopen),
        1 => (0u8..20).prop_map(|back| Step::Compact { back }),
        4 => (0u8..12, 0u8..6, 0u8..20).prop_map(|(after, limit, back)| Step::Page { after, limit, back }),
    ];
    prop::collection::vec(step, 1..250)
}

/// created, modified, value
type Value = (u64, u64, String);
type Map = BTreeMap<String, Value>;

/// Every revision as a whole map.
struct Model {
    revisions: Vec<Map>,
    /// What is shown; later revisions are queued.
    durable: usize,
    compacted: u64,
}

impl Model {
    fn newest(&self) -> &Map {
        &self.revisions[self.revisions.len() - 1]
    }

    fn expect(&self, key: &str, expect: u8) -> (Expect, bool) {
        let current = self.newest().get(key);
        match expect {
            0 => (Expect::Absent, current.is_none()),
            1 => (Expect::At(current.map_or(3, |c| c.1)), current.is_some()),
            2 => (Expect::At(1_000_000), false),
            _ => (Expect::Any, true),
        }
    }

    fn apply(&mut self, ops: &[Op]) {
        let mut map = self.newest().clone();
        let revision = self.revisions.len() as u64;
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    let created = map.get(key).map_or(revision, |v| v.0);
                    let text = String::from_utf8_lossy(&value.bytes).into_owned();
                    map.insert(key.clone(), (created, revision, text));
                }
                Op::Delete { key, .. } => {
                    map.remove(key);
                }
            }
        }
        if ops.iter().any(|op| matches!(op, Op::Put { .. })) || map != *self.newest() {
            self.revisions.push(map);
        }
    }
}

fn name(key: u8) -> String {
    // Some keys are others' beginnings.
    format!(
        "/r/{}",
        "abcabcabcabc".get(..(key as usize % 4 + 1)).unwrap_or("a").to_owned() + &(key / 4).to_string()
    )
}

fn as_map(entries: &[Entry]) -> Map {
    let value = |e: &Entry| (e.created, e.modified, String::from_utf8_lossy(&e.value).into_owned());
    entries.iter().map(|e| (e.key.to_string(), value(e))).collect()
}

fn check_page(
    store: &Embedded,
    model: &Model,
    after: &str,
    limit: usize,
    at: u64,
) -> Result<(), TestCaseError> {
    let result = store.list(&Range { prefix: "/r/", after: Some(after), limit, at: Some(at), bloom: 0 });
    if at < model.compacted {
        prop_assert!(matches!(result, Err(ReadError::Compacted { .. })), "not compacted");
        return Ok(());
    }
    let page = result.map_err(|e| TestCaseError::fail(e.to_string()))?;
    let all: Vec<_> = model.revisions[at as usize].iter().filter(|(k, _)| k.as_str() > after).collect();
    let take = if limit == 0 { all.len() } else { limit.min(all.len()) };
    let want: Map = all[..take].iter().map(|(k, v)| ((*k).clone(), (*v).clone())).collect();
    prop_assert_eq!(as_map(&page.entries), want);
    prop_assert_eq!(page.remaining as usize, all.len() - take);
    Ok(())
}

fn check(store: &Embedded, model: &Model) -> Result<(), TestCaseError> {
    let now = &model.revisions[model.durable];
    prop_assert_eq!(store.revision() as usize, model.durable);
    let page = store
        .list(&Range { prefix: "/r/", ..Range::default() })
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(&as_map(&page.entries), now);
    prop_assert_eq!(store.count("/r/") as usize, now.len());
    for key in 0..12 {
        let entry = store.get(&name(key));
        prop_assert_eq!(entry.map(|e| e.modified), now.get(&name(key)).map(|v| v.1));
    }
    Ok(())
}

fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let disk = SimDisk::new();
    let (mut store, mut committer) = open(&disk).unwrap();
    let mut model = Model { revisions: vec![Map::new()], durable: 0, compacted: 0 };
    // Commits that must be refused: told when what they lost to is durable.
    let mut refused: Vec<CommitFuture> = Vec::new();
    for step in steps {
        let ops = match step {
            Step::Put { key, size, expect } => {
                let (expect, holds) = model.expect(&name(key), expect);
                let text = format!("{}-{}", model.revisions.len(), "x".repeat(size.into()));
                Some((vec![put(&name(key), &text, expect)], holds))
            }
            Step::Delete { key, expect } => {
                let (expect, holds) = model.expect(&name(key), expect);
                Some((vec![delete(&name(key), expect)], holds))
            }
            Step::Both { a, b } if name(a) != name(b) => {
                let ops = vec![put(&name(a), "both", Expect::Any), delete(&name(b), Expect::Any)];
                Some((ops, true))
            }
            Step::Both { .. } => None,
            Step::Commit => {
                committer.step();
                for waiting in refused.drain(..) {
                    prop_assert!(block_on(waiting).is_err());
                }
                model.durable = model.revisions.len() - 1;
                check(&store, &model)?;
                None
            }
            Step::Reopen => {
                refused.clear();
                drop((store, committer));
                // What was queued and not committed is gone.
                model.revisions.truncate(model.durable + 1);
                (store, committer) = open(&disk).unwrap();
                model.compacted = store.stats().compacted;
                check(&store, &model)?;
                None
            }
            Step::Compact { back } => {
                let before = (model.durable as u64).saturating_sub(back.into());
                store.compact(before).unwrap();
                model.compacted = model.compacted.max(before);
                None
            }
            Step::Page { after, limit, back } => {
                let at = (model.durable as u64).saturating_sub(back.into());
                check_page(&store, &model, &name(after), limit.into(), at)?;
                None
            }
        };
        if let Some((ops, holds)) = ops {
            let waiting = store.commit(suite::txn(ops.clone()));
            if holds {
                model.apply(&ops);
            } else {
                refused.push(waiting);
            }
        }
    }
    committer.step();
    for waiting in refused {
        prop_assert!(block_on(waiting).is_err());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn random_histories_read_as_a_plain_map(steps in steps()) {
        play(steps)?;
    }
}
