//! The ConfigMaps and Secrets that a pure plan needs: read before, handed in.
//!
//! A failed read is kept as the API's text: whether it matters depends on who asks, and whether he asks optionally.

use crate::ports::NodeApi;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An object that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub not_found: bool,
    pub message: String,
}

type Read<T> = BTreeMap<String, Result<Arc<T>, Missing>>;

/// Objects of one namespace that were asked for, by name.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub config_maps: Read<ConfigMap>,
    pub secrets: Read<Secret>,
}

impl Objects {
    /// Asks the API for each name once.
    pub async fn read(api: &dyn NodeApi, namespace: &str, config_maps: &[&str], secrets: &[&str]) -> Self {
        let mut this = Self::default();
        for name in config_maps {
            if !this.config_maps.contains_key(*name) {
                let got = api.config_map(namespace, name).await.map_err(missing);
                this.config_maps.insert((*name).to_owned(), got);
            }
        }
        for name in secrets {
            if !this.secrets.contains_key(*name) {
                let got = api.secret(namespace, name).await.map_err(missing);
                this.secrets.insert((*name).to_owned(), got);
            }
        }
        this
    }

    /// `None` for an optional one that is not there.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn config_map(&self, name: &str, optional: bool) -> Result<Option<&ConfigMap>, String> {
        found(&self.config_maps, "configmap", name, optional)
    }

    /// `None` for an optional one that is not there.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn secret(&self, name: &str, optional: bool) -> Result<Option<&Secret>, String> {
        found(&self.secrets, "secret", name, optional)
    }
}

fn missing(status: meta::Status) -> Missing {
    Missing { not_found: status.is_not_found(), message: status.message }
}

fn found<'a, T>(read: &'a Read<T>, kind: &str, name: &str, optional: bool) -> Result<Option<&'a T>, String> {
    match read.get(name) {
        Some(Ok(object)) => Ok(Some(object)),
        Some(Err(e)) if e.not_found && optional => Ok(None),
        Some(Err(e)) => Err(e.message.clone()),
        None => Err(format!("{kind} {name:?} was not read")),
    }
}
