//! Serving the socket: accepting, checking who asks, and one function that lists every request.

use super::client::Client;
use super::{SIGKILL, Shim, own};
use crate::runtime::child::Failure;
use crate::runtime::wire::{self, Answer, Envelope, Request};
use crate::runtime::{ContainerState, disk};
use std::os::fd::AsFd;
use sys::error::{Error, Result};
use sys::fd::{self, Ready};
use sys::{cgroup, process};

/// Connections at a time.
const CLIENTS_MAX: usize = 512;

/// An answer now, or later when what was asked for has happened.
pub enum Reply {
    Now(Answer),
    Later,
}

type Outcome = std::result::Result<Reply, Failure>;

impl Shim {
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let trusted = fd::peer_uid(&stream).is_ok_and(|uid| uid == process::own_uid());
            if !trusted || self.clients.len() >= CLIENTS_MAX {
                continue;
            }
            if let Ok(client) = Client::new(stream) {
                self.clients.insert(self.next_client, client);
                self.next_client += 1;
            }
        }
    }

    pub(super) fn serve(&mut self, id: u64, ready: Ready) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if ready.read || ready.hangup {
            client.receive();
        }
        client.flush();
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            match wire::take::<Envelope>(&mut client.input) {
                Ok(Some(envelope)) => self.answer_to(id, envelope),
                Ok(None) => break,
                Err(e) => {
                    let failure = Failure { why: format!("bad request: {e}"), container: false };
                    self.answer(id, &failed(failure));
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.gone = true;
                    }
                    break;
                }
            }
        }
        if self.clients.get(&id).is_some_and(|c| c.gone) {
            self.clients.remove(&id);
        }
    }

    fn answer_to(&mut self, id: u64, envelope: Envelope) {
        let outcome = if envelope.version == wire::VERSION {
            self.request(id, envelope.request)
        } else {
            let why = format!("this shim speaks version {}, not {}", wire::VERSION, envelope.version);
            Err(Failure { why, container: false })
        };
        match outcome {
            Ok(Reply::Now(answer)) => self.answer(id, &answer),
            Ok(Reply::Later) => {}
            Err(failure) => self.answer(id, &failed(failure)),
        }
    }

    pub(super) fn answer(&mut self, id: u64, answer: &Answer) {
        // A client that went away does not wait any more.
        if let (Some(client), Ok(bytes)) = (self.clients.get_mut(&id), wire::encode(answer)) {
            client.send(&bytes, &[]);
        }
    }

    fn request(&mut self, client: u64, request: Request) -> Outcome {
        let done = || Ok(Reply::Now(Answer::Done));
        match request {
            Request::Start(spec) => self.start(*spec).map(|state| Reply::Now(Answer::Started(state))),
            Request::Stop { id, grace_seconds } => Ok(self.stop(client, &id, grace_seconds)?),
            Request::Remove { id } => {
                self.remove(&id)?;
                done()
            }
            Request::State => Ok(Reply::Now(Answer::State(self.states()))),
            Request::Exec(spec) => self.exec(client, &spec),
            Request::ExecWait { exec_id } => self.exec_wait(client, &exec_id),
            Request::ExecKill { exec_id } => {
                self.exec_kill(&exec_id)?;
                done()
            }
            Request::Attach { id } => self.attach(client, &id),
            Request::Resize { exec_id, columns, rows } => {
                self.resize(&exec_id, columns, rows)?;
                done()
            }
            Request::ReopenLog { id } => {
                self.container(&id)?.streams.reopen_log()?;
                done()
            }
            Request::Watch => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.watching = true;
                }
                done()
            }
            Request::Shutdown => {
                self.shutdown()?;
                done()
            }
        }
    }

    fn states(&self) -> Vec<ContainerState> {
        let mut states: Vec<ContainerState> = self.containers.values().map(|c| c.state.clone()).collect();
        states.sort_by(|a, b| (a.started_ns, &a.id).cmp(&(b.started_ns, &b.id)));
        states
    }

    fn remove(&mut self, id: &str) -> Result<()> {
        if !disk::plain_name(id) {
            return Err(Error::check(format!("bad container id {id:?}")));
        }
        if self.containers.get(id).is_some_and(|c| c.runs()) {
            return Err(Error::check(format!("container {id} is running")));
        }
        let (groups, group) = (cgroup::machine()?, self.group(id));
        if groups.exists(&group) {
            groups.kill(&group)?;
            groups.remove(&group)?;
        }
        self.containers.remove(id);
        self.execs.retain(|_, e| e.container != id || e.runs());
        disk::remove_tree(&self.pod.container(id)).map_err(own("remove the container's files"))
    }

    /// Ends everything. The answer goes out before the loop ends, since a turn finishes what it began.
    fn shutdown(&mut self) -> Result<()> {
        let groups = cgroup::machine()?;
        let group = self.sandbox.cgroup.clone();
        for _ in 0..200 {
            let left = groups.kill_once(&group)?;
            self.reap();
            if left == 0 {
                break;
            }
            let pause = std::time::Duration::from_millis(2);
            fd::poll(&[(self.children.as_fd(), fd::Interest::Read)], Some(pause))?;
            let _ = fd::read(&self.children, &mut [0; 4096]);
        }
        if let Some(reaper) = self.reaper.take() {
            process::signal(&reaper.pidfd, SIGKILL)?;
            process::wait(reaper.pid)?;
        }
        groups.remove(&group)?;
        self.over = true;
        Ok(())
    }
}

fn failed(failure: Failure) -> Answer {
    Answer::Failed { why: failure.why, container_fault: failure.container }
}
