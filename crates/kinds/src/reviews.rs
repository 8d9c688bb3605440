//! Kinds that are asked and answered in one request and never stored: token and access reviews.

use crate::def::{KindDef, Scope};

const CREATE: &[&str] = &["create"];

fn authentication(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    schema: &'static str,
) -> KindDef {
    KindDef {
        group: "authentication.k8s.io".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: singular.into(),
        scope: Scope::Cluster,
        verbs: CREATE,
        schema: schema.into(),
        ..KindDef::BASE
    }
}

fn authorization(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    schema: &'static str,
) -> KindDef {
    KindDef { group: "authorization.k8s.io".into(), ..authentication(kind, plural, singular, schema) }
}

pub fn token_review() -> KindDef {
    let schema = "io.k8s.api.authentication.v1.TokenReview";
    KindDef {
        sample: "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {token: abc}\n",
        ..authentication("TokenReview", "tokenreviews", "tokenreview", schema)
    }
}

pub fn self_subject_review() -> KindDef {
    let schema = "io.k8s.api.authentication.v1.SelfSubjectReview";
    KindDef {
        sample: "apiVersion: authentication.k8s.io/v1\nkind: SelfSubjectReview\n",
        ..authentication("SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", schema)
    }
}

pub fn subject_access_review() -> KindDef {
    let schema = "io.k8s.api.authorization.v1.SubjectAccessReview";
    KindDef {
        sample: "apiVersion: authorization.k8s.io/v1\nkind: SubjectAccessReview\nspec: {user: alice, resourceAttributes: {verb: get, resource: pods}}\n",
        ..authorization("SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", schema)
    }
}

pub fn self_subject_access_review() -> KindDef {
    let schema = "io.k8s.api.authorization.v1.SelfSubjectAccessReview";
    KindDef {
        sample: "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectAccessReview\nspec: {resourceAttributes: {verb: get, resource: pods}}\n",
        ..authorization(
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
            schema,
        )
    }
}

pub fn local_subject_access_review() -> KindDef {
    let schema = "io.k8s.api.authorization.v1.LocalSubjectAccessReview";
    KindDef {
        scope: Scope::Namespaced,
        sample: "apiVersion: authorization.k8s.io/v1\nkind: LocalSubjectAccessReview\nmetadata: {namespace: default}\nspec: {user: alice, resourceAttributes: {namespace: default, verb: get, resource: pods}}\n",
        ..authorization(
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
            schema,
        )
    }
}

pub fn self_subject_rules_review() -> KindDef {
    let schema = "io.k8s.api.authorization.v1.SelfSubjectRulesReview";
    KindDef {
        sample: "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectRulesReview\nspec: {namespace: default}\n",
        ..authorization("SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview", schema)
    }
}
