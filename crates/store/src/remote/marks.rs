//! What all servers on one etcd must have in common, as marks beside the keys: the first server sets them.
//!
//! Invariant: a server with another mark, or without the keys that open what the others seal, does not open the store:
//! it could read nothing of theirs, or be believed by nobody.

use super::load::Loading;
use super::*;
use ::etcd::proto::{
    Compare, CompareTarget, Operand, PutRequest, RangeRequest, Request, RequestOp, Response, TxnRequest,
};
use bytes::Bytes;

/// The mark that is sealed instead of compared.
const SEAL_MARK: &str = "seal";

/// One thing that is the same for all servers, such as a fingerprint of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub name: String,
    pub value: String,
    /// Completes "this server does not belong to the cluster in etcd: ", when etcd has another value.
    pub otherwise: String,
}

impl Loading<'_> {
    pub async fn check_marks(&self) -> Result<(), EtcdError> {
        for mark in &self.options.marks {
            let key = self.layout.mark(&mark.name);
            let found = self.set_or_find(&key, Bytes::copy_from_slice(mark.value.as_bytes())).await?;
            if found.is_some_and(|f| f != mark.value.as_bytes()) {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(EtcdError::Foreign { otherwise: mark.otherwise.clone(), key });
            }
        }
        self.check_seal().await
    }

    /// Whether the keys here open what the other servers seal. There may be nothing else yet to see that from.
    async fn check_seal(&self) -> Result<(), EtcdError> {
        let (seal, key) = (&self.options.seal, self.layout.mark(SEAL_MARK));
        let failed = |e: SealError| self.failed(e.to_string());
        let Some(sample) = seal.sample(&key).transpose().map_err(failed)? else { return Ok(()) };
        let Some(found) = self.set_or_find(&key, sample.clone()).await? else { return Ok(()) };
        seal.open_sample(&key, &found).map_err(failed)?;
        if !seal.is_current(&found) {
            // A key that was put first opens and seals from now on; the one before it may go some day.
            let put = Request::Put(PutRequest { key, value: sample, lease: 0 });
            let request =
                TxnRequest { success: vec![RequestOp { request: Some(put) }], ..TxnRequest::default() };
            let done = self.client.txn(&request, self.options.request_timeout).await;
            done.map_err(|e| self.failed(e.to_string()))?;
        }
        Ok(())
    }

    /// Sets a key that is not there; gives what is there otherwise.
    async fn set_or_find(&self, key: &Bytes, value: Bytes) -> Result<Option<Bytes>, EtcdError> {
        let part = |request| vec![RequestOp { request: Some(request) }];
        let request = TxnRequest {
            compare: vec![Compare {
                target: CompareTarget::Create.into(),
                key: key.clone(),
                operand: Some(Operand::CreateRevision(0)),
            }],
            success: part(Request::Put(PutRequest { key: key.clone(), value, lease: 0 })),
            failure: part(Request::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() })),
        };
        let answer = self.client.txn(&request, self.options.request_timeout).await;
        let answer = answer.map_err(|e| self.failed(e.to_string()))?;
        if answer.succeeded {
            return Ok(None);
        }
        match answer.responses.into_iter().next().and_then(|r| r.response) {
            Some(Response::Range(mut range)) => Ok(range.kvs.pop().map(|kv| kv.value)),
            _ => Err(self.failed("etcd's answer about a mark cannot be understood".to_owned())),
        }
    }

    fn failed(&self, reason: String) -> EtcdError {
        EtcdError::Open { endpoints: self.options.config.endpoints.join(", "), reason }
    }
}
