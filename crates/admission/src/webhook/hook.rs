//! A webhook as its configuration describes it.

use super::call::Failure;
use crate::chain::Attributes;
use crate::matching::{Rule, Selection};
use crate::policy::conditions::Conditions;
use base64::Engine as _;
use meta::object;
use meta::status::{Result, Status};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What upstream waits when a configuration does not say (its default is in the object, always).
const TIMEOUT_DEFAULT_SECONDS: u64 = 10;

/// Where a webhook is.
#[derive(Clone, Debug)]
pub enum Place {
    Url(String),
    Service { namespace: String, name: String, path: String, port: u16 },
}

/// `clientConfig`, of webhooks of every sort.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub place: Place,
    pub ca_pem: Vec<u8>,
}

impl ClientConfig {
    pub fn parse(v: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let service = &v["service"];
        let place = match v["url"].as_str() {
            Some(url) => Place::Url(url.to_owned()),
            None => Place::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                path: text(&service["path"]),
                port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            },
        };
        let ca = base64::engine::general_purpose::STANDARD.decode(v["caBundle"].as_str().unwrap_or(""));
        Self { place, ca_pem: ca.unwrap_or_default() }
    }
}

/// One webhook of a configuration.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Unique among all webhooks.
    pub id: String,
    pub configuration: String,
    pub name: String,
    pub client: ClientConfig,
    pub rules: Vec<Rule>,
    pub equivalent: bool,
    pub selection: Selection,
    pub conditions: Arc<Conditions>,
    pub ignore_failures: bool,
    /// Whether it may be asked about what will not happen.
    pub dry_run_safe: bool,
    pub timeout: Duration,
    pub review_versions: Vec<String>,
    pub reinvoke: bool,
}

/// All webhooks of all configurations, in the order in which they are called.
pub fn all(configurations: &[Value]) -> Vec<Hook> {
    let mut sorted: Vec<&Value> = configurations.iter().collect();
    sorted.sort_by_key(|c| object::name(c).to_owned());
    let webhooks = |c: &Value| c["webhooks"].as_array().cloned().unwrap_or_default();
    sorted
        .into_iter()
        .flat_map(|c| {
            webhooks(c).into_iter().enumerate().map(move |(i, w)| hook(c, i, &w)).collect::<Vec<_>>()
        })
        .collect()
}

fn hook(configuration: &Value, i: usize, w: &Value) -> Hook {
    let name = w["name"].as_str().unwrap_or("").to_owned();
    let rules = w["rules"].as_array().into_iter().flatten();
    Hook {
        id: format!("{}/{name}/{i}", object::name(configuration)),
        configuration: object::name(configuration).to_owned(),
        client: ClientConfig::parse(&w["clientConfig"]),
        rules: rules.map(Rule::parse).collect(),
        equivalent: w["matchPolicy"] == "Equivalent",
        selection: Selection::parse(w),
        conditions: Arc::new(Conditions::of_webhook(w)),
        ignore_failures: w["failurePolicy"] == "Ignore",
        dry_run_safe: w["sideEffects"] == "None" || w["sideEffects"] == "NoneOnDryRun",
        timeout: Duration::from_secs(w["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_DEFAULT_SECONDS)),
        review_versions: object::strings(&w["admissionReviewVersions"]),
        reinvoke: w["reinvocationPolicy"] == "IfNeeded",
        name,
    }
}

impl Hook {
    /// What becomes of the request when the webhook did not agree.
    pub fn failed(&self, failure: Failure, a: &Attributes<'_>, key: &str) -> Result<()> {
        match failure {
            Failure::Refused(status) => Err(status),
            Failure::Calling(why) if self.ignore_failures => {
                tracing::warn!(webhook = self.name, "failed calling webhook, failing open: {why}");
                a.notes.annotate(key, &self.name);
                Ok(())
            }
            Failure::Calling(why) => {
                Err(Status::internal(format!("failed calling webhook {:?}: {why}", self.name)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hooks_are_called_by_the_name_of_their_configuration() {
        let of = |name: &str, hooks: &[&str]| {
            let webhooks: Vec<Value> = hooks.iter().map(|h| json!({"name": h})).collect();
            json!({"metadata": {"name": name}, "webhooks": webhooks})
        };
        let all = all(&[of("b", &["b2", "b1"]), of("a", &["a1"])]);
        let names: Vec<&str> = all.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["a1", "b2", "b1"]);
    }

    #[test]
    fn a_service_is_asked_on_443() {
        let c = ClientConfig::parse(&json!({"service": {"namespace": "n", "name": "s"}, "caBundle": "YQ=="}));
        assert_eq!(c.ca_pem, b"a");
        assert!(matches!(c.place, Place::Service { port: 443, .. }));
    }
}
