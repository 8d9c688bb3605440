//! Binding, posted by schedulers and not stored: the old way to bind a pod, by the name of the binding
//! (upstream: `pkg/registry/core/pod/storage#LegacyBindingREST`).

use crate::def::KindDef;

pub fn kind() -> KindDef {
    KindDef {
        kind: "Binding".into(),
        plural: "bindings".into(),
        singular: "binding".into(),
        verbs: &["create"],
        schema: "io.k8s.api.core.v1.Binding".into(),
        sample: "apiVersion: v1\nkind: Binding\nmetadata: {name: web, namespace: default}\ntarget: {apiVersion: v1, kind: Node, name: n1}\n",
        ..KindDef::BASE
    }
}
