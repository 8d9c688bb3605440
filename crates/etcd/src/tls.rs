//! TLS to etcd: rustls with the given authority and, when there is one, the client's certificate.

use crate::{Error, EtcdConfig};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// Reads the files and makes the configuration of one connection.
pub(crate) fn client_config(config: &EtcdConfig) -> Result<ClientConfig, Error> {
    let authority =
        config.ca_file.as_deref().ok_or_else(|| Error::Config("no certificate authority".into()))?;
    let mut roots = RootCertStore::empty();
    for cert in certificates(authority)? {
        roots.add(cert).map_err(|e| bad(authority, e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Config(e.to_string()))?
        .with_root_certificates(roots);
    let mut tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, e))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|e| bad(cert, e))?
        }
        _ => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_file_iter(path).map_err(|e| bad(path, e))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|e| bad(path, e))?;
    if all.is_empty() { Err(bad(path, "there is no certificate in it")) } else { Ok(all) }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Config(format!("the file {} for etcd cannot be used: {why}", path.display()))
}
