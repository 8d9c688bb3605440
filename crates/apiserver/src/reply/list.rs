//! A list as it goes out: piece by piece from the stored bytes of its items, in every form
//! (upstream: `StreamingCollectionEncodingToJSON`, `StreamingCollectionEncodingToProtobuf`).
//!
//! Invariant: of a list that is sent or put on the audit record, no more is in memory than its items' stored bytes, which it
//! shares, and the pieces that are on their way.

use super::wire::{self, PIECE_BYTES};
use super::{Rendered, Rendering};
use crate::codec::{self, META};
use crate::encoded::{Copied, Encoded, Part, Single};
use crate::negotiate::{Encoding, Format, OBJECT_TYPES, View};
use crate::table::{TableView, partial, partial_bytes};
use audit::event::{Content, Parts, strip_managed_fields};
use bytes::{BufMut as _, Bytes, BytesMut};
use client::BoxError;
use jiff::Timestamp;
use kinds::KindDef;
use meta::status::{Result, Status};
use registry::{Listed, item_slice};
use serde_json::{Value, json};
use std::sync::Arc;
use std::{fmt, io};

/// A protobuf list tells its length first. Up to this size it is made and kept, a larger one is made twice.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Where a protobuf list has its items.
const ITEMS_FIELD: u32 = 2;

pub fn render(kind: Arc<KindDef>, listed: Listed, how: &Rendering) -> Result<Rendered> {
    let accepted = how.accepted;
    if accepted.view == View::Partial {
        // Upstream: `asPartialObjectMetadata`.
        let ty = if kind.is_custom() { "unstructured.Unstructured" } else { &go_type(&kind) };
        return Err(not_acceptable(format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{ty}List)"
        )));
    }
    let mut metadata = metadata(&listed);
    if kind.is_custom() && accepted.view == View::Object && listed.next.is_none() {
        // upstream's lists without a type keep what they were told
        metadata["continue"] = "".into();
    }
    let mut encoding = accepted.encoding;
    let list = List {
        kind,
        view: accepted.view,
        version: accepted.view_version(),
        include: how.include_object.to_owned(),
        now: how.now,
        metadata,
        items: listed.items,
        encoded: how.encoded.clone(),
    };
    if encoding.format == Format::Protobuf && list.message().is_none() {
        if !accepted.or_json {
            return Err(Status::not_acceptable(OBJECT_TYPES));
        }
        encoding.format = Format::Json;
    }
    let object = how.keep.then(|| Content::Parts(Arc::new(list.shared())));
    Ok(Rendered { response: sent(list, encoding)?, object, status: None })
}

fn sent(list: List, encoding: Encoding) -> Result<http::Response<client::Body>> {
    let pieces = Pieces::new(list, encoding.format)?;
    wire::pieces(200, encoding, pieces).map_err(Status::internal)
}

/// 406 of a view that the object does not have.
pub fn not_acceptable(message: String) -> Status {
    Status::new(406, meta::Reason::NotAcceptable, message)
}

/// The kind's name among upstream's internal types, as its messages print it.
pub fn go_type(kind: &KindDef) -> String {
    let package = match &*kind.group {
        "" | "events.k8s.io" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        group => group.split('.').next().unwrap_or(group),
    };
    format!("{package}.{}", kind.kind)
}

fn metadata(listed: &Listed) -> Value {
    let mut metadata = match listed.revision {
        // what is kept nowhere
        0 => json!({}),
        revision => json!({"resourceVersion": revision.to_string()}),
    };
    if let Some(next) = &listed.next {
        metadata["continue"] = next.encode().into();
        if let Some(remaining) = listed.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    metadata
}

/// A list and how it is shown.
struct List {
    kind: Arc<KindDef>,
    view: View,
    version: &'static str,
    include: String,
    now: Timestamp,
    metadata: Value,
    items: Vec<Bytes>,
    encoded: Arc<Encoded>,
}

impl List {
    /// The same list again; the items are shared.
    fn shared(&self) -> Self {
        Self {
            kind: self.kind.clone(),
            view: self.view,
            version: self.version,
            include: self.include.clone(),
            now: self.now,
            metadata: self.metadata.clone(),
            items: self.items.clone(),
            encoded: self.encoded.clone(),
        }
    }

    fn type_meta(&self) -> (String, String) {
        match self.view {
            View::Object => (self.kind.list_kind(), self.kind.api_version()),
            View::Table => ("Table".into(), self.version.into()),
            _ => ("PartialObjectMetadataList".into(), self.version.into()),
        }
    }

    /// The name of the member that has the items.
    fn member(&self) -> &'static str {
        if self.view == View::Table { "rows" } else { "items" }
    }

    /// There is nothing where the items would be.
    fn is_nil(&self) -> bool {
        self.view == View::Table && self.items.is_empty() && TableView::rows_are_nil(&self.kind)
    }

    fn table(&self) -> TableView<'_> {
        TableView::new(&self.kind, self.version, &self.include, self.now)
    }

    /// The protobuf message of an item; `None` when there is none.
    fn message(&self) -> Option<&str> {
        let name = match self.view {
            View::Object => &*self.kind.schema,
            View::Table => return None,
            _ => codec::PARTIAL,
        };
        kinds::schema::schema().types.contains_key(name).then_some(name)
    }

    /// An item as a protobuf message; those of stored objects are kept (see [`Pieces::measure`]).
    fn encoded(&self, bytes: &Bytes) -> Result<Bytes> {
        let message = self.message().ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))?;
        let value: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
        let encoded = meta::proto::encode(kinds::schema::schema(), message, &value);
        encoded.map(Bytes::from).map_err(Status::internal)
    }

    /// An item as a tree.
    fn item(&self, bytes: &[u8]) -> Result<Value> {
        let mut obj: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
        Ok(match self.view {
            View::Object => {
                // Items of custom kinds keep their type, as upstream's unstructured lists do.
                if let Some(map) = obj.as_object_mut().filter(|_| self.kind.custom.is_none()) {
                    map.remove("kind");
                    map.remove("apiVersion");
                }
                obj
            }
            View::Table => self.table().row(obj),
            _ => partial(&mut obj, self.version),
        })
    }

    fn write_item(&self, format: Format, bytes: &Bytes, out: &mut BytesMut) -> Result<()> {
        match (format, self.view) {
            (Format::Json, View::Object) if self.kind.custom.is_some() => out.extend_from_slice(bytes),
            (Format::Json, View::Object) => {
                out.put_u8(b'{');
                out.extend_from_slice(item_slice(&self.kind, bytes));
            }
            (Format::Json, View::Partial | View::PartialList) => {
                out.extend_from_slice(&partial_bytes(bytes, self.version)?);
            }
            (Format::Json, View::Table) => {
                serde_json::to_writer(out.writer(), &self.item(bytes)?).map_err(Status::internal)?;
            }
            (Format::Yaml, _) => {
                let text = meta::yaml::to_string(&json!([self.item(bytes)?]));
                out.extend_from_slice(text.as_bytes());
            }
            (Format::Cbor, _) => {
                ciborium::into_writer(&self.item(bytes)?, out.writer()).map_err(Status::internal)?;
            }
            (Format::Protobuf, _) => {
                write_message(&self.encoded(bytes)?, out);
            }
        }
        Ok(())
    }

    /// What stands around the items. `items_bytes` is their length where the format tells it.
    fn frame(&self, format: Format, items_bytes: usize) -> Result<(Bytes, Bytes)> {
        let (kind, api_version) = self.type_meta();
        let (metadata, member) = (&self.metadata, self.member());
        Ok(match format {
            Format::Json => {
                let columns = match self.view {
                    View::Table => format!("\"columnDefinitions\":{},", self.table().definitions()),
                    _ => String::new(),
                };
                let (open, close): (&str, &[u8]) =
                    if self.is_nil() { ("null", b"}\n") } else { ("[", b"]}\n") };
                let head = format!(
                    "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},{columns}\"{member}\":{open}"
                );
                (head.into(), Bytes::from_static(close))
            }
            Format::Yaml => {
                // Members are in the order of their names.
                let yaml = |v: Value| meta::yaml::to_string(&v);
                let none = match (self.is_nil(), self.items.is_empty()) {
                    (true, _) => " null",
                    (_, true) => " []",
                    _ => "",
                };
                let items = format!("{member}:{none}\n");
                if self.view == View::Table {
                    let columns = self.table().definitions();
                    let head = yaml(json!({
                        "apiVersion": api_version, "columnDefinitions": columns, "kind": kind, "metadata": metadata,
                    }));
                    return Ok(((head + &items).into(), Bytes::new()));
                }
                let head = yaml(json!({"apiVersion": api_version})) + &items;
                (head.into(), yaml(json!({"kind": kind, "metadata": metadata})).into())
            }
            Format::Cbor => (self.cbor_head(&kind, &api_version)?, Bytes::new()),
            Format::Protobuf => {
                let schema = kinds::schema::schema();
                let list_meta = meta::proto::encode(schema, &format!("{META}.v1.ListMeta"), metadata);
                let mut head = Vec::new();
                meta::proto::bytes_field(&mut head, 1, &list_meta.map_err(Status::internal)?);
                let outer = meta::proto::open_envelope(&api_version, &kind, head.len() + items_bytes);
                ([outer, head].concat().into(), Bytes::new())
            }
        })
    }

    /// The marked map up to the items, whose number it tells.
    fn cbor_head(&self, kind: &str, api_version: &str) -> Result<Bytes> {
        let mut members = vec![
            ("kind", json!(kind)),
            ("apiVersion", json!(api_version)),
            ("metadata", self.metadata.clone()),
        ];
        if self.view == View::Table {
            members.push(("columnDefinitions", self.table().definitions()));
        }
        let mut out = codec::CBOR_MARK.to_vec();
        codec::cbor_header(&mut out, codec::CBOR_MAP, members.len() as u64 + 1);
        for (name, value) in &members {
            ciborium::into_writer(name, &mut out).map_err(Status::internal)?;
            ciborium::into_writer(value, &mut out).map_err(Status::internal)?;
        }
        ciborium::into_writer(self.member(), &mut out).map_err(Status::internal)?;
        match self.is_nil() {
            true => ciborium::into_writer(&Value::Null, &mut out).map_err(Status::internal)?,
            false => codec::cbor_header(&mut out, codec::CBOR_ARRAY, self.items.len() as u64),
        }
        Ok(out.into())
    }
}

/// An item of a protobuf list.
fn write_message(message: &[u8], out: &mut BytesMut) {
    let mut head = Vec::with_capacity(8);
    meta::proto::bytes_field_head(&mut head, ITEMS_FIELD, message.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(message);
}

impl Parts for List {
    fn each(
        &self,
        omit_managed_fields: bool,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let fail = |e: Status| io::Error::other(e.message);
        let (head, tail) = self.frame(Format::Json, 0).map_err(fail)?;
        sink(&head)?;
        let mut out = BytesMut::new();
        for (i, bytes) in self.items.iter().enumerate() {
            out.clear();
            if i > 0 {
                out.put_u8(b',');
            }
            if omit_managed_fields {
                let mut item = self.item(bytes).map_err(fail)?;
                strip_managed_fields(&mut item);
                // A row has its object in it.
                item.get_mut("object").map(strip_managed_fields);
                serde_json::to_writer((&mut out).writer(), &item)?;
            } else {
                self.write_item(Format::Json, bytes, &mut out).map_err(fail)?;
            }
            sink(&out)?;
        }
        sink(tail.trim_ascii_end())
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} items", self.type_meta().0, self.items.len())
    }
}

/// A list's pieces, made as they are asked for.
struct Pieces {
    list: List,
    format: Format,
    head: Option<Bytes>,
    /// The items of a protobuf list of stored objects.
    parts: std::vec::IntoIter<Part>,
    /// Pieces that were made already, of a protobuf list.
    held: std::vec::IntoIter<Bytes>,
    at: usize,
    tail: Bytes,
    done: bool,
}

impl Pieces {
    fn new(list: List, format: Format) -> Result<Self> {
        let mut out = Self {
            list,
            format,
            head: None,
            parts: Vec::new().into_iter(),
            held: Vec::new().into_iter(),
            at: 0,
            tail: Bytes::new(),
            done: false,
        };
        let length = if format == Format::Protobuf { out.measure()? } else { 0 };
        let (head, tail) = out.list.frame(format, length)?;
        (out.head, out.tail) = (Some(head), tail);
        Ok(out)
    }

    /// The length of all items. What is made for it is kept while it is little.
    fn measure(&mut self) -> Result<usize> {
        if self.list.view == View::Object {
            // The messages of stored objects are kept already, and shared.
            let message = self.list.message().ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))?;
            let parts = self.list.encoded.parts(message, &self.list.items)?;
            // Let go while they are in the cache.
            self.list.items = Vec::new();
            let length = |part: &Part| match part {
                Part::Run(items) => items.len(),
                Part::Single(one) => item_bytes(one),
            };
            let total = parts.iter().map(length).sum();
            self.parts = parts.into_iter();
            return Ok(total);
        }
        let (mut held, mut total, mut piece) = (Vec::new(), 0, wire::piece_memory(PIECE_BYTES));
        let mut kept = 0;
        for (i, item) in self.list.items.iter().enumerate() {
            self.list.write_item(self.format, item, &mut piece)?;
            if piece.len() < PIECE_BYTES && i + 1 < self.list.items.len() {
                continue;
            }
            total += piece.len();
            if total <= HELD_BYTES_MAX {
                let next = wire::piece_memory(PIECE_BYTES);
                held.push(std::mem::replace(&mut piece, next).freeze());
                kept = i + 1;
            }
            piece.clear();
        }
        (self.held, self.at) = (held.into_iter(), kept);
        Ok(total)
    }

    /// The bytes of an item as it is sent, where they are known before it is written.
    fn known_bytes(&self, item: &Bytes) -> usize {
        let as_stored = self.format == Format::Json && self.list.view == View::Object;
        if as_stored { item.len() } else { 0 }
    }

    fn fill(&mut self, out: &mut BytesMut) -> Result<()> {
        loop {
            let next = self.list.items.get(self.at).map_or(self.tail.len(), |item| self.known_bytes(item));
            if !out.is_empty() && out.len() + next >= PIECE_BYTES {
                break;
            }
            // What went out is let go.
            if let Some(item) = self.list.items.get_mut(self.at).map(std::mem::take) {
                if self.at > 0 && self.format == Format::Json {
                    out.put_u8(b',');
                }
                self.list.write_item(self.format, &item, out)?;
            } else {
                out.extend_from_slice(&self.tail);
                self.done = true;
                break;
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// The next piece of items: some that lie together, or messages that do from now on.
fn next_part(encoded: &Encoded, parts: &mut std::vec::IntoIter<Part>) -> Option<Bytes> {
    let mut bytes = 0;
    let count = parts.as_slice().iter().take_while(|part| match part {
        Part::Single(next) if bytes == 0 || bytes + item_bytes(next) <= PIECE_BYTES => {
            bytes += item_bytes(next);
            true
        }
        _ => false,
    });
    let count = count.count();
    if count == 0 {
        return match parts.next()? {
            Part::Run(items) => Some(items),
            Part::Single(_) => None,
        };
    }
    let (mut piece, mut copied) = (wire::piece_memory(bytes), Vec::with_capacity(count));
    for part in parts.take(count) {
        let Part::Single(single) = part else { break };
        let item = piece.len();
        write_message(&single.message, &mut piece);
        let begin = piece.len() - single.message.len();
        copied.push(Copied { single, item, begin });
    }
    let piece = piece.freeze();
    encoded.packed(&piece, copied);
    Some(piece)
}

fn item_bytes(single: &Single) -> usize {
    meta::proto::bytes_field_len(ITEMS_FIELD, single.message.len())
}

impl Iterator for Pieces {
    type Item = std::result::Result<Bytes, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.format == Format::Protobuf
            && let Some(piece) = self
                .head
                .take()
                .or_else(|| self.held.next())
                .or_else(|| next_part(&self.list.encoded, &mut self.parts))
        {
            return Some(Ok(piece));
        }
        let mut out = wire::piece_memory(PIECE_BYTES);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
        }
        if let Err(e) = self.fill(&mut out) {
            self.done = true;
            return Some(Err(e.message.into()));
        }
        if out.is_empty() { None } else { Some(Ok(out.freeze())) }
    }
}

#[cfg(test)]
mod tests;
