//! Further processes in a container (exec), joining its streams (attach), and the size of terminals.
//!
//! Invariant: an exec's streams go to the client that asked; the shim keeps the process, its terminal and its exit.

use super::launch::{self, Plan};
use super::serve::Reply;
use super::{SIGKILL, Shim};
use crate::runtime::ExecSpec;
use crate::runtime::child::{self, Failure};
use crate::runtime::wire::{self, Answer};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::error::{Error, Result};
use sys::process::{self, Child, Exit};
use sys::tty;

/// Exits kept for clients that ask later.
const ENDED_MAX: usize = 256;

pub struct Exec {
    pub container: String,
    number: u64,
    /// While it runs.
    child: Option<Child>,
    terminal: Option<OwnedFd>,
    code: i32,
    waiting: Vec<u64>,
}

impl Exec {
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn runs_as(&self, pid: i32) -> bool {
        self.child.as_ref().is_some_and(|c| c.pid == pid)
    }
}

fn fault(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), container: true }
}

impl Shim {
    pub(super) fn exec(&mut self, client: u64, wanted: &ExecSpec) -> std::result::Result<Reply, Failure> {
        let id = &wanted.container_id;
        let container =
            self.containers.get(id).ok_or_else(|| fault(format!("container {id} does not exist")))?;
        let spec = container.spec.clone().filter(|_| container.runs());
        let spec = spec.ok_or_else(|| fault(format!("container {id} is not running")))?;
        let filter = self.filter(&spec.security)?;
        let group = self.group(id);
        let pidfd = self.containers.get(id).and_then(|c| c.pidfd.as_ref());
        let pidfd = pidfd.ok_or_else(|| fault(format!("container {id} is not running")))?;
        let plan = Plan {
            namespaces: 0,
            pid_namespace: Some(pidfd.as_fd()),
            own_pid_namespace: &self.own_pid_namespace,
            group: &group,
            tty: wanted.tty,
            stdin: wanted.stdin,
            null: &self.null,
        };
        let hostname = &self.sandbox.hostname;
        let launched = launch::launch(&plan, |ends| {
            child::become_exec(&spec, pidfd, &wanted.args, hostname, ends, &filter)
        })?;
        let number = self.next_exec;
        self.next_exec += 1;
        let exec_id = format!("exec-{number}");
        let streams = [launched.stdin.as_ref(), Some(&launched.stdout), launched.stderr.as_ref()];
        self.send_streams(client, &exec_id, streams)?;
        let terminal = wanted.tty.then_some(launched.stdout);
        let exec = Exec {
            container: id.clone(),
            number,
            child: Some(launched.child),
            terminal,
            code: 0,
            waiting: vec![],
        };
        self.execs.insert(exec_id, exec);
        self.forget_oldest();
        Ok(Reply::Later)
    }

    fn send_streams(&mut self, client: u64, exec_id: &str, streams: [Option<&OwnedFd>; 3]) -> Result<()> {
        let answer = Answer::Streams {
            exec_id: exec_id.to_owned(),
            stdin: streams[0].is_some(),
            stdout: streams[1].is_some(),
            stderr: streams[2].is_some(),
        };
        let bytes = wire::encode(&answer).map_err(|e| Error::check(e.to_string()))?;
        let fds: Vec<BorrowedFd<'_>> = streams.iter().flatten().map(|fd| fd.as_fd()).collect();
        if let Some(client) = self.clients.get_mut(&client) {
            client.send(&bytes, &fds);
        }
        Ok(())
    }

    /// Forgets the oldest of too many ended execs, so that clients that never ask do not fill the memory.
    fn forget_oldest(&mut self) {
        let ended = |e: &Exec| !e.runs();
        while self.execs.values().filter(|e| ended(e)).count() > ENDED_MAX {
            let oldest = self.execs.iter().filter(|(_, e)| ended(e)).min_by_key(|(_, e)| e.number);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
            self.execs.remove(&id);
        }
    }

    pub(super) fn exec_ended(&mut self, id: &str, exit: Exit) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        exec.child = None;
        exec.terminal = None;
        exec.code = exit.code;
        for client in std::mem::take(&mut exec.waiting) {
            self.answer(client, &Answer::Exited(exit.code));
        }
    }

    fn known_exec(&mut self, id: &str) -> Result<&mut Exec> {
        self.execs.get_mut(id).ok_or_else(|| Error::check(format!("exec {id} does not exist")))
    }

    pub(super) fn exec_wait(&mut self, client: u64, id: &str) -> std::result::Result<Reply, Failure> {
        let exec = self.known_exec(id)?;
        if exec.runs() {
            exec.waiting.push(client);
            return Ok(Reply::Later);
        }
        Ok(Reply::Now(Answer::Exited(exec.code)))
    }

    pub(super) fn exec_kill(&mut self, id: &str) -> Result<()> {
        match &self.known_exec(id)?.child {
            Some(child) => process::signal(&child.pidfd, SIGKILL),
            None => Ok(()),
        }
    }

    pub(super) fn attach(&mut self, client: u64, id: &str) -> std::result::Result<Reply, Failure> {
        let number = self.next_exec;
        self.next_exec += 1;
        let c = self.containers.get_mut(id).filter(|c| c.runs());
        let c = c.ok_or_else(|| fault(format!("container {id} is not running")))?;
        let name = format!("attach-{number}-{id}");
        let [stdin, stdout, stderr] = c.streams.attach(number)?;
        self.send_streams(client, &name, [stdin.as_ref(), stdout.as_ref(), stderr.as_ref()])?;
        Ok(Reply::Later)
    }

    /// Of an exec by its id, of an attach by its id, or of a container by its own.
    pub(super) fn resize(&mut self, id: &str, columns: u16, rows: u16) -> Result<()> {
        if let Some(exec) = self.execs.get(id) {
            return match &exec.terminal {
                Some(terminal) => tty::resize(terminal, columns, rows),
                None => Ok(()), // ended, or it never had a terminal
            };
        }
        let container = match id.strip_prefix("attach-").and_then(|rest| rest.split_once('-')) {
            Some((_, container)) => container,
            None => id,
        };
        self.container(container)?.streams.resize(columns, rows)
    }
}
