//! Archives to images: OCI layouts (a directory or a tar) and docker-archives.

use crate::error::{Error, IoContext as _, Result, invalid};
use crate::reference::Reference;
use crate::store::{Image, ImageStore};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

/// Manifests of one archive.
const MANIFESTS_MAX: usize = 10_000;
/// Bytes of `index.json` or `manifest.json`.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Go's name of this machine's processor.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Imports every image of an archive; `done` is told the bytes read so far.
pub fn import(store: &ImageStore, path: &Path, done: &dyn Fn(u64)) -> Result<Vec<Image>> {
    let _adding = store.adding()?;
    if path.is_dir() {
        return directory(store, path);
    }
    let mut archive =
        tar::Archive::new(Box::new(BufReader::new(crate::store::decompressed(path)?)) as Box<dyn Read>);
    let mut documents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    // Digest of each file that is not a document, by its path in the archive.
    let mut files: BTreeMap<String, (String, u64)> = BTreeMap::new();
    let mut read = 0;
    for entry in archive.entries().at("read", path)? {
        let mut entry = entry.at("read", path)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name =
            entry.path().map_err(|e| invalid("a path in the archive", e))?.to_string_lossy().into_owned();
        let name = name.trim_start_matches("./").to_owned();
        read += entry.size();
        if matches!(name.as_str(), "index.json" | "manifest.json" | "oci-layout") {
            let mut bytes = Vec::new();
            entry.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).at("read", path)?;
            documents.insert(name, bytes);
        } else {
            let wanted = name.strip_prefix("blobs/sha256/").map(|h| format!("sha256:{h}"));
            let stored = store.put_blob(&mut entry, wanted.as_deref())?;
            files.insert(name, stored);
        }
        done(read);
    }
    if let Some(index) = documents.get("index.json") {
        return layout(store, &parse("index.json", index)?);
    }
    if let Some(manifest) = documents.get("manifest.json") {
        return docker(store, &parse("manifest.json", manifest)?, &files);
    }
    let why = "it has neither index.json (an OCI layout) nor manifest.json (a docker-archive)";
    Err(invalid(path.display().to_string(), why))
}

fn parse(name: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| invalid(name, e))
}

fn directory(store: &ImageStore, path: &Path) -> Result<Vec<Image>> {
    let blobs = path.join("blobs/sha256");
    for entry in std::fs::read_dir(&blobs).at("read", &blobs)? {
        let entry = entry.at("read", &blobs)?;
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        let file = File::open(entry.path()).at("open", &entry.path())?;
        store.put_blob(file, Some(&digest))?;
    }
    let index = path.join("index.json");
    layout(store, &parse("index.json", &std::fs::read(&index).at("read", &index)?)?)
}

/// Images of an OCI index; names are in annotations.
fn layout(store: &ImageStore, index: &Value) -> Result<Vec<Image>> {
    let mut out = Vec::new();
    for m in index["manifests"].as_array().into_iter().flatten().take(MANIFESTS_MAX) {
        let digest = m["digest"].as_str().unwrap_or("");
        let annotation = |k: &str| m["annotations"][k].as_str();
        let name = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name"));
        let names = match name {
            Some(name) => vec![Reference::parse(name)?],
            None => Vec::new(),
        };
        let manifest = for_platform(store, digest, name.unwrap_or(digest))?;
        out.push(store.register(&manifest, &names)?);
    }
    Ok(out)
}

/// The manifest for this machine: the digest itself, or one of the list that it names.
pub fn for_platform(store: &ImageStore, digest: &str, name: &str) -> Result<String> {
    let document = store.document(digest)?;
    if document["manifests"].is_array() { of_this_platform(&document, name) } else { Ok(digest.to_owned()) }
}

/// The digest in an index of the image for this machine.
pub fn of_this_platform(index: &Value, name: &str) -> Result<String> {
    let list = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fits = |m: &&Value| m["platform"]["os"] == "linux" && m["platform"]["architecture"] == architecture();
    let found = list.iter().find(fits).and_then(|m| m["digest"].as_str());
    found.map(str::to_owned).ok_or_else(|| Error::Platform(name.to_owned(), architecture()))
}

/// Images of a docker-archive: a manifest is made for each, so that both kinds are stored alike.
fn docker(store: &ImageStore, list: &Value, files: &BTreeMap<String, (String, u64)>) -> Result<Vec<Image>> {
    let mut out = Vec::new();
    for image in list.as_array().into_iter().flatten().take(MANIFESTS_MAX) {
        let file = |name: &str| {
            files
                .get(name)
                .cloned()
                .ok_or_else(|| invalid("manifest.json", format!("the file {name:?} is missing")))
        };
        let (config, config_size) = file(image["Config"].as_str().unwrap_or(""))?;
        let mut layers = Vec::new();
        for layer in image["Layers"].as_array().into_iter().flatten() {
            let (digest, size) = file(layer.as_str().unwrap_or(""))?;
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size,
            }));
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
            "layers": layers,
        });
        let (digest, _) = store.put_blob(Cursor::new(manifest.to_string()), None)?;
        let names = image["RepoTags"].as_array().into_iter().flatten().filter_map(|t| t.as_str());
        let names: Vec<Reference> = names.map(Reference::parse).collect::<Result<_>>()?;
        out.push(store.register(&digest, &names)?);
    }
    Ok(out)
}
