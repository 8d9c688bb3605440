//! Between the version in which objects are stored and the one that a row serves.
//!
//! Invariant: bytes that begin with a row's own head are in its version and are sent as they are; all others are turned
//! into it first. What clients select by is the served form.

use crate::{Registry, encode};
use bytes::Bytes;
use kinds::KindDef;
use meta::status::{Result, Status};
use serde_json::Value;
use store::Stamped;

impl Registry {
    /// Reads stored bytes as an object of the row's version.
    pub async fn decode(&self, kind: &KindDef, bytes: &[u8]) -> Result<Value> {
        let obj = serde_json::from_slice(bytes).map_err(Status::internal)?;
        let own = !kind.reads_through && kind.stored_as.is_none() && encode::is_own(kind, bytes);
        if own { Ok(obj) } else { one(served(kind, vec![obj]).await?) }
    }

    /// Stored bytes in the row's version.
    pub async fn in_version(&self, kind: &KindDef, bytes: Bytes) -> Result<Bytes> {
        if !kind.reads_through && encode::is_own(kind, &bytes) {
            return Ok(bytes);
        }
        one(self.all_in_version(kind, vec![bytes]).await?)
    }

    /// As [`Self::in_version`], of many at once: a webhook converts them in one call.
    pub(crate) async fn all_in_version(&self, kind: &KindDef, mut all: Vec<Bytes>) -> Result<Vec<Bytes>> {
        if all.is_empty() {
            return Ok(all);
        }
        let own = encode::own_head(kind);
        let others: Vec<usize> =
            (0..all.len()).filter(|i| kind.reads_through || !all[*i].starts_with(&own)).collect();
        if others.is_empty() {
            return Ok(all);
        }
        let read = |i: &usize| serde_json::from_slice(&all[*i]).map_err(Status::internal);
        let objects = others.iter().map(read).collect::<Result<Vec<Value>>>()?;
        for (i, obj) in others.into_iter().zip(served(kind, objects).await?) {
            all[i] = encode::reencode(kind, &obj).into();
        }
        Ok(all)
    }

    /// An object of one row in the version of another row of the same objects.
    pub async fn convert(&self, from: &KindDef, to: &KindDef, mut obj: Value) -> Result<Value> {
        if from.stored_as.is_some() {
            match &from.convert {
                Some(_) => {}
                None => from.strategy.to_storage(&mut obj),
            }
        }
        one(served(to, vec![obj]).await?)
    }

    /// An object of the row's version in its stored form.
    pub(crate) async fn stamped(&self, kind: &KindDef, obj: &Value) -> Result<Stamped> {
        if kind.stored_as.is_none() {
            return Ok(encode::encode(kind, obj));
        }
        let mut stored = obj.clone();
        match &kind.convert {
            Some(c) => stored = one(c.convert(vec![stored], &kind.storage_version()).await?)?,
            None => kind.strategy.to_storage(&mut stored),
        }
        Ok(encode::encode_stored(kind, &stored))
    }
}

/// Objects as stored, in the row's version.
async fn served(kind: &KindDef, mut objects: Vec<Value>) -> Result<Vec<Value>> {
    let version = kind.api_version();
    if let Some(c) = &kind.convert {
        let others: Vec<usize> =
            (0..objects.len()).filter(|i| objects[*i]["apiVersion"] != version.as_str()).collect();
        let sent = others.iter().map(|i| objects[*i].take()).collect::<Vec<_>>();
        if !sent.is_empty() {
            for (i, obj) in others.into_iter().zip(c.convert(sent, &version).await?) {
                objects[i] = obj;
            }
        }
    }
    for obj in &mut objects {
        kind.strategy.decode_stored(obj);
        if let Some(map) = obj.as_object_mut() {
            map.insert("apiVersion".into(), version.as_str().into());
            map.insert("kind".into(), Value::from(&*kind.kind));
        }
    }
    Ok(objects)
}

fn one<T>(all: Vec<T>) -> Result<T> {
    all.into_iter().next().ok_or_else(|| Status::internal("a conversion returned no object"))
}
