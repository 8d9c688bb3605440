//! Requests for tests. There is one maker of permits in a process, and it is here.

use crate::{Attributes, Call, Notes};
use auth::Authorizer;
use auth::identity::Identity;
use kinds::KindDef;
use meta::permit::{Permit, PermitMaker};
use registry::Operation;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

pub fn permit() -> Permit {
    static MAKER: OnceLock<PermitMaker> = OnceLock::new();
    MAKER.get_or_init(|| PermitMaker::take().expect("the only maker")).permit()
}

/// What plugins say is not kept.
pub struct NoNotes;

impl Notes for NoNotes {
    fn annotate(&self, _: &str, _: &str) {}
    fn warn(&self, _: &str) {}
}

/// The request of `somebody`, who may do nothing, to create the pod `p` in the namespace `n`.
pub fn with_attributes<R>(then: impl FnOnce(&Attributes<'_>, &KindDef, &Authorizer) -> R) -> R {
    let rows = kinds::table();
    let row = rows.into_iter().find(|r| r.kind == "Pod").expect("pods are served");
    let user = Identity::new("somebody", &["group"]);
    let options: Value = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"});
    let a = Attributes {
        user: &user,
        kind: &row,
        namespace: "n",
        name: "p",
        subresource: "",
        operation: Operation::Create,
        dry_run: false,
        options: &options,
        call: &Call::default(),
        notes: &NoNotes,
        permit: permit(),
    };
    then(&a, &row, &Authorizer::new(Arc::default(), Arc::default()))
}
