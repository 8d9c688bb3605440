//! PriorityLevelConfiguration: how many requests run at once, and who waits.

use super::{prepare_update, row, status_errors};
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::validate::text;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

const SHARES_DEFAULT: i64 = 30;
const HAND_SIZE_DEFAULT: i64 = 8;
const QUEUES_DEFAULT: i64 = 64;
const QUEUE_LENGTH_DEFAULT: i64 = 50;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a flow's hash that shuffle sharding may use up (upstream: `shufflesharding.MaxHashBits`).
const HASH_BITS_MAX: i64 = 60;
/// An annotation of an older version that must not come in (upstream: `PriorityLevelPreserveZeroConcurrencySharesKey`).
const ZERO_SHARES_ANNOTATION: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

pub fn kind() -> KindDef {
    KindDef {
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Type", "string", |o, _| text(&o["spec"], "type").into()),
                column("NominalConcurrencyShares", "string", |o, _| {
                    shown(&o["spec"]["limited"]["nominalConcurrencyShares"])
                }),
                column("Queues", "string", |o, _| shown(&queuing(o)["queues"])),
                column("HandSize", "string", |o, _| shown(&queuing(o)["handSize"])),
                column("QueueLengthLimit", "string", |o, _| shown(&queuing(o)["queueLengthLimit"])),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&PriorityLevel),
        sample: "apiVersion: flowcontrol.apiserver.k8s.io/v1\nkind: PriorityLevelConfiguration\nmetadata: {name: pl}\nspec: {type: Limited, limited: {nominalConcurrencyShares: 5, limitResponse: {type: Queue, queuing: {queues: 64}}}}\n",
        ..row(
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
            "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
        )
    }
}

fn queuing(o: &Value) -> &Value {
    &o["spec"]["limited"]["limitResponse"]["queuing"]
}

fn shown(v: &Value) -> Value {
    if v.is_null() { "<none>".into() } else { v.clone() }
}

/// The specs of the mandatory levels (upstream: apiserver
/// `flowcontrol/bootstrap#MandatoryPriorityLevelConfigurations`).
pub fn mandatory(name: &str) -> Option<Value> {
    match name {
        "exempt" => {
            Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}))
        }
        "catch-all" => Some(json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}})),
        _ => None,
    }
}

struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn default(&self, obj: &mut Value) {
        if obj["spec"]["exempt"].is_object() {
            object::default_at(obj, &["spec", "exempt"], "nominalConcurrencyShares", 0);
            object::default_at(obj, &["spec", "exempt"], "lendablePercent", 0);
        }
        if obj["spec"]["limited"].is_object() {
            object::default_at(obj, &["spec", "limited"], "nominalConcurrencyShares", SHARES_DEFAULT);
            object::default_at(obj, &["spec", "limited"], "lendablePercent", 0);
        }
        if let Some(queuing) =
            obj.pointer_mut("/spec/limited/limitResponse/queuing").filter(|q| q.is_object())
        {
            for (field, value) in [
                ("handSize", HAND_SIZE_DEFAULT),
                ("queues", QUEUES_DEFAULT),
                ("queueLengthLimit", QUEUE_LENGTH_DEFAULT),
            ] {
                if queuing[field].as_i64().unwrap_or(0) == 0 {
                    queuing[field] = value.into();
                }
            }
        }
        object::default_at(obj, &[], "status", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        prepare_update(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        crate::status::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (name, path, spec) = (object::name(obj), Path::new("spec"), &obj["spec"]);
        if object::annotation(obj, ZERO_SHARES_ANNOTATION).is_some() {
            let detail = format!("annotation '{ZERO_SHARES_ANNOTATION}' is forbidden");
            errors.push(Error::forbidden(&Path::new("metadata").child("annotations"), detail));
        }
        spec_errors(name, spec, &path, &mut errors);
        fixed(name, spec, &path, &mut errors);
        status_errors(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource != "status" {
            return self.validate(new);
        }
        let mut errors = Vec::new();
        status_errors(new, &mut errors);
        errors
    }
}

/// Upstream: `ValidateIfMandatoryPriorityLevelConfigurationObject`; of `exempt`, `spec.exempt` is free.
fn fixed(name: &str, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(mut want) = mandatory(name) else { return };
    let detail = if name == "exempt" {
        match spec.get("exempt") {
            Some(exempt) => want["exempt"] = exempt.clone(),
            None => want = json!({"type": "Exempt"}),
        }
        "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value".to_owned()
    } else {
        format!("spec of '{name}' must equal the fixed value")
    };
    if want != *spec {
        errors.push(Error::invalid(path, spec.clone(), detail));
    }
}

/// Upstream: `ValidatePriorityLevelConfigurationSpec` with the declarative checks of its unions.
fn spec_errors(name: &str, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let ty = text(spec, "type");
    if (name == "exempt") != (ty == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(Error::invalid(&path.child("type"), ty, detail));
    }
    let (exempt, limited) = (&spec["exempt"], &spec["limited"]);
    match ty {
        "Exempt" => {
            shares(exempt, &path.child("exempt"), errors);
            percent(exempt, &path.child("exempt"), errors);
        }
        "Limited" => limited_errors(limited, &path.child("limited"), errors),
        "" => {}
        other => errors.push(Error::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
    }
    declared(spec, path, errors);
}

/// What is checked whatever the types are (upstream: `flowcontrol/v1/zz_generated.validations.go`).
fn declared(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (ty, limited) = (text(spec, "type"), &spec["limited"]);
    if !spec["exempt"].is_null() && ty != "Exempt" {
        errors.push(Error::forbidden(&path.child("exempt"), ""));
    }
    member(limited, ty == "Limited", &path.child("limited"), errors);
    if ty.is_empty() {
        errors.push(Error::required(&path.child("type"), ""));
    }
    if limited.is_null() {
        return;
    }
    let (response, at) = (&limited["limitResponse"], path.child("limited").child("limitResponse"));
    let ty = text(response, "type");
    member(&response["queuing"], ty == "Queue", &at.child("queuing"), errors);
    if ty.is_empty() {
        errors.push(Error::required(&at.child("type"), ""));
    }
}

/// The member of a union is there when it is chosen, and only then.
fn member(v: &Value, chosen: bool, path: &Path, errors: &mut ErrorList) {
    match (chosen, v.is_null()) {
        (true, true) => errors.push(Error::required(path, "")),
        (false, false) => errors.push(Error::forbidden(path, "")),
        _ => {}
    }
}

fn shares(v: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(n) = v["nominalConcurrencyShares"].as_i64().filter(|n| *n < 0) {
        let at = path.child("nominalConcurrencyShares");
        errors.push(Error::invalid(&at, n, "must be a non-negative integer"));
    }
}

fn percent(v: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(n) = v["lendablePercent"].as_i64().filter(|n| !(0..=100).contains(n)) {
        let at = path.child("lendablePercent");
        errors.push(Error::invalid(&at, n, "must be between 0 and 100, inclusive"));
    }
}

fn limited_errors(v: &Value, path: &Path, errors: &mut ErrorList) {
    shares(v, path, errors);
    let (response, at) = (&v["limitResponse"], path.child("limitResponse"));
    match text(response, "type") {
        "" | "Reject" => {}
        "Queue" if response["queuing"].is_null() => {}
        "Queue" => queuing_errors(&response["queuing"], &at.child("queuing"), errors),
        other => errors.push(Error::not_supported(&at.child("type"), other, &["Queue", "Reject"])),
    }
    percent(v, path, errors);
    if let Some(n) = v["borrowingLimitPercent"].as_i64().filter(|n| *n < 0) {
        let at = path.child("borrowingLimitPercent");
        errors.push(Error::invalid(&at, n, "if specified, must be a non-negative integer"));
    }
}

/// Upstream: `ValidatePriorityLevelQueuingConfiguration`.
fn queuing_errors(v: &Value, path: &Path, errors: &mut ErrorList) {
    let get = |f: &str| v[f].as_i64().unwrap_or(0);
    let (length, queues, hand) = (get("queueLengthLimit"), get("queues"), get("handSize"));
    if length <= 0 {
        errors.push(Error::invalid(&path.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(Error::invalid(&path.child("queues"), queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        errors.push(Error::invalid(&path.child("queues"), queues, detail));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.push(Error::invalid(&at, hand, "must be positive"));
    } else if hand > queues {
        errors.push(Error::invalid(&at, hand, format!("should not be greater than queues ({queues})")));
    } else if ((queues as f64).log2() * hand as f64).ceil() as i64 > HASH_BITS_MAX {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        );
        errors.push(Error::invalid(&at, hand, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;

    fn check(name: &str, spec: Value) -> String {
        let mut obj = json!({"metadata": {"name": name}, "spec": spec});
        PriorityLevel.default(&mut obj);
        let errors = PriorityLevel.validate(&obj);
        if errors.is_empty() { String::new() } else { aggregate(&errors) }
    }

    #[test]
    fn levels_are_checked() {
        for name in ["exempt", "catch-all"] {
            assert_eq!(check(name, mandatory(name).unwrap()), "");
            let ty = "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec";
            let spec = mandatory(name).unwrap();
            let decoded = crate::schema::schema().decode(spec.clone(), ty, meta::schema::Strictness::Strict);
            assert_eq!(decoded.unwrap(), (spec, Vec::new()));
        }
        assert_eq!(check("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5}})), "");
        assert!(
            check("catch-all", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}))
                .ends_with("spec of 'catch-all' must equal the fixed value")
        );
        assert_eq!(
            check("x", json!({"type": "Exempt"})),
            "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'"
        );
        assert_eq!(check("x", json!({"type": "Limited"})), "spec.limited: Required value");
        assert_eq!(
            check(
                "x",
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 512, "handSize": 7}}}})
            ),
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 512 and handSize 7 should not be greater than 60"
        );
        assert_eq!(
            check(
                "x",
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}})
            ),
            ""
        );
    }
}
