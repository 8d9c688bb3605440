//! Layers to directories: a tar archive laid out as overlayfs wants it.
//!
//! Paths are resolved component by component in the merged view of this layer and those below it, following links only
//! inside that view, so an archive can neither leave its directory nor bury a link of a lower layer.

use crate::error::{IoContext as _, Result, invalid};
use crate::store::{decompressed, digest_text};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// Links followed in one path (the kernel's own limit).
const LINKS_MAX: usize = 40;
/// Entries of one layer.
const ENTRIES_MAX: usize = 2_000_000;

/// Unpacks a layer blob into an empty directory; `below` are the layers under it, uppermost first. Returns the digest
/// of the plain archive.
pub fn layer(blob: &Path, dir: &Path, below: &[PathBuf]) -> Result<String> {
    let mut reader = Hashing { inner: decompressed(blob)?, hash: Sha256::new() };
    let view = View { dir, below };
    let mut times: Vec<(PathBuf, Timespec)> = Vec::new();
    {
        let mut archive = Archive::new(&mut reader);
        let entries = archive.entries().at("read", blob)?;
        for (n, entry) in entries.enumerate() {
            if n >= ENTRIES_MAX {
                return Err(invalid(blob.display().to_string(), "too many entries"));
            }
            view.entry(entry.at("read", blob)?, &mut times)?;
        }
    }
    // What follows the archive's end belongs to the digest too.
    io::copy(&mut reader, &mut io::sink()).at("read", blob)?;
    // Directory times last: filling a directory changes them.
    for (path, mtime) in times.into_iter().rev() {
        set_time(&path, mtime);
    }
    Ok(digest_text(&reader.hash.finalize()))
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

struct View<'a> {
    dir: &'a Path,
    below: &'a [PathBuf],
}

impl View<'_> {
    fn entry<R: Read>(&self, mut entry: Entry<'_, R>, times: &mut Vec<(PathBuf, Timespec)>) -> Result<()> {
        let raw = entry.path().map_err(|e| invalid("a path in the archive", e))?.into_owned();
        let Some((parent, name)) = split(&raw)? else {
            return Ok(());
        };
        let parent = self.resolve(&parent)?;
        let host_parent = self.make_parent(&parent)?;
        if name == ".wh..wh..opq" {
            return rustix::fs::setxattr(&host_parent, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                .at("mark", &host_parent);
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            let path = host_parent.join(plain(gone)?);
            remove(&path)?;
            return rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)
                .at("white out", &path);
        }
        let path = host_parent.join(&name);
        self.make(&mut entry, &path, times)
    }

    fn make<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        times: &mut Vec<(PathBuf, Timespec)>,
    ) -> Result<()> {
        let header = entry.header();
        let mode = header.mode().map_err(|e| invalid("an entry's mode", e))? & 0o7777;
        let (uid, gid) = owner(entry)?;
        let mtime = Timespec { tv_sec: header.mtime().unwrap_or(0) as i64, tv_nsec: 0 };
        let kind = header.entry_type();
        let is_dir = kind == EntryType::Directory;
        let keep = is_dir && fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
        if !keep {
            remove(path)?;
        }
        match kind {
            EntryType::Directory if keep => {}
            EntryType::Directory => fs::create_dir(path).at("create", path)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = fs::File::create_new(path).at("create", path)?;
                io::copy(entry, &mut file).at("write", path)?;
            }
            EntryType::Symlink => {
                let target =
                    entry.link_name().ok().flatten().ok_or_else(|| invalid("a link", "it has no target"))?;
                symlink(&target, path).at("link", path)?;
            }
            EntryType::Link => return self.hard_link(entry, path),
            EntryType::Char | EntryType::Block => {
                let major = header.device_major().ok().flatten().unwrap_or(0);
                let minor = header.device_minor().ok().flatten().unwrap_or(0);
                let ty =
                    if kind == EntryType::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(CWD, path, ty, Mode::from_raw_mode(mode), device)
                    .at("make device", path)?;
            }
            EntryType::Fifo => {
                rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0)
                    .at("make pipe", path)?;
            }
            // Extended headers were read by the tar crate; anything else has no file.
            _ => return Ok(()),
        }
        let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(CWD, path, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW).at("chown", path)?;
        xattrs(entry, path)?;
        if kind != EntryType::Symlink {
            // After chown, which clears set-id bits.
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("chmod", path)?;
        }
        if is_dir {
            times.push((path.to_owned(), mtime));
        } else {
            set_time(path, mtime);
        }
        Ok(())
    }

    fn hard_link<R: Read>(&self, entry: &Entry<'_, R>, path: &Path) -> Result<()> {
        let target =
            entry.link_name().ok().flatten().ok_or_else(|| invalid("a hard link", "it has no target"))?;
        let Some((parent, name)) = split(&target)? else {
            return Err(invalid("a hard link", "its target is the root"));
        };
        let parent = self.resolve(&parent)?;
        let here = self.dir.join(&parent).join(&name);
        if fs::symlink_metadata(&here).is_ok() {
            return fs::hard_link(&here, path).at("link", path);
        }
        // The target is in a layer below: overlayfs cannot link across layers, so its content is copied up.
        let below =
            self.below.iter().map(|d| d.join(&parent).join(&name)).find(|p| fs::symlink_metadata(p).is_ok());
        let from =
            below.ok_or_else(|| invalid("a hard link", format!("{} does not exist", target.display())))?;
        let meta = fs::symlink_metadata(&from).at("read", &from)?;
        if !meta.is_file() {
            return Err(invalid("a hard link", format!("{} is not a file", target.display())));
        }
        fs::copy(&from, path).at("copy", path)?;
        copy_attributes(&meta, path)
    }

    /// The path without links, relative to the root of the merged view.
    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let mut todo: VecDeque<String> = components(path)?.into();
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match self.link_at(&next) {
                Some(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(invalid(
                            "a path in the archive",
                            format!("{} has too many links", path.display()),
                        ));
                    }
                    if target.is_absolute() {
                        done = PathBuf::new();
                    }
                    for part in link_components(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                None => done = next,
            }
        }
        Ok(done)
    }

    /// The target of a link in the merged view.
    fn link_at(&self, path: &Path) -> Option<PathBuf> {
        for dir in std::iter::once(self.dir).chain(self.below.iter().map(PathBuf::as_path)) {
            let at = dir.join(path);
            if let Ok(meta) = fs::symlink_metadata(&at) {
                return if meta.is_symlink() { fs::read_link(&at).ok() } else { None };
            }
        }
        None
    }

    /// Makes the directories of a resolved path in this layer, with the attributes that they have below.
    fn make_parent(&self, path: &Path) -> Result<PathBuf> {
        let mut at = self.dir.to_owned();
        let mut relative = PathBuf::new();
        for part in path.components() {
            at.push(part);
            relative.push(part);
            match fs::symlink_metadata(&at) {
                Ok(m) if m.is_dir() => continue,
                Ok(_) => remove(&at)?,
                Err(_) => {}
            }
            fs::create_dir(&at).at("create", &at)?;
            let below =
                self.below.iter().map(|d| d.join(&relative)).find_map(|p| fs::symlink_metadata(p).ok());
            match below.filter(fs::Metadata::is_dir) {
                Some(meta) => copy_attributes(&meta, &at)?,
                None => fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).at("chmod", &at)?,
            }
        }
        Ok(at)
    }
}

fn copy_attributes(meta: &fs::Metadata, to: &Path) -> Result<()> {
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid())).at("chown", to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777)).at("chmod", to)
}

/// User and group ids, refused rather than wrapped when they do not fit (CVE-2024-40635).
fn owner<R: Read>(entry: &Entry<'_, R>) -> Result<(u32, u32)> {
    let id = |n: io::Result<u64>| {
        let n = n.map_err(|e| invalid("an entry's owner", e))?;
        u32::try_from(n).map_err(|_| invalid("an entry's owner", format!("{n} is too large")))
    };
    Ok((id(entry.header().uid())?, id(entry.header().gid())?))
}

fn xattrs<R: Read>(entry: &mut Entry<'_, R>, path: &Path) -> Result<()> {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return Ok(()) };
    for extension in extensions.flatten() {
        let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) else { continue };
        // overlayfs attributes are ours alone to write.
        if name.starts_with("trusted.overlay.") {
            continue;
        }
        rustix::fs::lsetxattr(path, name, extension.value_bytes(), XattrFlags::empty())
            .at("set attribute of", path)?;
    }
    Ok(())
}

fn set_time(path: &Path, mtime: Timespec) {
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    // A time that cannot be set is no reason to refuse an image.
    let _ = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path).at("remove", path),
        Ok(_) => fs::remove_file(path).at("remove", path),
        Err(_) => Ok(()),
    }
}

fn plain(name: &str) -> Result<&str> {
    if matches!(name, "" | "." | "..") || name.contains('/') {
        return Err(invalid("a whiteout", format!("{name:?} is not a file name")));
    }
    Ok(name)
}

/// A path's parts; `..` is refused in an archive's own paths.
fn components(path: &Path) -> Result<Vec<String>> {
    let text = path.to_str().ok_or_else(|| invalid("a path in the archive", "it is not UTF-8"))?;
    let parts: Vec<String> = text.split('/').filter(|p| !matches!(*p, "" | ".")).map(str::to_owned).collect();
    if parts.iter().any(|p| p == "..") {
        return Err(invalid("a path in the archive", format!("{text:?} has '..' in it")));
    }
    Ok(parts)
}

/// A link's parts; `..` is allowed and stays inside the root.
fn link_components(path: &Path) -> Vec<String> {
    let text = path.to_string_lossy().into_owned();
    text.split('/').filter(|p| !matches!(*p, "" | ".")).map(str::to_owned).collect()
}

/// Parent and name; `None` for the root itself.
fn split(path: &Path) -> Result<Option<(PathBuf, String)>> {
    let mut parts = components(path)?;
    Ok(parts.pop().map(|name| (parts.iter().collect(), name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data) in entries {
            let mut h = tar::Header::new_gnu();
            h.set_entry_type(*kind);
            h.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o644 });
            h.set_uid(u64::from(rustix::process::getuid().as_raw()));
            h.set_gid(u64::from(rustix::process::getgid().as_raw()));
            h.set_mtime(1_700_000_000);
            let body = if matches!(kind, EntryType::Symlink | EntryType::Link) {
                h.set_link_name_literal(data).expect("a link name");
                ""
            } else {
                data
            };
            h.set_size(body.len() as u64);
            // The raw name: the builder would refuse hostile ones.
            let name = &mut h.as_gnu_mut().expect("gnu").name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            h.set_cksum();
            builder.append(&h, body.as_bytes()).expect("appended");
        }
        builder.into_inner().expect("finished")
    }

    fn unpack(
        root: &Path,
        name: &str,
        entries: &[(&str, EntryType, &str)],
        below: &[PathBuf],
    ) -> Result<PathBuf> {
        let blob = root.join(format!("{name}.tar"));
        fs::write(&blob, archive(entries)).expect("written");
        let dir = root.join(name);
        fs::create_dir(&dir).expect("made");
        layer(&blob, &dir, below)?;
        Ok(dir)
    }

    use EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn a_link_of_a_lower_layer_is_followed_and_not_buried() {
        let root = tempfile::tempdir().expect("a directory");
        let lower = unpack(root.path(), "a", &[("usr/lib", Directory, ""), ("lib", Symlink, "usr/lib")], &[])
            .expect("lower");
        let upper = unpack(root.path(), "b", &[("lib/x.so", Regular, "x")], &[lower]).expect("upper");
        assert_eq!(fs::read_to_string(upper.join("usr/lib/x.so")).expect("there"), "x");
        assert!(fs::symlink_metadata(upper.join("lib")).is_err(), "the link stays visible");
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = root.path().join("outside");
        fs::create_dir(&outside).expect("made");
        let up = format!("../../../../../..{}", outside.display());
        let hostile: Vec<(&str, EntryType, &str)> = vec![
            ("out", Symlink, &up),
            ("out/x", Regular, "x"),
            ("abs", Symlink, "/outside"),
            ("abs/y", Regular, "y"),
        ];
        unpack(root.path(), "a", &hostile, &[]).expect("unpacked inside");
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
        assert!(unpack(root.path(), "b", &[("../evil", Regular, "x")], &[]).is_err());
        assert!(!root.path().join("evil").exists());
    }

    #[test]
    fn hard_links_and_redefinitions() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = unpack(
            root.path(),
            "a",
            &[
                ("f", Regular, "1"),
                ("g", Link, "f"),
                ("d", Regular, "x"),
                ("d", Directory, ""),
                ("d/e", Regular, "2"),
            ],
            &[],
        )
        .expect("unpacked");
        assert_eq!(fs::read_to_string(dir.join("g")).expect("there"), "1");
        assert_eq!(fs::read_to_string(dir.join("d/e")).expect("there"), "2");
    }
}
