//! Network namespaces: made, pinned as a file, entered by a thread of their own, deleted.
//!
//! Invariant: the calling thread's namespace never changes; the work inside happens on a thread that ends with it.

use crate::error::{Context, Error, Result};
use crate::namespace;
use std::fs::File;
use std::path::Path;

/// The path that names the calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// File system type of a namespace file (`statfs`), in linux/magic.h `NSFS_MAGIC`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Makes a network namespace and pins it as a bind mount on the file `pin`, which must not be a pin yet.
/// The file is made when missing; its directory must exist. The pin lives until [`delete`] or a reboot.
pub fn create(pin: &Path) -> Result<()> {
    if is_pinned(pin) {
        return Err(Error::check(format!("network namespace {} exists already", pin.display())));
    }
    File::create(pin).what(|| format!("make the file {}", pin.display()))?;
    let made = on_thread(|| {
        namespace::unshare(namespace::NET)?;
        rustix::mount::mount_bind(OWN, pin).what(|| format!("pin a network namespace on {}", pin.display()))
    });
    if made.is_err() {
        // The file is ours and nothing is mounted on it: leave nothing behind.
        let _ = std::fs::remove_file(pin);
    }
    made
}

/// Whether the file pins a namespace.
pub fn is_pinned(pin: &Path) -> bool {
    rustix::fs::statfs(pin).is_ok_and(|s| s.f_type == NSFS_MAGIC)
}

/// Removes a pin and its file. The namespace itself goes when its last process, socket or pin is gone.
/// A missing pin is success.
pub fn delete(pin: &Path) -> Result<()> {
    use rustix::io::Errno;
    match rustix::mount::unmount(pin, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(e).what(|| format!("unpin network namespace {}", pin.display())),
    }
    match std::fs::remove_file(pin) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).what(|| format!("remove {}", pin.display()))
        }
        _ => Ok(()),
    }
}

/// Runs `work` on a thread inside the namespace that `pin` names (`None`: the caller's own) and waits for it.
pub fn run_in<T: Send>(pin: Option<&Path>, work: impl FnOnce() -> T + Send) -> Result<T> {
    match pin {
        None => Ok(work()),
        Some(pin) => on_thread(|| {
            namespace::enter_path(pin, namespace::NET)?;
            Ok(work())
        }),
    }
}

/// Starts a named thread inside the namespace that `pin` names (`None`: the caller's own). An error to enter it is
/// returned here, and `work` does not run.
pub fn spawn_in(
    pin: Option<&Path>,
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>> {
    let file = pin.map(open).transpose()?;
    let (entered, answer) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let result = file.map_or(Ok(()), |f| namespace::enter(f, namespace::NET));
            let inside = result.is_ok();
            let _ = entered.send(result);
            if inside {
                work();
            }
        })
        .what(|| format!("start thread {name}"))?;
    answer
        .recv()
        .map_err(|_| Error::check(format!("thread {name} ended before it entered its namespace")))??;
    Ok(thread)
}

/// An open descriptor of the pinned namespace, to hand to the kernel (moving links).
pub fn open(pin: &Path) -> Result<File> {
    File::open(pin).what(|| format!("open namespace {}", pin.display()))
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_inode() -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(OWN).unwrap().ino()
    }

    #[test]
    fn a_namespace_is_made_entered_and_deleted() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("ns");
        let outside = own_inode();
        create(&pin).unwrap();
        assert!(is_pinned(&pin));
        assert!(create(&pin).unwrap_err().what.contains("exists already"));
        let inside = run_in(Some(&pin), own_inode).unwrap();
        assert_ne!(inside, outside);
        assert_eq!(own_inode(), outside);
        let links =
            run_in(Some(&pin), || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
        assert!(!links.contains("eth0"), "{links}");
        delete(&pin).unwrap();
        assert!(!pin.exists());
        delete(&pin).unwrap();
        assert!(run_in(Some(&pin), || ()).is_err());
    }
}
