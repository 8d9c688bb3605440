//! Finding and naming the program: its path, its environment, and the words for why it does not run.
//!
//! Invariant: the words are those that container tools use, because people search for them.

use sys::error::{Error, errno_text};
use sys::rooted;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Largest part of the image's /etc/passwd that is read for a home directory, in bytes.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// The environment with what every program may expect: PATH, HOSTNAME, TERM on a terminal, HOME.
pub fn environment(given: &[String], uid: u32, tty: bool, hostname: &str) -> Vec<String> {
    let mut env = given.to_vec();
    let mut default = |name: &str, value: &dyn Fn() -> String| {
        if !env.iter().any(|e| e.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))) {
            env.push(format!("{name}={}", value()));
        }
    };
    default("PATH", &|| DEFAULT_PATH.to_owned());
    if !hostname.is_empty() {
        default("HOSTNAME", &|| hostname.to_owned());
    }
    if tty {
        default("TERM", &|| "xterm".to_owned());
    }
    default("HOME", &|| home(uid));
    env
}

/// upstream: runc sets HOME from the container's own /etc/passwd.
fn home(uid: u32) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let read =
        std::fs::File::open("/etc/passwd").and_then(|f| f.take(PASSWD_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() {
        return "/".to_owned();
    }
    home_in(&text, uid).unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2).unwrap_or_default().to_owned())
    })
}

/// The path of the program in the current root, by the container's own PATH.
///
/// upstream: os/exec#LookPath, whose texts reach the user through runc.
pub fn find(args: &[String], env: &[String]) -> Result<String, String> {
    let Some(name) = args.first() else { return Err("no command specified".to_owned()) };
    if name.contains('/') {
        return match rooted::is_executable(name) {
            Ok(true) => Ok(name.clone()),
            Ok(false) => Err(format!("exec: {name:?}: permission denied")),
            Err(e) if e.what.is_empty() => Err(format!("exec: {name:?}: {}", errno_text(e.errno))),
            Err(e) => Err(format!("exec: {name:?}: {e}")),
        };
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") })
        .find(|candidate| rooted::is_executable(candidate).unwrap_or(false))
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

/// Why the kernel did not execute the program.
pub fn exec_error(name: &str, e: &Error) -> String {
    match e.errno {
        0 => e.to_string(),
        errno => format!("exec {name}: {}", errno_text(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_do_not_override() {
        let env = environment(&["HOME=/x".into(), "PATH=/p".into()], 0, true, "pod");
        assert_eq!(env, ["HOME=/x", "PATH=/p", "HOSTNAME=pod", "TERM=xterm"]);
    }

    #[test]
    fn homes_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nweb:x:101:1::/srv/web:/sbin/nologin\n";
        assert_eq!(home_in(passwd, 101).as_deref(), Some("/srv/web"));
        assert_eq!(home_in(passwd, 7), None);
    }

    #[test]
    fn errors_read_as_people_know_them() {
        let find = |name: &str| find(&[name.to_owned()], &["PATH=/nowhere::/usr/bin:/bin".to_owned()]);
        assert!(find("sh").is_ok());
        assert_eq!(find("nope").unwrap_err(), "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(find("/no/pe").unwrap_err(), "exec: \"/no/pe\": stat /no/pe: no such file or directory");
        assert_eq!(find("/etc/passwd").unwrap_err(), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(find("/etc").map_err(|e| e.contains("is a directory")), Err(true));
    }
}
