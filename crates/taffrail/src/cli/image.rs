//! `taffrail image`: what the cluster can run.

use super::DataDir;
use clap::{Args, Subcommand};
use oci::{ImageStore, Login};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub struct Images {
    #[command(flatten)]
    dir: DataDir,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take over the images of an archive (OCI layout or docker-archive, also compressed)
    Import {
        /// A tar file, or the directory of an OCI layout
        archive: PathBuf,
    },
    /// Fetch an image from its registry: HTTPS, or plain HTTP on loopback
    Pull {
        /// Name, with a tag or a digest
        image: String,
        /// User of the registry; the password is read from standard input
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
    },
    /// List images
    Ls,
    /// Forget a name; the image goes with its last
    Rm {
        /// Name or id
        image: String,
    },
}

pub fn run(i: Images) -> Result<(), String> {
    let store = ImageStore::open(&i.dir.data_dir.join("images")).map_err(super::lifecycle::chain)?;
    match i.command {
        Command::Import { archive } => {
            let size = std::fs::metadata(&archive)
                .map_err(|e| format!("cannot read {}: {e}", archive.display()))?
                .len();
            let bar = crate::steps::Steps::new().bar("importing", size);
            let images = oci::import::import(&store, &archive, &|n| bar.set_position(n))
                .map_err(super::lifecycle::chain)?;
            bar.finish_and_clear();
            for image in images {
                println!(
                    "{} {}",
                    image.names.first().map_or(image.id.as_str(), String::as_str),
                    short(&image.id)
                );
            }
        }
        Command::Pull { image, username } => pull(store, &image, username)?,
        Command::Ls => {
            println!("{:<64} {:<12} SIZE", "NAME", "ID");
            for image in store.list() {
                let size = base::size::human(image.size);
                let names =
                    if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() };
                for name in names {
                    println!("{name:<64} {:<12} {size}", short(&image.id));
                }
            }
        }
        Command::Rm { image } => {
            if !store.remove(&image).map_err(super::lifecycle::chain)? {
                return Err(format!("no image {image:?} is here; `taffrail image ls` shows those that are"));
            }
        }
    }
    Ok(())
}

fn pull(store: ImageStore, image: &str, username: Option<String>) -> Result<(), String> {
    let logins = match username {
        None => Vec::new(),
        Some(username) => {
            let mut password = String::new();
            std::io::stdin().read_line(&mut password).map_err(|e| format!("read the password: {e}"))?;
            vec![Login { username, password: password.trim_end().to_owned(), token: String::new() }]
        }
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bar = crate::steps::Steps::new().bar("pulling", 0);
    let store = Arc::new(store);
    let pulled = super::remote::block(async {
        let progress = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        oci::pull(&store, image, &logins, &progress).await.map_err(super::lifecycle::chain)
    });
    bar.finish_and_clear();
    let pulled = pulled?;
    println!("{} {}", pulled.repo_digests.first().map_or(image, String::as_str), short(&pulled.id));
    Ok(())
}

fn short(id: &str) -> &str {
    id.strip_prefix("sha256:").and_then(|h| h.get(..12)).unwrap_or(id)
}
