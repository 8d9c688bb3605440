//! The one watch that keeps the view in step with etcd.
//!
//! Invariants: a revision becomes visible only when all of its events are here; after a broken connection the watch
//! goes on behind the last visible revision; when that has been compacted, everything is read anew and watchers are
//! told that they lost events.

use super::keys::{Name, split_last};
use super::load::Loading;
use super::*;
use crate::wal::codec::{Action, Commit, Mutation};
use ::etcd::Error;
use ::etcd::proto::{EventKind, WatchCreateRequest, WatchEvent, WatchResponse};
use bytes::Bytes;
use std::collections::HashMap;

/// The first pause after the watch broke, and the longest: each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often progress is asked for when nobody waits for it, so that bookmarks and compaction go on in an idle cluster
/// (upstream asks etcd's operator for the same: `--watch-progress-notify-interval=5s`).
const IDLE_PROGRESS: Duration = Duration::from_secs(5);
/// A watch that says nothing for this long, though asked, is a problem that readiness checks tell (upstream's check asks
/// etcd and waits two seconds).
const SILENCE_TOLD: Duration = Duration::from_secs(7);
/// A watch that says nothing for this long, though asked, is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The events of one revision.
#[derive(Default)]
struct Group {
    revision: Revision,
    events: Vec<WatchEvent>,
}

/// Why the watch ended.
enum End {
    Compacted,
    Broken(Error),
}

impl Shared {
    /// Follows etcd for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.view.load().revision;
            let end = match self.check_history().await {
                Ok(()) => self.watch_once().await,
                Err(error) => End::Broken(error),
            };
            let result = match end {
                End::Compacted => self.read_anew().await,
                End::Broken(error) => Err(error),
            };
            match result {
                Ok(()) => *self.problem.lock() = None,
                Err(error) => *self.problem.lock() = Some(format!("etcd is not followed: {error}")),
            }
            pause = if self.view.load().revision > before { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tokio::time::sleep(pause).await;
        }
    }

    /// A restored backup has an older revision than was shown here, and other changes from there on: nothing that was
    /// told to anybody is true any more.
    async fn check_history(&self) -> Result<(), Error> {
        let there = unsigned(self.client.current_revision(self.options.request_timeout).await?);
        let here = self.view.load().revision;
        if there < here {
            let reason =
                format!("etcd went back from revision {here} to {there}, as after a restored backup");
            (self.options.fatal)(&reason);
        }
        Ok(())
    }

    async fn watch_once(&self) -> End {
        let (key, range_end) = self.layout.watched();
        let start_revision = signed(self.view.load().revision) + 1;
        let create =
            WatchCreateRequest { key, range_end, start_revision, progress_notify: true, fragment: true };
        let mut watch = match self.client.watch(create, self.options.request_timeout).await {
            Ok(watch) => watch,
            Err(error) => return End::Broken(error),
        };
        let mut held = Group::default();
        let mut heard = Instant::now();
        // Not begun anew by those who ask for progress: they may be many, and etcd silent.
        let mut tick = tokio::time::interval(IDLE_PROGRESS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            let answer = tokio::select! {
                answer = watch.next() => answer,
                () = self.progress.notified() => {
                    watch.ask_progress();
                    continue;
                }
                _ = tick.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return End::Broken(Error::Timeout(SILENCE_MAX.as_millis()));
                    }
                    if heard.elapsed() > SILENCE_TOLD {
                        let silent = format!("etcd said nothing for {} s", heard.elapsed().as_secs());
                        *self.problem.lock() = Some(silent);
                        told = true;
                    }
                    watch.ask_progress();
                    continue;
                }
            };
            heard = Instant::now();
            if std::mem::take(&mut told) {
                *self.problem.lock() = None;
            }
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return End::Broken(error),
            };
            if answer.canceled {
                if answer.compact_revision > 0 {
                    return End::Compacted;
                }
                return End::Broken(Error::Malformed(format!(
                    "the watch was ended: {}",
                    answer.cancel_reason
                )));
            }
            if answer.created {
                *self.problem.lock() = None;
                continue;
            }
            if let Some((groups, revision)) = whole_revisions(answer, &mut held)
                && let Err(error) = self.publish(&groups, revision)
            {
                *self.unsealed.lock() = Some(error.to_string());
                return End::Broken(error);
            }
        }
    }

    /// Makes changes visible: all of them or, when a value does not open, none.
    fn publish(&self, groups: &[Group], revision: Revision) -> Result<(), Error> {
        let mut events = Vec::new();
        {
            let mut superseded = self.superseded.lock();
            let mut view = View::clone(&self.view.load());
            if revision <= view.revision {
                return Ok(());
            }
            let first = view.revision;
            for group in groups.iter().filter(|g| g.revision > first) {
                let commit = self.commit_of(&view, group)?;
                state::apply(&mut view, &commit, &mut events, &mut superseded);
            }
            view.revision = revision;
            self.view.store(Arc::new(view));
        }
        let dirty = self.history.publish(events, revision);
        *self.unsealed.lock() = None;
        self.visible.send_replace(revision);
        wake(dirty);
        Ok(())
    }

    /// The events of a revision as the commit that the embedded engine would have made.
    fn commit_of(&self, view: &View, group: &Group) -> Result<Commit, Error> {
        let revision = group.revision;
        let seal = &self.options.seal;
        let mut last: HashMap<&str, Bytes> = HashMap::new();
        let mut changes = Vec::new();
        let keyed = group.events.iter().filter_map(|e| e.kv.as_ref().map(|kv| (e.kind, kv)));
        for (_, kv) in keyed.clone().filter(|(_, kv)| self.layout.name(&kv.key) == Name::Last) {
            if let Some((key, stored)) = split_last(&kv.value) {
                let stored = Bytes::copy_from_slice(stored);
                last.insert(key, opened(seal, key, &self.layout.key(key), &stored, revision)?);
            }
        }
        for (kind, kv) in keyed {
            let Name::Key(key) = self.layout.name(&kv.key) else { continue };
            let action = if kind == i32::from(EventKind::Delete) {
                let stored = || view.get(key).and_then(|e| stamp::restamped(&e.value, revision));
                Action::Delete(last.get(key).cloned().or_else(stored))
            } else {
                Action::Put(opened(seal, key, &kv.key, &kv.value, revision)?)
            };
            changes.push(Mutation { key: Arc::from(key), action });
        }
        Ok(Commit { revision, changes, record: None })
    }

    /// Replaces the view by what etcd has now.
    async fn read_anew(&self) -> Result<(), Error> {
        let old = self.view.load_full();
        let loading = Loading { client: &self.client, layout: &self.layout, options: &self.options };
        let view = loading.present(Some(&old)).await?;
        let revision = view.revision;
        {
            let mut superseded = self.superseded.lock();
            superseded.clear();
            self.view.store(Arc::new(view));
        }
        let all = self.history.reset(revision);
        self.visible.send_replace(revision);
        wake(all);
        Ok(())
    }
}

/// The revisions that are complete with an answer, and up to which revision nothing is missing. The events of the last
/// revision of a fragment are held until the next answer: it may have more of them.
fn whole_revisions(answer: WatchResponse, held: &mut Group) -> Option<(Vec<Group>, Revision)> {
    let mut groups = Vec::new();
    if answer.events.is_empty() && !answer.fragment && held.events.is_empty() {
        // Progress: everything up to the answer's revision has been sent.
        return answer.header.map(|h| (groups, unsigned(h.revision)));
    }
    for event in answer.events {
        let revision = event.kv.as_ref().map_or(0, |kv| unsigned(kv.mod_revision));
        if revision != held.revision && !held.events.is_empty() {
            groups.push(std::mem::take(held));
        }
        held.revision = revision;
        held.events.push(event);
    }
    if !answer.fragment && !held.events.is_empty() {
        groups.push(std::mem::take(held));
    }
    let revision = groups.last()?.revision;
    Some((groups, revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::etcd::proto::{KeyValue, ResponseHeader};

    fn answer(revisions: &[i64], fragment: bool) -> WatchResponse {
        let event =
            |r: &i64| WatchEvent { kind: 0, kv: Some(KeyValue { mod_revision: *r, ..KeyValue::default() }) };
        let header = Some(ResponseHeader { revision: 99, ..ResponseHeader::default() });
        WatchResponse {
            header,
            fragment,
            events: revisions.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    fn shown(answer: WatchResponse, held: &mut Group) -> Option<(Vec<(Revision, usize)>, Revision)> {
        whole_revisions(answer, held)
            .map(|(groups, r)| (groups.iter().map(|g| (g.revision, g.events.len())).collect(), r))
    }

    #[test]
    fn a_revision_in_two_fragments_is_shown_whole() {
        let mut held = Group::default();
        assert_eq!(shown(answer(&[5, 6, 6], true), &mut held), Some((vec![(5, 1)], 5)));
        assert_eq!(shown(answer(&[6], true), &mut held), None);
        assert_eq!(shown(answer(&[6, 7], false), &mut held), Some((vec![(6, 4), (7, 1)], 7)));
        assert_eq!(shown(answer(&[], false), &mut held), Some((vec![], 99)), "progress");
    }

    #[test]
    fn the_head_of_events_is_no_progress() {
        assert_eq!(shown(answer(&[8, 9], false), &mut Group::default()), Some((vec![(8, 1), (9, 1)], 9)));
    }
}
