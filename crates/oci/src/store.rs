//! The content store: blobs by digest, unpacked layers by their content, images by name.
//!
//! Layout under the root: `blobs/sha256/HEX`, `layers/HEX/` (unpacked, named by diff id chain), `images.json`.
//!
//! Several processes may use one store: the index is read again when another has written it, its writers take turns by
//! a lock on `index.lock`, and nothing is collected while somebody adds (`content.lock`).

use crate::error::{Error, IoContext as _, Result, invalid};
use crate::reference::Reference;
use crate::unpack;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// The largest manifest or configuration that is read (registries agree on 4 MiB).
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;
/// Layers of one image.
const LAYERS_MAX: usize = 127;

/// What the image says of how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: String,
    pub volumes: Vec<String>,
}

/// An image that is here.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration: the image's id.
    pub id: String,
    /// Full names that point to it.
    pub names: Vec<String>,
    /// `NAME@sha256:…` of manifests by which it is known.
    pub repo_digests: Vec<String>,
    /// Layer digests, lowest first, as stored.
    pub layers: Vec<String>,
    /// Digests of the unpacked layers, lowest first.
    pub diff_ids: Vec<String>,
    /// Bytes of all blobs.
    pub size: u64,
    /// Somebody put it here by hand: it counts as pulled where no registry can be reached.
    #[serde(default)]
    pub imported: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Image>,
}

/// The index, and the file state that it was read at.
#[derive(Default)]
struct Loaded {
    index: Index,
    stamp: Option<(u64, SystemTime)>,
}

/// Keeps what was just added from being collected before an image names it.
pub struct Adding {
    _lock: File,
}

/// A blob that is being stored.
pub struct BlobWriter {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub struct ImageStore {
    root: PathBuf,
    index: Mutex<Loaded>,
    /// One unpacking at a time: layers of different images are often the same.
    unpacking: Mutex<()>,
    temporary: AtomicU64,
}

impl ImageStore {
    pub fn open(root: &Path) -> Result<Self> {
        for dir in ["blobs/sha256", "layers"] {
            let path = root.join(dir);
            fs::create_dir_all(&path).at("create", &path)?;
        }
        let store = Self {
            root: root.to_owned(),
            index: Mutex::default(),
            unpacking: Mutex::new(()),
            temporary: AtomicU64::new(0),
        };
        store.refresh(&mut store.lock())?;
        store.sweep();
        Ok(store)
    }

    /// Reads the index again if it is another file than the one read last.
    fn refresh(&self, loaded: &mut Loaded) -> Result<()> {
        let path = self.root.join("images.json");
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                *loaded = Loaded::default();
                return Ok(());
            }
            Err(e) => return Err(e).at("read", &path),
        };
        let stamp = Some((meta.ino(), meta.modified().at("read", &path)?));
        if loaded.stamp != stamp {
            let bytes = fs::read(&path).at("read", &path)?;
            loaded.index =
                serde_json::from_slice(&bytes).map_err(|e| invalid(path.display().to_string(), e))?;
            loaded.stamp = stamp;
        }
        Ok(())
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.root.join(name);
        File::options().create(true).truncate(false).write(true).open(&path).at("open", &path)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// To be held from the first blob stored until its image is registered.
    pub fn adding(&self) -> Result<Adding> {
        let file = self.lock_file("content.lock")?;
        file.lock_shared().at("lock", &self.root)?;
        Ok(Adding { _lock: file })
    }

    /// Removes what an earlier run left half done.
    fn sweep(&self) {
        // Temporary names hold the process that writes them.
        let over = |name: &str| {
            let process = name.strip_prefix(".tmp").and_then(|rest| rest.split('-').next());
            process.is_some_and(|p| !Path::new("/proc").join(p).exists())
        };
        for dir in ["blobs/sha256", "layers"] {
            for entry in fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten() {
                if over(&entry.file_name().to_string_lossy()) {
                    let path = entry.path();
                    let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                }
            }
        }
    }

    pub(crate) fn temporary(&self, dir: &str) -> PathBuf {
        let n = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.root.join(dir).join(format!(".tmp{}-{n}", std::process::id()))
    }

    pub fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        if !crate::reference::is_digest(digest) {
            return Err(invalid("a digest", format!("{digest:?} is not sha256:HEX")));
        }
        Ok(self.root.join("blobs/sha256").join(&digest["sha256:".len()..]))
    }

    pub fn has_blob(&self, digest: &str) -> bool {
        self.blob_path(digest).is_ok_and(|p| p.exists())
    }

    /// Stores what a reader gives; the digest, when given, must come out. Returns digest and size in bytes.
    pub fn put_blob(&self, from: impl Read, wanted: Option<&str>) -> Result<(String, u64)> {
        self.write_blob(wanted, |blob| {
            // Copying takes the reader's buffer.
            io::copy(&mut BufReader::with_capacity(COPY_BYTES, from), blob).map(drop)
        })
    }

    /// As [`Self::put_blob`], of what is written.
    pub fn write_blob(
        &self,
        wanted: Option<&str>,
        write: impl FnOnce(&mut BlobWriter) -> io::Result<()>,
    ) -> Result<(String, u64)> {
        let path = self.temporary("blobs/sha256");
        let file = File::create(&path).at("create", &path)?;
        let mut blob = BlobWriter { file, hash: Sha256::new(), size: 0 };
        let result = write(&mut blob).and_then(|()| blob.file.sync_all());
        let digest = digest_text(&blob.hash.finalize());
        let mismatch = wanted.filter(|w| *w != digest);
        if result.is_err() || mismatch.is_some() {
            let _ = fs::remove_file(&path);
        }
        result.at("write", &path)?;
        if let Some(wanted) = mismatch {
            return Err(Error::Digest { what: "a blob".into(), wanted: wanted.into(), found: digest });
        }
        let to = self.blob_path(&digest)?;
        fs::rename(&path, &to).at("rename", &to)?;
        Ok((digest, blob.size))
    }

    /// Reads a JSON blob of bounded size.
    pub fn document(&self, digest: &str) -> Result<Value> {
        let path = self.blob_path(digest)?;
        let file = File::open(&path).at("open", &path)?;
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).at("read", &path)?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(invalid(digest, "the document is larger than 4 MiB"));
        }
        serde_json::from_slice(&bytes).map_err(|e| invalid(digest, e))
    }

    /// Registers an image that was put here by hand, by the digest of its manifest, whose blobs are stored.
    pub fn register(&self, manifest_digest: &str, names: &[Reference]) -> Result<Image> {
        let mut image = self.described(manifest_digest)?;
        image.names = names.iter().map(ToString::to_string).collect();
        image.repo_digests = names.iter().map(|n| format!("{}@{manifest_digest}", n.name())).collect();
        image.imported = true;
        self.add(image)
    }

    /// Registers an image that a registry has as `repo_digest` (`NAME@sha256:…`).
    pub fn register_pulled(
        &self,
        manifest_digest: &str,
        names: &[Reference],
        repo_digest: &str,
    ) -> Result<Image> {
        let mut image = self.described(manifest_digest)?;
        image.names = names.iter().map(ToString::to_string).collect();
        image.repo_digests = vec![repo_digest.to_owned()];
        self.add(image)
    }

    /// An image as its manifest describes it, without names.
    fn described(&self, manifest_digest: &str) -> Result<Image> {
        let manifest = self.document(manifest_digest)?;
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let id = text(&manifest["config"]["digest"]);
        let config = self.document(&id)?;
        let list = |v: &Value| -> Vec<String> { v.as_array().into_iter().flatten().map(text).collect() };
        let diff_ids = list(&config["rootfs"]["diff_ids"]);
        let layers: Vec<String> =
            manifest["layers"].as_array().into_iter().flatten().map(|l| text(&l["digest"])).collect();
        if layers.len() != diff_ids.len() || layers.len() > LAYERS_MAX {
            return Err(invalid(
                manifest_digest,
                format!("{} layers, {} diff ids", layers.len(), diff_ids.len()),
            ));
        }
        for layer in &layers {
            if !self.has_blob(layer) {
                return Err(invalid(manifest_digest, format!("the layer {layer} is missing")));
            }
        }
        let sizes = manifest["layers"].as_array().into_iter().flatten().filter_map(|l| l["size"].as_u64());
        let size = sizes.sum::<u64>() + manifest["config"]["size"].as_u64().unwrap_or(0);
        Ok(Image { id, names: Vec::new(), repo_digests: Vec::new(), layers, diff_ids, size, imported: false })
    }

    fn add(&self, mut image: Image) -> Result<Image> {
        let _turn = self.turn()?;
        let mut loaded = self.lock();
        self.refresh(&mut loaded)?;
        let index = &mut loaded.index;
        // A name points to one image.
        for other in index.images.values_mut() {
            other.names.retain(|n| !image.names.contains(n));
        }
        if let Some(known) = index.images.get(&image.id) {
            merge(&mut image.names, &known.names);
            merge(&mut image.repo_digests, &known.repo_digests);
            image.imported |= known.imported;
        }
        index.images.insert(image.id.clone(), image.clone());
        self.save(index)?;
        Ok(image)
    }

    /// The turn to write the index, among all processes.
    fn turn(&self) -> Result<File> {
        let file = self.lock_file("index.lock")?;
        file.lock().at("lock", &self.root)?;
        Ok(file)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The index as it is now; one that cannot be read leaves the one known.
    fn current(&self) -> std::sync::MutexGuard<'_, Loaded> {
        let mut loaded = self.lock();
        let _ = self.refresh(&mut loaded);
        loaded
    }

    fn save(&self, index: &Index) -> Result<()> {
        let path = self.root.join("images.json");
        let tmp = self.root.join("images.json.tmp");
        let bytes = serde_json::to_vec_pretty(index).map_err(|e| invalid("the image index", e))?;
        fs::write(&tmp, bytes).at("write", &tmp)?;
        fs::rename(&tmp, &path).at("rename", &path)
    }

    pub fn list(&self) -> Vec<Image> {
        self.current().index.images.values().cloned().collect()
    }

    /// Finds an image by name, id, or name with digest.
    pub fn find(&self, text: &str) -> Option<Image> {
        let loaded = self.current();
        let index = &loaded.index;
        if let Some(image) = index.images.get(text) {
            return Some(image.clone());
        }
        let reference = Reference::parse(text).ok()?;
        let full = reference.to_string();
        let by_digest = reference.digest.as_ref().map(|d| format!("{}@{d}", reference.name()));
        index
            .images
            .values()
            .find(|i| {
                i.names.contains(&full) || by_digest.as_ref().is_some_and(|d| i.repo_digests.contains(d))
            })
            .cloned()
    }

    pub fn config(&self, image: &Image) -> Result<ImageConfig> {
        let v = self.document(&image.id)?;
        let c = &v["config"];
        let text = |f: &str| c[f].as_str().unwrap_or("").to_owned();
        let list = |f: &str| {
            c[f].as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
        };
        Ok(ImageConfig {
            user: text("User"),
            env: list("Env"),
            entrypoint: list("Entrypoint"),
            cmd: list("Cmd"),
            working_dir: text("WorkingDir"),
            stop_signal: text("StopSignal"),
            volumes: c["Volumes"].as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect(),
        })
    }

    /// The image's layers as directories, uppermost first; unpacks those that are not there yet.
    pub fn layer_dirs(&self, image: &Image) -> Result<Vec<PathBuf>> {
        let _one = self.unpacking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut dirs: Vec<PathBuf> = Vec::new();
        let mut chain = String::new();
        for (layer, diff_id) in image.layers.iter().zip(&image.diff_ids) {
            // What a layer unpacks to depends on the layers below it (links), so the chain names it.
            chain = if chain.is_empty() {
                diff_id.clone()
            } else {
                digest_text(&Sha256::digest(format!("{chain} {diff_id}")))
            };
            let hash = chain.strip_prefix("sha256:").unwrap_or(&chain);
            if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid("a diff id", format!("{diff_id:?} is not sha256:HEX")));
            }
            let dir = self.root.join("layers").join(hash);
            if !dir.exists() {
                self.unpack(layer, diff_id, &dirs, &dir)?;
            }
            dirs.insert(0, dir);
        }
        Ok(dirs)
    }

    fn unpack(&self, layer: &str, diff_id: &str, below: &[PathBuf], dir: &Path) -> Result<()> {
        let tmp = self.temporary("layers");
        fs::create_dir(&tmp).at("create", &tmp)?;
        let blob = self.blob_path(layer)?;
        let found = unpack::layer(&blob, &tmp, below).and_then(|found| {
            if found == diff_id {
                Ok(())
            } else {
                Err(Error::Digest { what: format!("the layer {layer}"), wanted: diff_id.into(), found })
            }
        });
        if let Err(e) = found {
            let _ = fs::remove_dir_all(&tmp);
            return Err(e);
        }
        match fs::rename(&tmp, dir) {
            // Another process was faster; what it made is the same.
            Err(_) if dir.is_dir() => {
                let _ = fs::remove_dir_all(&tmp);
                Ok(())
            }
            other => other.at("rename", dir),
        }
    }

    /// Forgets a name, and the image with its blobs and layers when that was its last. `true` when something was there.
    pub fn remove(&self, text: &str) -> Result<bool> {
        let content = self.lock_file("content.lock")?;
        content.lock().at("lock", &self.root)?;
        let _turn = self.turn()?;
        let Some(image) = self.find(text) else { return Ok(false) };
        let mut loaded = self.lock();
        let index = &mut loaded.index;
        let full = Reference::parse(text).map(|r| r.to_string()).unwrap_or_default();
        let Some(entry) = index.images.get_mut(&image.id) else { return Ok(false) };
        if entry.names.len() > 1 && entry.names.contains(&full) {
            entry.names.retain(|n| *n != full);
        } else {
            index.images.remove(&image.id);
        }
        self.save(index)?;
        self.collect(index);
        Ok(true)
    }

    /// Removes blobs and layers that no image uses.
    fn collect(&self, index: &Index) {
        let hash = |d: &String| d.trim_start_matches("sha256:").to_owned();
        let mut keep: Vec<String> = Vec::new();
        let mut layers: Vec<String> = Vec::new();
        for image in index.images.values() {
            keep.push(hash(&image.id));
            keep.extend(image.layers.iter().map(hash));
            keep.extend(
                image.repo_digests.iter().filter_map(|d| d.split_once('@')).map(|(_, d)| hash(&d.to_owned())),
            );
            let mut chain = String::new();
            for d in &image.diff_ids {
                chain = if chain.is_empty() {
                    d.clone()
                } else {
                    digest_text(&Sha256::digest(format!("{chain} {d}")))
                };
                layers.push(hash(&chain));
            }
        }
        for (dir, keep) in [("blobs/sha256", keep), ("layers", layers)] {
            for entry in fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.starts_with('.') && !keep.contains(&name) {
                    let path = entry.path();
                    let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                }
            }
        }
    }
}

fn merge(into: &mut Vec<String>, from: &[String]) {
    for f in from {
        if !into.contains(f) {
            into.push(f.clone());
        }
    }
}

/// The name of content by its hash.
pub(crate) fn digest_text(hash: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(hash))
}

/// A reader of a blob's plain content, whatever its compression (told by its first bytes).
pub(crate) fn decompressed(path: &Path) -> Result<Box<dyn Read>> {
    let mut magic = [0u8; 4];
    let n = File::open(path).at("open", path)?.read(&mut magic).at("read", path)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path).at("open", path)?);
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(file)
                .map_err(|e| invalid(path.display().to_string(), e))?,
        ),
        _ => Box::new(file),
    })
}
