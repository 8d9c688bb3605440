//! The shim: one small single-threaded process per pod that owns the pod's containers, their output and their ends.
//!
//! It outlives the program that started it. Its loop waits on its socket, the containers' streams and SIGCHLD.
//! Invariant: it never has a second thread, since it forks; it never waits for a client.

mod client;
mod container;
mod exec;
mod launch;
mod log;
mod serve;
mod setup;
mod sink;
mod streams;

pub use self::setup::{READY, shim_group};

use self::client::Client;
use self::container::Container;
use self::exec::Exec;
use super::SandboxSpec;
use super::disk::PodDir;
use super::wire::{self, Answer};
use base::clock::{Clock as _, SystemClock};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;
use sys::error::{Error, Result};
use sys::fd::{self, Interest, Ready};
use sys::process::{self, Child};
use sys::seccomp::Filter;

/// Signal numbers.
const SIGKILL: i32 = 9;
/// How often a cgroup that is still busy is tried again.
const CLEANUP_PAUSE: Duration = Duration::from_millis(20);
/// Seccomp filters kept compiled; a pod's containers seldom have more than one.
const FILTERS_MAX: usize = 16;

/// All the shim knows.
struct Shim {
    pod: PodDir,
    sandbox: SandboxSpec,
    listener: UnixListener,
    /// Readable when a child has ended.
    children: OwnedFd,
    own_pid_namespace: OwnedFd,
    null: OwnedFd,
    /// First process of the pod's shared pid namespace.
    reaper: Option<Child>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<String, Exec>,
    next_exec: u64,
    filters: Vec<(super::Security, Filter)>,
    clock: SystemClock,
    over: bool,
}

/// What a descriptor belongs to.
#[derive(Debug, Clone)]
enum Source {
    Children,
    Listener,
    Client(u64),
    Stream(String, streams::Port),
    Oom(String),
}

/// The shim's main, to be called before anything else of the program starts. The last argument is the pod's directory.
pub fn shim_main(args: &[String]) -> i32 {
    let Some(dir) = args.last().map(PathBuf::from) else {
        eprintln!("the shim needs a pod's directory");
        return 2;
    };
    let run = || -> Result<()> {
        process::daemonize()?;
        let mut shim = setup::prepare(PodDir::at(dir))?;
        setup::ready()?;
        while !shim.over {
            shim.turn()?;
        }
        Ok(())
    };
    match run() {
        Ok(()) => 0,
        Err(e) => {
            // Both ends in the pod's log and, before it is ready, in the hands of who started it.
            eprintln!("shim: {e}");
            1
        }
    }
}

impl Shim {
    /// Waits for something to happen and handles it.
    fn turn(&mut self) -> Result<()> {
        let (sources, ready) = {
            let entries = self.entries();
            let polled: Vec<(BorrowedFd<'_>, Interest)> =
                entries.iter().map(|(fd, i, _)| (*fd, *i)).collect();
            let ready = fd::poll(&polled, self.next_deadline())?;
            let sources: Vec<Source> = entries.into_iter().map(|(_, _, s)| s).collect();
            (sources, ready)
        };
        for (source, ready) in sources.into_iter().zip(ready) {
            if ready != Ready::default() {
                self.handle(source, ready);
            }
        }
        self.reap();
        self.tick();
        Ok(())
    }

    fn entries(&self) -> Vec<(BorrowedFd<'_>, Interest, Source)> {
        let mut entries = vec![
            (self.children.as_fd(), Interest::Read, Source::Children),
            (self.listener.as_fd(), Interest::Read, Source::Listener),
        ];
        for (id, client) in &self.clients {
            entries.push((client.as_fd(), client.interest(), Source::Client(*id)));
        }
        for (id, c) in &self.containers {
            if let Some(oom) = &c.oom {
                entries.push((oom.as_fd(), Interest::Read, Source::Oom(id.clone())));
            }
            for (fd, interest, port) in c.streams.entries() {
                entries.push((fd, interest, Source::Stream(id.clone(), port)));
            }
        }
        entries
    }

    fn handle(&mut self, source: Source, ready: Ready) {
        match source {
            // Only a wake-up: children are reaped after each turn.
            Source::Children => {
                let _ = fd::read(&self.children, &mut [0; 4096]);
            }
            Source::Listener => self.accept(),
            Source::Client(id) => self.serve(id, ready),
            Source::Stream(id, port) => {
                let now = self.clock.monotonic();
                if let Some(c) = self.containers.get_mut(&id) {
                    c.streams.handle(&port, now);
                }
            }
            Source::Oom(id) => self.oom(&id),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let containers = self.containers.values().filter_map(Container::next_deadline);
        containers.min().map(|at| at.saturating_sub(now).saturating_add(Duration::from_millis(1)))
    }

    /// What is due by time.
    fn tick(&mut self) {
        let now = self.clock.monotonic();
        for c in self.containers.values_mut() {
            c.tick(now);
        }
    }

    /// Takes the exit codes of children that ended.
    fn reap(&mut self) {
        while let Some((pid, exit)) = process::reap() {
            if let Some(id) = self.containers.values().find(|c| c.runs_as(pid)).map(|c| c.state.id.clone()) {
                self.container_ended(&id, exit);
            } else if let Some(id) = self.execs.iter().find(|(_, e)| e.runs_as(pid)).map(|(id, _)| id.clone())
            {
                self.exec_ended(&id, exit);
            } else if self.reaper.as_ref().is_some_and(|r| r.pid == pid) {
                self.reaper = None;
            }
        }
    }

    /// Tells watchers that something happened to a container.
    fn tell(&mut self, id: &str) {
        if let Ok(bytes) = wire::encode(&Answer::Event(id.to_owned())) {
            for client in self.clients.values_mut().filter(|c| c.watching) {
                client.send(&bytes, &[]);
            }
        }
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// A container's compiled filter.
    fn filter(&mut self, security: &super::Security) -> Result<Filter> {
        if let Some((_, filter)) = self.filters.iter().find(|(s, _)| s == security) {
            return Ok(filter.clone());
        }
        let filter = super::child::filter(security)?;
        if self.filters.len() >= FILTERS_MAX {
            self.filters.remove(0);
        }
        self.filters.push((security.clone(), filter.clone()));
        Ok(filter)
    }

    /// The cgroup of a container.
    fn group(&self, id: &str) -> String {
        format!("{}/{id}", self.sandbox.cgroup)
    }
}

/// An I/O error of the runtime's own files.
fn own(what: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |e| Error::check(format!("{what}: {e}"))
}
