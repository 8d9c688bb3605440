//! Secrets that hold tokens of service accounts: they are filled while their account exists and go with it.
//!
//! Invariant: only a Secret that is as our copy shows it is filled.
//! upstream: `pkg/controller/serviceaccount/tokens_controller.go`

use crate::start::Setup;
use async_trait::async_trait;
use auth::tokens::{Ref, Signer};
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Preconditions};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Upstream: `ConcurrentSATokenSyncs`.
const WORKERS: usize = 5;
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What is looked at. A uid may be empty in a Secret's account: any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Account { ns: String, account: String, uid: String },
    Secret { ns: String, name: String, uid: String, account: String, account_uid: String },
}

struct TokenController {
    client: Client,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    root_ca: Vec<u8>,
    signer: Option<Arc<Signer>>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let accounts = setup.informers.of::<ServiceAccount>();
    let secrets = setup.informers.of_selected::<Secret>(&format!("type={TYPE}"));
    let this = TokenController {
        client: setup.client("tokens-controller"),
        accounts: accounts.clone(),
        secrets: secrets.clone(),
        root_ca: setup.config.root_ca_pem.clone().into_bytes(),
        signer: setup.config.tokens.clone(),
    };
    Controller::new("serviceaccount-token", Arc::new(this), setup.clock.clone())
        .workers(WORKERS)
        .watches(&accounts, |c, q| {
            // an account that came in the place of another leaves that one's tokens
            for account in c.old.iter().chain(&c.new) {
                let [ns, name, uid] = [account.namespace(), account.name(), account.uid()].map(str::to_owned);
                q.add(Work::Account { ns, account: name, uid });
            }
        })
        .watches(&secrets, |c, q| {
            let work = c.latest().filter(|s| is_token(s)).and_then(|s| work_of(s));
            work.into_iter().for_each(|w| q.add(w));
        })
        .start(setup.cancel.clone())
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

/// `None` for a Secret that names no account.
fn work_of(secret: &Secret) -> Option<Work> {
    let account = secret.annotation(ACCOUNT).filter(|a| !a.is_empty())?.to_owned();
    let account_uid = secret.annotation(ACCOUNT_UID).unwrap_or("").to_owned();
    let [ns, name, uid] = [secret.namespace(), secret.name(), secret.uid()].map(str::to_owned);
    Some(Work::Secret { ns, name, uid, account, account_uid })
}

/// Whether a Secret is a token of an account (upstream: `IsServiceAccountToken`).
fn belongs(secret: &Secret, account: &str, uid: &str) -> bool {
    let named = secret.annotation(ACCOUNT_UID).unwrap_or("");
    is_token(secret) && secret.annotation(ACCOUNT) == Some(account) && (named.is_empty() || named == uid)
}

/// What a Secret lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lacks {
    ca: bool,
    namespace: bool,
    token: bool,
}

/// Upstream: `secretUpdateNeeded`.
fn lacks(secret: &Secret, root_ca: &[u8], signs: bool) -> Option<Lacks> {
    let held = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map_or(&[][..], |b| &b.0);
    let lacks = Lacks {
        ca: !root_ca.is_empty() && held("ca.crt") != root_ca,
        namespace: held("namespace").is_empty(),
        token: signs && held("token").is_empty(),
    };
    (lacks.ca || lacks.namespace || lacks.token).then_some(lacks)
}

impl TokenController {
    fn known(&self, ns: &str, name: &str, uid: &str) -> Option<Arc<ServiceAccount>> {
        self.accounts.store().get(ns, name).filter(|a| uid.is_empty() || a.uid() == uid)
    }

    async fn account(&self, ns: &str, name: &str, uid: &str) -> Result<Option<Arc<ServiceAccount>>, Error> {
        if let Some(known) = self.known(ns, name, uid) {
            return Ok(Some(known));
        }
        match self.client.get::<ServiceAccount>(ns, name).await {
            Ok(live) if uid.is_empty() || live.uid() == uid => Ok(Some(Arc::new(live))),
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn delete(&self, ns: &str, name: &str, uid: &str) -> Result<(), Error> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
        match self.client.delete::<Secret>(ns, name, &options).await {
            // it is gone, or another one has its name
            Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// upstream: `generateTokenIfNeeded`
    async fn fill(&self, account: &ServiceAccount, cached: &Secret) -> Result<(), Error> {
        let signs = self.signer.is_some();
        if lacks(cached, &self.root_ca, signs).is_none() {
            return Ok(());
        }
        let mut secret: Secret = match self.client.get(cached.namespace(), cached.name()).await {
            Err(e) if e.is_not_found() => return Ok(()),
            other => other?,
        };
        // what changed it brings it back here
        if secret.resource_version() != cached.resource_version() {
            return Ok(());
        }
        let Some(lacks) = lacks(&secret, &self.root_ca, signs) else { return Ok(()) };
        let mut data: BTreeMap<String, ByteString> = secret.data.take().unwrap_or_default();
        let mut put = |key: &str, value: Vec<u8>| drop(data.insert(key.to_owned(), ByteString(value)));
        if lacks.ca {
            put("ca.crt", self.root_ca.clone());
        }
        if lacks.namespace {
            put("namespace", secret.namespace().as_bytes().to_vec());
        }
        if let Some(signer) = self.signer.as_ref().filter(|_| lacks.token) {
            let of = Ref { name: account.name().to_owned(), uid: account.uid().to_owned() };
            put("token", signer.issue_legacy(secret.namespace(), &of, secret.name())?.into_bytes());
        }
        secret.data = Some(data);
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), account.name().to_owned());
        annotations.insert(ACCOUNT_UID.to_owned(), account.uid().to_owned());
        match self.client.update(&secret).await {
            Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The account names the Secret no more; a conflict is tried again with back-off.
    async fn forget(&self, account: &ServiceAccount, secret: &str) -> Result<(), Error> {
        let mut live: ServiceAccount = match self.client.get(account.namespace(), account.name()).await {
            Err(e) if e.is_not_found() => return Ok(()),
            other => other?,
        };
        let named = |s: &k8s_openapi::api::core::v1::ObjectReference| s.name.as_deref() == Some(secret);
        if live.uid() != account.uid() || !live.secrets.iter().flatten().any(named) {
            return Ok(());
        }
        live.secrets.iter_mut().for_each(|list| list.retain(|s| !named(s)));
        match self.client.update(&live).await {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Reconcile for TokenController {
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<After, Error> {
        match work {
            Work::Account { ns, account, uid } => {
                if self.known(ns, account, uid).is_none() {
                    let all = self.secrets.store().by_namespace(ns);
                    for secret in all.iter().filter(|s| belongs(s, account, uid)) {
                        self.delete(ns, secret.name(), secret.uid()).await?;
                    }
                }
            }
            Work::Secret { ns, name, uid, account, account_uid } => {
                match self.secrets.store().get(ns, name).filter(|s| s.uid() == uid) {
                    None => {
                        if let Some(owner) = self.known(ns, account, account_uid) {
                            self.forget(&owner, name).await?;
                        }
                    }
                    Some(secret) => match self.account(ns, account, account_uid).await? {
                        None => self.delete(ns, name, uid).await?,
                        Some(owner) => self.fill(&owner, &secret).await?,
                    },
                }
            }
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests;
