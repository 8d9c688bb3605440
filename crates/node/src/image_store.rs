//! [`Images`] over the crate `oci`: what is in the node's image store; fetching is a function that the program gives.

use crate::ports::{Image, ImageError, ImageSummary, Images, RegistryAuth};
use async_trait::async_trait;
use oci::ImageStore;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Fetches an image into the store: reference, credentials to try in order.
pub type Fetch = Box<
    dyn Fn(String, Vec<RegistryAuth>) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>
        + Send
        + Sync,
>;

/// The images of one node.
pub struct StoredImages {
    store: Arc<ImageStore>,
    fetch: Fetch,
}

impl StoredImages {
    pub fn new(store: Arc<ImageStore>, fetch: Fetch) -> Self {
        Self { store, fetch }
    }

    /// Looks the image up and unpacks what is not unpacked.
    async fn look(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        oci::Reference::parse(reference)
            .map_err(|e| ImageError { reason: "InvalidImageName".into(), message: e.to_string() })?;
        let (store, text) = (self.store.clone(), reference.to_owned());
        let found = tokio::task::spawn_blocking(move || inspect(&store, &text)).await;
        let failed = |message: String| ImageError { reason: "ImageInspectError".into(), message };
        found.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }
}

fn inspect(store: &ImageStore, reference: &str) -> oci::Result<Option<Image>> {
    let Some(image) = store.find(reference) else { return Ok(None) };
    let config = store.config(&image)?;
    let name = oci::Reference::parse(reference).map(|r| r.to_string());
    Ok(Some(Image {
        name: image.names.first().cloned().or(name.ok()).unwrap_or_else(|| reference.to_owned()),
        digests: image.repo_digests.clone(),
        layers: store.layer_dirs(&image)?,
        user: config.user,
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        workdir: config.working_dir,
        stop_signal: config.stop_signal,
        size: image.size,
        id: image.id,
    }))
}

#[async_trait]
impl Images for StoredImages {
    async fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        self.look(reference).await
    }

    async fn pull(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image, ImageError> {
        let failed = |message: String| ImageError { reason: "ErrImagePull".into(), message };
        (self.fetch)(reference.to_owned(), auth.to_vec()).await.map_err(failed)?;
        let found = self.look(reference).await?;
        found.ok_or_else(|| failed(format!("{reference} is not in the store after it was fetched")))
    }

    async fn list(&self) -> Vec<ImageSummary> {
        let images = self.store.list().into_iter();
        images
            .map(|i| ImageSummary {
                names: i.repo_digests.into_iter().chain(i.names).collect(),
                size: i.size,
            })
            .collect()
    }
}
