//! From a credential to an identity (upstream: `pkg/kubeapiserver/authenticator/config.go`).

use crate::identity::{CREDENTIAL_ID, Identity};
use crate::tokens::{Objects, Signer};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};

/// Who presents what; reasons are for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Known(Identity),
    /// No credential at all.
    Anonymous,
    /// A credential that is not accepted.
    Refused(String),
}

/// All ways of authentication, in upstream's order: certificate, token file, service account.
pub struct Authenticator {
    tokens: HashMap<String, Identity>,
    service_accounts: Arc<Signer>,
    audiences: Vec<String>,
    objects: Arc<dyn Objects + Send + Sync>,
}

impl Authenticator {
    pub fn new(
        tokens: HashMap<String, Identity>,
        service_accounts: Arc<Signer>,
        audiences: Vec<String>,
        objects: Arc<dyn Objects + Send + Sync>,
    ) -> Self {
        Self { tokens, service_accounts, audiences, objects }
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Decides from the verified certificate and the `Authorization` header.
    pub fn authenticate(
        &self,
        certificate: Option<&[u8]>,
        authorization: Option<&str>,
        now: Timestamp,
    ) -> Outcome {
        if let Some(identity) = certificate.and_then(from_certificate) {
            return Outcome::Known(identity);
        }
        let Some(token) = authorization.and_then(bearer) else { return Outcome::Anonymous };
        match self.token(token, &self.audiences, now) {
            Ok((identity, _)) => Outcome::Known(identity),
            Err(why) => Outcome::Refused(why),
        }
    }

    /// Decides from a bearer token; also what a TokenReview asks. The audiences that matched come with the identity.
    pub fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(Identity, Vec<String>), String> {
        if let Some(identity) = self.tokens.get(token) {
            return Ok((identity.clone(), audiences.to_vec()));
        }
        if !self.service_accounts.is_ours(token) {
            return Err("unknown bearer token".to_owned());
        }
        self.service_accounts.verify(token, audiences, &*self.objects, now).map_err(|e| e.to_string())
    }
}

/// The token of a bearer header, when it is one (upstream: `bearertoken.go`).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then_some(token.trim())
}

/// The subject of a client certificate whose chain was checked: CN is the user, O are the groups
/// (upstream: `x509.CommonNameUserConversion`).
pub fn from_certificate(der: &[u8]) -> Option<Identity> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let all = |oid: &x509_parser::der_parser::Oid<'static>| -> Vec<String> {
        cert.subject().iter_by_oid(oid).filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
    };
    let name = all(&OID_X509_COMMON_NAME).into_iter().next().filter(|n| !n.is_empty())?;
    let mut id =
        Identity { name, groups: all(&OID_X509_ORGANIZATION_NAME), ..Identity::default() }.authenticated();
    let hash: String = Sha256::digest(der).iter().map(|b| format!("{b:02x}")).collect();
    id.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hash}")]);
    Some(id)
}

/// Reads a static token file: `token,user,uid[,"group1,group2"]` (upstream: `tokenfile.NewCSV`).
pub fn token_file(path: &Path) -> Result<HashMap<String, Identity>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read the token file {}: {e}", path.display()))?;
    parse_tokens(&text).map_err(|e| format!("the token file {}: {e}", path.display()))
}

fn parse_tokens(text: &str) -> Result<HashMap<String, Identity>, String> {
    let mut out = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let fields = csv_line(line);
        let [token, user, uid, rest @ ..] = fields.as_slice() else {
            let n = fields.len();
            return Err(format!(
                "line {} must have at least 3 columns (token, user name, user uid), found {n}",
                i + 1
            ));
        };
        if token.is_empty() {
            return Err(format!("line {}: empty token", i + 1));
        }
        let groups = rest
            .first()
            .map(|g| g.split(',').map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect());
        let id = Identity {
            name: user.clone(),
            uid: uid.clone(),
            groups: groups.unwrap_or_default(),
            ..Identity::default()
        };
        out.insert(token.clone(), id.authenticated());
    }
    Ok(out)
}

/// Fields of one line; quotes hold commas together.
fn csv_line(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                fields[last].push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields[last].push(c),
        }
    }
    fields.into_iter().map(|f| f.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files() {
        let t = parse_tokens("abc,alice,1,\"dev,ops\"\nxyz,bob,2\n").expect("read");
        assert_eq!(
            t["abc"],
            Identity { uid: "1".into(), ..Identity::new("alice", &["dev", "ops", "system:authenticated"]) }
        );
        assert_eq!(t["xyz"].groups, ["system:authenticated"]);
        assert!(parse_tokens("a,b\n").expect_err("refused").contains("at least 3 columns"));
    }

    #[test]
    fn bearer_headers() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
    }
}
