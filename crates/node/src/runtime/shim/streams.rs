//! A container's streams: output to the log and to everybody attached, input from everybody attached.
//!
//! Invariant: the log sees every byte; somebody attached sees every byte from then on or is dropped; a slow one holds
//! the container up for a bounded time only.

use super::log::ContainerLog;
use super::sink::Sink;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use sys::error::{Error, Result};
use sys::fd::{self, Interest};
use sys::tty;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Reads at the end of a container, so that a writer that lives on cannot keep the shim for ever.
const DRAIN_READS_MAX: usize = 1024;
/// People attached to one container at a time.
const ATTACHED_MAX: usize = 64;

/// Which of a container's descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Output of the container: 0 stdout (or the terminal), 1 stderr.
    Output(usize),
    /// The container's input, ready to take more.
    Input,
    /// Input of somebody attached.
    From(u64),
    /// Output to somebody attached.
    To(u64, usize),
}

const NAMES: [&str; 2] = ["stdout", "stderr"];

#[derive(Debug)]
struct Attached {
    number: u64,
    input: Option<OwnedFd>,
    outputs: [Option<Sink>; 2],
}

#[derive(Debug)]
pub struct Streams {
    log: Option<ContainerLog>,
    outputs: [Option<OwnedFd>; 2],
    input: Option<Sink>,
    terminal: Option<OwnedFd>,
    has_terminal: bool,
    input_once: bool,
    /// The input ends when what waits has gone.
    input_ends: bool,
    attached: Vec<Attached>,
}

impl Streams {
    pub fn closed() -> Self {
        Self {
            log: None,
            outputs: [None, None],
            input: None,
            terminal: None,
            has_terminal: false,
            input_once: false,
            input_ends: false,
            attached: vec![],
        }
    }

    pub fn new(
        log: ContainerLog,
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        has_terminal: bool,
        input_once: bool,
    ) -> Result<Self> {
        let terminal = if has_terminal { Some(fd::duplicate(&stdout)?) } else { None };
        for output in [Some(&stdout), stderr.as_ref()].into_iter().flatten() {
            fd::set_nonblocking(output)?;
        }
        let input = stdin.map(Sink::new).transpose()?;
        let outputs = [Some(stdout), stderr];
        Ok(Self { log: Some(log), outputs, input, terminal, has_terminal, input_once, ..Self::closed() })
    }

    /// What to wait for.
    pub fn entries(&self) -> Vec<(BorrowedFd<'_>, Interest, Port)> {
        let mut entries = vec![];
        let held_up =
            self.attached.iter().flat_map(|a| &a.outputs).flatten().any(|s| s.is_full() && !s.broken);
        for (i, output) in self.outputs.iter().enumerate() {
            if let Some(fd) = output.as_ref().filter(|_| !held_up) {
                entries.push((fd.as_fd(), Interest::Read, Port::Output(i)));
            }
        }
        let taking = self.input.as_ref().is_none_or(|i| !i.waits());
        if let Some(input) = self.input.as_ref().filter(|i| i.waits()) {
            entries.push((input.as_fd(), Interest::Write, Port::Input));
        }
        for a in &self.attached {
            if let Some(fd) = a.input.as_ref().filter(|_| taking) {
                entries.push((fd.as_fd(), Interest::Read, Port::From(a.number)));
            }
            for (i, sink) in a.outputs.iter().enumerate() {
                if let Some(sink) = sink {
                    let interest = if sink.waits() { Interest::Write } else { Interest::Hangup };
                    entries.push((sink.as_fd(), interest, Port::To(a.number, i)));
                }
            }
        }
        entries
    }

    pub fn handle(&mut self, port: &Port, now: Duration) {
        match port {
            Port::Output(i) => {
                let _ = self.read_output(*i, now);
            }
            Port::Input => {
                if let Some(input) = &mut self.input {
                    input.flush(now);
                    if self.input_ends && !input.waits() {
                        self.input = None;
                    }
                }
            }
            Port::From(number) => self.read_input(*number, now),
            Port::To(number, i) => {
                if let Some(a) = self.attached.iter_mut().find(|a| a.number == *number)
                    && let Some(sink) = &mut a.outputs[*i]
                {
                    if sink.waits() {
                        sink.flush(now);
                    } else {
                        // Only a hang-up wakes a sink that has nothing to say.
                        sink.broken = true;
                    }
                }
            }
        }
        self.drop_broken();
    }

    /// Reads once; false when there is nothing (more) to read.
    fn read_output(&mut self, i: usize, now: Duration) -> bool {
        let Some(fd) = &self.outputs[i] else { return false };
        let mut chunk = vec![0u8; CHUNK_BYTES];
        match fd::read(fd, &mut chunk) {
            Ok(n) if n > 0 => {
                if let Some(log) = &mut self.log {
                    log.write(NAMES[i], &chunk[..n]);
                }
                for a in &mut self.attached {
                    if let Some(sink) = &mut a.outputs[i] {
                        sink.push(&chunk[..n], now);
                    }
                }
                true
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) if e.kind() == ErrorKind::Interrupted => true,
            // The end; a terminal says EIO when its last user is gone.
            _ => {
                if let Some(log) = &mut self.log {
                    log.end(NAMES[i]);
                }
                self.outputs[i] = None;
                false
            }
        }
    }

    fn read_input(&mut self, number: u64, now: Duration) {
        let Some(a) = self.attached.iter_mut().find(|a| a.number == number) else { return };
        let Some(fd) = &a.input else { return };
        let mut chunk = vec![0u8; CHUNK_BYTES];
        match fd::read(fd, &mut chunk) {
            Ok(n) if n > 0 => {
                if let Some(input) = &mut self.input {
                    input.push(&chunk[..n], now);
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => {
                a.input = None;
                if self.input_once && !self.has_terminal {
                    // What still waits goes first.
                    self.input_ends = true;
                    self.input = self.input.take().filter(Sink::waits);
                }
            }
        }
    }

    /// Reads what is left of the output of a container that has ended.
    pub fn drain(&mut self, now: Duration) {
        for i in 0..2 {
            for _ in 0..DRAIN_READS_MAX {
                if !self.read_output(i, now) {
                    break;
                }
            }
        }
        self.input = None;
        self.terminal = None;
        self.drop_broken();
    }

    /// Lets somebody in; returns their ends of stdin, stdout and stderr.
    pub fn attach(&mut self, number: u64) -> Result<[Option<OwnedFd>; 3]> {
        if self.attached.len() >= ATTACHED_MAX {
            return Err(Error::check(format!("more than {ATTACHED_MAX} attached")));
        }
        let mut theirs = [None, None, None];
        let mut attached = Attached { number, input: None, outputs: [None, None] };
        if self.input.is_some() {
            let (read_end, write_end) = fd::pipe()?;
            fd::set_nonblocking(&read_end)?;
            attached.input = Some(read_end);
            theirs[0] = Some(write_end);
        }
        for i in 0..2 {
            if self.outputs[i].is_some() {
                let (read_end, write_end) = fd::pipe()?;
                attached.outputs[i] = Some(Sink::new(write_end)?);
                theirs[i + 1] = Some(read_end);
            }
        }
        self.attached.push(attached);
        Ok(theirs)
    }

    fn drop_broken(&mut self) {
        self.input = self.input.take().filter(|i| !i.broken);
        let ended: [bool; 2] = [self.outputs[0].is_none(), self.outputs[1].is_none()];
        for a in &mut self.attached {
            for (sink, ended) in a.outputs.iter_mut().zip(ended) {
                let over = sink.as_ref().is_some_and(|s| s.broken || (ended && !s.waits()));
                if over {
                    *sink = None;
                }
            }
        }
        // Who hears nothing any more is gone, whatever still comes from there.
        self.attached.retain(|a| a.outputs.iter().any(Option::is_some));
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.attached.iter().flat_map(|a| &a.outputs).flatten().filter_map(Sink::stalls_at).min()
    }

    pub fn tick(&mut self, now: Duration) {
        for sink in self.attached.iter_mut().flat_map(|a| &mut a.outputs).flatten() {
            if sink.stalls_at().is_some_and(|at| at <= now) {
                sink.broken = true;
            }
        }
        self.drop_broken();
    }

    pub fn reopen_log(&mut self) -> Result<()> {
        self.log.as_mut().map_or(Ok(()), ContainerLog::reopen)
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |t| tty::resize(t, columns, rows))
    }
}
