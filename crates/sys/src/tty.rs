//! Terminals: a pseudo-terminal of the current devpts, its size, and taking it as controlling terminal.

use crate::error::{Context, Error, Result};
use crate::process::check;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Opens a new terminal of the devpts at `/dev/pts`: master, slave. The multiplexer is checked to be a real one
/// (character 5:2 on a devpts), since the path lies in a container's reach.
pub fn open() -> Result<(OwnedFd, OwnedFd)> {
    let path = "/dev/pts/ptmx";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let master = rustix::fs::open(path, flags, Mode::empty()).what(|| format!("open {path}"))?;
    let stat = rustix::fs::fstat(&master).what(|| format!("stat {path}"))?;
    let filesystem = rustix::fs::fstatfs(&master).what(|| format!("stat {path}"))?;
    let is_multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (5, 2)
        && filesystem.f_type as u64 == DEVPTS_MAGIC;
    if !is_multiplexer {
        return Err(Error::check(format!("{path} is no terminal multiplexer")));
    }
    rustix::pty::unlockpt(&master).what(|| "unlock terminal".into())?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .what(|| "open terminal".into())?;
    let plain = rustix::fs::fcntl_getfl(&master).what(|| "read terminal flags".into())? - OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&master, plain).what(|| "set terminal flags".into())?;
    Ok((master, slave))
}

/// Makes `slave` the controlling terminal of this session's leader.
pub fn take(slave: impl AsFd) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a plain integer.
    check(
        i64::from(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }),
        "take the terminal",
    )
}

/// Sets the size in characters.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).what(|| "set terminal size".into())
}
