//! Who owns whom, as far as the watches have shown (upstream: `graph_builder.go`).
//!
//! An owner that is referred to but was never seen is in the graph as a virtual node until it is seen or found absent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{HashMap, HashSet};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// Where an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Something to look into, by uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Whether the object is to be deleted.
    Delete(String),
    /// The object is to be deleted without its dependents: they must lose their references to it.
    Orphan(String),
}

#[derive(Clone, Debug, Default)]
struct Node {
    identity: Identity,
    owners: Vec<OwnerReference>,
    dependents: HashSet<String>,
    deleting: bool,
    waits_for_dependents: bool,
    orphans_dependents: bool,
    seen: bool,
}

/// A node as the executor sees it.
#[derive(Clone, Debug)]
pub struct View {
    pub identity: Identity,
    pub deleting: bool,
    pub waits_for_dependents: bool,
    pub seen: bool,
    pub dependents: Vec<Dependent>,
}

/// Something that refers to an owner.
#[derive(Clone, Debug)]
pub struct Dependent {
    pub identity: Identity,
    /// Its reference asks that the owner stay until it is gone.
    pub blocks: bool,
    pub waits_for_dependents: bool,
}

/// The ownership graph.
#[derive(Default)]
pub struct Graph(HashMap<String, Node>);

impl Graph {
    /// An object was seen; what there is to look into because of it.
    pub fn apply(&mut self, api_version: &str, kind: &str, meta: &ObjectMeta) -> Vec<Work> {
        let uid = meta.uid.clone().unwrap_or_default();
        if uid.is_empty() {
            return Vec::new();
        }
        let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
        let deleting = meta.deletion_timestamp.is_some();
        let new = Node {
            identity: Identity {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
                uid: uid.clone(),
            },
            owners: meta.owner_references.clone().unwrap_or_default(),
            dependents: HashSet::new(),
            deleting,
            waits_for_dependents: deleting && has(FOREGROUND),
            orphans_dependents: deleting && has(ORPHAN),
            seen: true,
        };
        let mut work = Vec::new();
        let old = self.0.remove(&uid).unwrap_or_default();
        if new.orphans_dependents && !old.orphans_dependents {
            work.push(Work::Orphan(uid.clone()));
        }
        if new.waits_for_dependents && !old.waits_for_dependents {
            work.extend(old.dependents.iter().cloned().map(Work::Delete));
            work.push(Work::Delete(uid.clone()));
        }
        for was in &old.owners {
            let is = new.owners.iter().find(|o| o.uid == was.uid);
            let unblocked = was.block_owner_deletion == Some(true)
                && is.is_none_or(|o| o.block_owner_deletion != Some(true));
            if is.is_none() {
                self.detach(&was.uid, &uid);
            }
            if unblocked && self.0.get(&was.uid).is_some_and(|o| o.waits_for_dependents) {
                work.push(Work::Delete(was.uid.clone()));
            }
        }
        self.attach(&new, &mut work);
        self.0.insert(uid, Node { dependents: old.dependents, ..new });
        work
    }

    /// Links a node to its owners.
    fn attach(&mut self, node: &Node, work: &mut Vec<Work>) {
        let me = &node.identity;
        for owner in &node.owners {
            match self.0.get_mut(&owner.uid) {
                Some(o) => {
                    o.dependents.insert(me.uid.clone());
                    // a reference that names another object than the uid's, or crosses namespaces, is looked at live
                    let other = o.identity.api_version != owner.api_version
                        || o.identity.kind != owner.kind
                        || o.identity.name != owner.name;
                    let foreign = !o.identity.namespace.is_empty() && o.identity.namespace != me.namespace;
                    if other || foreign {
                        work.push(Work::Delete(me.uid.clone()));
                    }
                }
                None => {
                    let identity = Identity {
                        api_version: owner.api_version.clone(),
                        kind: owner.kind.clone(),
                        namespace: me.namespace.clone(),
                        name: owner.name.clone(),
                        uid: owner.uid.clone(),
                    };
                    let dependents = HashSet::from([me.uid.clone()]);
                    self.0.insert(owner.uid.clone(), Node { identity, dependents, ..Node::default() });
                    work.push(Work::Delete(owner.uid.clone()));
                }
            }
        }
    }

    /// An object is gone: its dependents may have to go, and its owners may have waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.0.remove(uid) else { return Vec::new() };
        let mut work: Vec<Work> = node.dependents.iter().cloned().map(Work::Delete).collect();
        for owner in &node.owners {
            self.detach(&owner.uid, uid);
            if self.0.get(&owner.uid).is_some_and(|o| o.waits_for_dependents) {
                work.push(Work::Delete(owner.uid.clone()));
            }
        }
        work
    }

    /// Removes the seen objects of a kind that are not there any more.
    pub fn retain_kind(&mut self, api_version: &str, kind: &str, there: &dyn Fn(&str) -> bool) -> Vec<Work> {
        let of_kind = |n: &Node| n.seen && n.identity.api_version == api_version && n.identity.kind == kind;
        let gone: Vec<String> =
            self.0.iter().filter(|(uid, n)| of_kind(n) && !there(uid)).map(|(u, _)| u.clone()).collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// A kind is no longer served.
    pub fn forget_kind(&mut self, api_version: &str, kind: &str) -> Vec<Work> {
        self.retain_kind(api_version, kind, &|_| false)
    }

    pub fn view(&self, uid: &str) -> Option<View> {
        let node = self.0.get(uid)?;
        let dependent = |d: &Node| Dependent {
            identity: d.identity.clone(),
            blocks: d.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true)),
            waits_for_dependents: d.waits_for_dependents,
        };
        Some(View {
            identity: node.identity.clone(),
            deleting: node.deleting,
            waits_for_dependents: node.waits_for_dependents,
            seen: node.seen,
            dependents: node.dependents.iter().filter_map(|d| self.0.get(d)).map(dependent).collect(),
        })
    }

    fn detach(&mut self, owner: &str, dependent: &str) {
        if let Some(o) = self.0.get_mut(owner) {
            o.dependents.remove(dependent);
            // nobody refers to a node that was never seen: it is not needed
            if !o.seen && o.dependents.is_empty() {
                self.0.remove(owner);
            }
        }
    }
}
