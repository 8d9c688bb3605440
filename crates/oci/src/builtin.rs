//! The built-in image: this program alone, so that a cluster has something to run with no registry in reach.

use crate::error::{IoContext as _, Result};
use crate::reference::Reference;
use crate::store::{Image, ImageStore};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Cursor, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The name of the built-in image.
pub const NAME: &str = "taffrail.io/hello:1";

/// Where a program looks for its loader, for the loaders that live elsewhere on some systems.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 256 << 10;

/// The libraries that this process has loaded, with its loader under the name by which it is found.
pub fn libraries() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).filter(|p| p.contains(".so"));
    let mut all: Vec<PathBuf> = mapped.map(PathBuf::from).collect();
    let known = |loader: &&Path| all.iter().any(|p| p.file_name() == loader.file_name()) && loader.exists();
    let loaders: Vec<PathBuf> = LOADERS.iter().map(Path::new).filter(known).map(PathBuf::from).collect();
    all.extend(loaders);
    all.sort();
    all.dedup();
    all
}

/// Makes (or finds) the image: the program as `/taffrail` with the libraries that it needs, started as its own demo
/// server. `libraries` are host paths that keep their place.
pub fn ensure(store: &ImageStore, program: &Path, libraries: &[PathBuf]) -> Result<Image> {
    // Reading the program takes far longer than asking whether it changed.
    let stamp = stamp(program)?;
    let stamp_file = store.root().join("builtin.stamp");
    if std::fs::read_to_string(&stamp_file).is_ok_and(|s| s == stamp)
        && let Some(image) = store.find(NAME)
    {
        return Ok(image);
    }
    let _adding = store.adding()?;
    let (digest, size) = store.write_blob(None, |blob| archive(program, libraries, blob))?;
    // The layer is stored as it is, so its digest is also that of its content.
    let diff_id = &digest;
    let config = json!({
        "architecture": crate::import::architecture(), "os": "linux",
        "config": {
            "Entrypoint": ["/taffrail", "__hello"], "WorkingDir": "/", "User": "65532:65532",
            "Env": ["PATH=/"], "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = config.to_string();
    let (config_digest, config_size) = store.put_blob(Cursor::new(&config), None)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size,
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}],
    });
    let (manifest, _) = store.put_blob(Cursor::new(manifest.to_string()), None)?;
    let image = store.register(&manifest, &[Reference::parse(NAME)?])?;
    std::fs::write(&stamp_file, stamp).at("write", &stamp_file)?;
    Ok(image)
}

/// Tells one state of the program's file from another.
fn stamp(program: &Path) -> Result<String> {
    let meta = std::fs::metadata(program).at("read", program)?;
    Ok(format!("{} {} {} {}.{}", program.display(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// Writes the layer. Programs are large: nothing holds one in memory.
fn archive(program: &Path, libraries: &[PathBuf], to: impl Write) -> std::io::Result<()> {
    let mut builder = tar::Builder::new(to);
    let mut add = |path: &Path, name: &Path| -> std::io::Result<()> {
        let file = File::open(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        // No time: the same program makes the same image.
        header.set_mtime(0);
        header.set_size(file.metadata()?.len());
        builder.append_data(&mut header, name, BufReader::with_capacity(READ_BYTES, file))
    };
    let named =
        |path: &Path, e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    add(program, Path::new("taffrail")).map_err(|e| named(program, e))?;
    for library in libraries {
        // Below the root of the image it has the same place.
        let name = library.strip_prefix("/").unwrap_or(library);
        add(library, name).map_err(|e| named(library, e))?;
    }
    builder.into_inner().map(drop)
}
