//! Image users: names and numbers resolved against the image's own `/etc/passwd` and `/etc/group`.
//!
//! Parsing is pure and bounded ([`FILE_MAX`]); reading looks through the layers from the top, confined to each.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Largest passwd or group file read, in bytes.
pub const FILE_MAX: u64 = 1 << 20;
/// Highest user or group number (upstream: `validation.IsValidUserID`).
pub const ID_MAX: i64 = i32::MAX as i64;

/// The user of a container's first process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, ascending, the primary one included.
    pub groups: Vec<u32>,
}

/// Files of an image that say who is who; empty texts when it has none.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl Accounts {
    /// Reads the two files through the layers, uppermost first.
    ///
    /// # Errors
    /// A file that is larger than [`FILE_MAX`] or cannot be read.
    pub fn read(layers: &[PathBuf]) -> Result<Self, String> {
        Ok(Self { passwd: read_through(layers, "passwd")?, group: read_through(layers, "group")? })
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut f = line.split(':');
            let (name, uid, gid) = (f.next()?, f.nth(1)?, f.next()?);
            Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        })
    }

    /// (name, gid, members)
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut f = line.split(':');
            let (name, gid) = (f.next()?, f.nth(1)?);
            Some((name, gid.parse().ok()?, f.next().unwrap_or_default()))
        })
    }

    /// Group numbers that list `name` as a member.
    fn memberships(&self, name: &str) -> Vec<u32> {
        self.groups().filter(|(_, _, m)| m.split(',').any(|x| x.trim() == name)).map(|(_, g, _)| g).collect()
    }
}

/// How the user is chosen.
#[derive(Debug, Clone, Default)]
pub struct Choice<'a> {
    /// The image's `User`.
    pub image: &'a str,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental: &'a [i64],
    /// `supplementalGroupsPolicy: Strict`: no groups from the image.
    pub strict: bool,
}

/// A number when the image's user is one (upstream: `getImageUser`); `Err` is the name.
pub fn image_uid(image: &str) -> Option<Result<i64, String>> {
    let user = image.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return None;
    }
    Some(user.parse::<i64>().map_err(|_| user.to_owned()))
}

fn number(id: i64, what: &str) -> Result<u32, String> {
    if !(0..=ID_MAX).contains(&id) {
        return Err(format!("{what} {id} is out of range, must be between 0 and {ID_MAX}"));
    }
    u32::try_from(id).map_err(|e| format!("{what} {id}: {e}"))
}

/// The user, as containerd finds it: the pod's numbers first, the image's user otherwise; groups of the image's
/// `/etc/group` are added unless strict.
///
/// # Errors
/// A name that the image does not know or a number out of range.
pub fn resolve(choice: &Choice<'_>, accounts: &Accounts) -> Result<User, String> {
    let (image_user, image_group) = match choice.image.split_once(':') {
        Some((u, g)) => (u, Some(g).filter(|g| !g.is_empty())),
        None => (choice.image, None),
    };
    let name;
    let (uid, mut gid) = match choice.run_as_user {
        Some(id) => {
            let uid = number(id, "runAsUser")?;
            let account = accounts.accounts().find(|a| a.uid == uid);
            name = account.as_ref().map(|a| a.name);
            (uid, account.map_or(0, |a| a.gid))
        }
        None if image_user.is_empty() => {
            name = accounts.accounts().find(|a| a.uid == 0).map(|a| a.name);
            (0, 0)
        }
        None => match image_user.parse::<i64>() {
            Ok(id) => {
                let uid = number(id, "image user")?;
                let account = accounts.accounts().find(|a| a.uid == uid);
                name = account.as_ref().map(|a| a.name);
                (uid, account.map_or(0, |a| a.gid))
            }
            Err(_) => {
                let found = accounts.accounts().find(|a| a.name == image_user);
                let a = found.ok_or_else(|| {
                    format!("unable to find user {image_user}: no matching entries in passwd file")
                })?;
                name = Some(a.name);
                (a.uid, a.gid)
            }
        },
    };
    if let (None, Some(group)) = (choice.run_as_user, image_group) {
        gid = match group.parse::<i64>() {
            Ok(id) => number(id, "image group")?,
            Err(_) => {
                let found = accounts.groups().find(|(n, _, _)| *n == group).map(|(_, g, _)| g);
                found.ok_or_else(|| {
                    format!("unable to find group {group}: no matching entries in group file")
                })?
            }
        };
    }
    if let Some(id) = choice.run_as_group {
        gid = number(id, "runAsGroup")?;
    }
    let mut groups = vec![gid];
    if let (false, Some(name)) = (choice.strict, name) {
        groups.extend(accounts.memberships(name));
    }
    for id in choice.supplemental {
        groups.push(number(*id, "supplementalGroups")?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, groups })
}

/// Text of `/etc/<name>` in the topmost layer that has it; a whiteout above hides what is below.
fn read_through(layers: &[PathBuf], name: &str) -> Result<String, String> {
    for layer in layers {
        match look(layer, name) {
            Found::No => {}
            Found::Hidden => return Ok(String::new()),
            Found::File(fd) => return read_bounded(fd, name),
        }
    }
    Ok(String::new())
}

enum Found {
    No,
    Hidden,
    File(OwnedFd),
}

fn look(layer: &std::path::Path, name: &str) -> Found {
    let Ok(root) = sys::rooted::open_root(layer) else { return Found::No };
    for whiteout in ["etc/.wh..wh..opq".to_owned(), format!("etc/.wh.{name}"), ".wh.etc".to_owned()] {
        if sys::rooted::place_without_links(&root, &whiteout).is_ok() {
            return match sys::rooted::open_file(&root, &format!("etc/{name}")) {
                Ok(fd) => Found::File(fd),
                Err(_) => Found::Hidden,
            };
        }
    }
    let whiteout = |path: &str| {
        let place = sys::rooted::place_without_links(&root, path).ok()?;
        let stat = rustix::fs::fstat(place.as_fd()).ok()?;
        Some(
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
                && stat.st_rdev == 0,
        )
    };
    if whiteout("etc").unwrap_or(false) || whiteout(&format!("etc/{name}")).unwrap_or(false) {
        return Found::Hidden;
    }
    match sys::rooted::open_file(&root, &format!("etc/{name}")) {
        Ok(fd) => Found::File(fd),
        Err(_) if opaque(&root) => Found::Hidden,
        Err(_) => Found::No,
    }
}

/// Whether `/etc` of the layer hides the ones below.
fn opaque(root: &OwnedFd) -> bool {
    let Ok(etc) = sys::rooted::open_file(root, "etc") else { return false };
    let mut value = [0u8; 1];
    matches!(rustix::fs::fgetxattr(&etc, "trusted.overlay.opaque", &mut value[..]), Ok(1)) && value[0] == b'y'
}

fn read_bounded(fd: OwnedFd, name: &str) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::from(fd);
    let kind = file.metadata().map_err(|e| format!("read /etc/{name} of the image: {e}"))?;
    if !kind.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("read /etc/{name} of the image: {e}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("/etc/{name} of the image is larger than {FILE_MAX} bytes"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/false\nbroken\n".into(),
            group: "root:x:0:\nweb:x:102:\nextra:x:200:web,root\nlogs:x:300:web\n".into(),
        }
    }

    fn user(c: Choice<'_>) -> Result<(u32, u32, Vec<u32>), String> {
        resolve(&c, &accounts()).map(|u| (u.uid, u.gid, u.groups))
    }

    #[test]
    fn choices() {
        assert_eq!(user(Choice::default()), Ok((0, 0, vec![0, 200])));
        assert_eq!(user(Choice { image: "web", ..Choice::default() }), Ok((101, 102, vec![102, 200, 300])));
        assert_eq!(user(Choice { image: "web:extra", ..Choice::default() }), Ok((101, 200, vec![200, 300])));
        assert_eq!(user(Choice { image: "1000:2000", ..Choice::default() }), Ok((1000, 2000, vec![2000])));
        let pod = Choice {
            image: "web",
            run_as_user: Some(7),
            run_as_group: Some(8),
            supplemental: &[9],
            ..Choice::default()
        };
        assert_eq!(user(pod), Ok((7, 8, vec![8, 9])));
        let strict = Choice { image: "web", strict: true, ..Choice::default() };
        assert_eq!(user(strict), Ok((101, 102, vec![102])));
        assert!(
            user(Choice { image: "nobody", ..Choice::default() })
                .unwrap_err()
                .contains("unable to find user nobody")
        );
        assert!(
            user(Choice { image: "99999999999", ..Choice::default() }).unwrap_err().contains("out of range")
        );
    }

    #[test]
    fn layers_hide_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |n: &str, files: &[(&str, &str)]| {
            let d = dir.path().join(n);
            std::fs::create_dir_all(d.join("etc")).unwrap();
            for (f, t) in files {
                std::fs::write(d.join("etc").join(f), t).unwrap();
            }
            d
        };
        let base = layer("base", &[("passwd", "low"), ("group", "g")]);
        let top = layer("top", &[("passwd", "high")]);
        let gone = layer("gone", &[(".wh.group", "")]);
        let read = |l: &[&PathBuf]| {
            let l: Vec<_> = l.iter().map(|p| (*p).clone()).collect();
            let a = Accounts::read(&l).unwrap();
            (a.passwd, a.group)
        };
        assert_eq!(read(&[&top, &base]), ("high".into(), "g".into()));
        assert_eq!(read(&[&gone, &top, &base]), ("high".into(), String::new()));
    }
}
