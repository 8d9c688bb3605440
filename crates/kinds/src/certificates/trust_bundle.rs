//! ClusterTrustBundle: certificates that workloads may trust.

use super::{chain, pem, row, signer_name};
use crate::columns::{NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::text;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Longest bundle, in bytes.
const BUNDLE_BYTES_MAX: usize = 1024 * 1024;

pub fn kind() -> KindDef {
    KindDef {
        columns: const {
            &[
                NAME,
                column("SignerName", "string", |o, _| match text(&o["spec"], "signerName") {
                    "" => "<none>".into(),
                    name => name.into(),
                }),
            ]
        },
        selectable: &["spec.signerName"],
        strategy: StrategyRef::Static(&TrustBundle),
        sample: include_str!("samples/cluster_trust_bundle.yaml"),
        ..row(
            "ClusterTrustBundle",
            "clustertrustbundles",
            "clustertrustbundle",
            "io.k8s.api.certificates.v1.ClusterTrustBundle",
        )
    }
}

struct TrustBundle;

impl Strategy for TrustBundle {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        check(obj, true, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        check(new, new["spec"]["trustBundle"] != old["spec"]["trustBundle"], &mut errors);
        let (is, was) = (text(&new["spec"], "signerName"), text(&old["spec"], "signerName"));
        if is != was {
            let at = Path::new("spec").child("signerName");
            errors.push(Error::invalid(&at, is, "field is immutable"));
        }
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(&obj["spec"], "signerName").to_owned())]
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    /// What a name must be depends on the signer, and is checked with the object.
    fn name_errors(&self, _: &str, _: bool) -> Vec<String> {
        Vec::new()
    }
}

fn check(obj: &Value, parse: bool, errors: &mut ErrorList) {
    let (signer, name) = (text(&obj["spec"], "signerName"), object::name(obj));
    let at = Path::new("metadata").child("name");
    if !name.is_empty() {
        errors.extend(name_errors(name, signer).into_iter().map(|m| Error::invalid(&at, name, m)));
    }
    let begin = object::meta_str(obj, "generateName");
    if !begin.is_empty() {
        let at = Path::new("metadata").child("generateName");
        errors.extend(name_errors(begin, signer).into_iter().map(|m| Error::invalid(&at, begin, m)));
    }
    let path = Path::new("spec");
    if !signer.is_empty() {
        signer_name(signer, &path.child("signerName"), errors);
    }
    if parse {
        bundle(text(&obj["spec"], "trustBundle"), &path.child("trustBundle"), errors);
    }
}

/// Upstream: `ValidateClusterTrustBundleName`.
pub fn name_errors(name: &str, signer: &str) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return helpers::dns_subdomain_errors(name, false);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => helpers::dns_subdomain_errors(rest, false),
        None => {
            vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")]
        }
    }
}

/// Upstream: `validateTrustBundle`.
fn bundle(text: &str, path: &Path, errors: &mut ErrorList) {
    if text.len() > BUNDLE_BYTES_MAX {
        errors.push(Error::too_long(path, BUNDLE_BYTES_MAX));
        return;
    }
    let blocks = pem::blocks(text);
    let mut found = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        let wrong = if block.label != "CERTIFICATE" {
            Some(format!("entry {i} has bad block type: {}", block.label))
        } else if block.headers {
            Some(format!("entry {i} has PEM block headers"))
        } else {
            match chain::certificate(&block.der) {
                None => Some(format!("entry {i} does not parse as X.509")),
                Some(c) if !c.is_ca() => Some(format!("entry {i} does not have the CA bit set")),
                Some(_) => None,
            }
        };
        found.extend(wrong);
    }
    if found.is_empty() && blocks.is_empty() {
        found.push("at least one trust anchor must be provided".to_owned());
    }
    if found.is_empty() {
        for (i, block) in blocks.iter().enumerate() {
            let same: Vec<usize> = (0..blocks.len()).filter(|j| blocks[*j].der == block.der).collect();
            if same.len() > 1 && same[0] == i {
                let list: Vec<String> = same.iter().map(usize::to_string).collect();
                found.push(format!("duplicate trust anchor (indices [{}])", list.join(" ")));
            }
        }
    }
    errors.extend(found.into_iter().map(|m| Error::invalid(path, "<value omitted>", m)));
}
