//! Errors of kernel calls: what was being done and the kernel's answer, as one short line.

use std::fmt;
use std::io;

/// A kernel call failed.
#[derive(Debug, Clone)]
pub struct Error {
    /// What was being done, with the object's name.
    pub what: String,
    /// The kernel's error number; 0 when the failure is our own check.
    pub errno: i32,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failed check of our own, with no kernel error behind it.
    pub fn check(what: impl Into<String>) -> Self {
        Self { what: what.into(), errno: 0 }
    }

    /// The calling thread's last kernel error.
    pub fn last(what: impl Into<String>) -> Self {
        Self { what: what.into(), errno: io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            0 => f.write_str(&self.what),
            e => write!(f, "{}: {}", self.what, errno_text(e)),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        match e.errno {
            0 => io::Error::other(e.what),
            n => io::Error::new(io::Error::from_raw_os_error(n).kind(), e.to_string()),
        }
    }
}

/// The text of an error number in lower case, as container tools print it: `no such file or directory`.
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// Adds what was being done to a bare kernel error.
pub trait Context<T> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| match e.raw_os_error() {
            Some(errno) => Error { what: what(), errno },
            None => Error { what: format!("{}: {e}", what()), errno: 0 },
        })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error { what: what(), errno: e.raw_os_error() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_container_tools() {
        assert_eq!(errno_text(libc::ENOENT), "no such file or directory");
        let e = Error { what: "open /x".into(), errno: libc::EACCES };
        assert_eq!(e.to_string(), "open /x: permission denied");
    }
}
