//! Probes: one task per running container and kind, first run at once (after `initialDelaySeconds`), then each period
//! (upstream: `pkg/kubelet/prober`).
//!
//! [`Tally`] decides, purely, when a run of results becomes a verdict; a task ends with its container. Differs from
//! upstream on purpose: until the first success, a connection that is refused in the first period is tried again with
//! short, growing pauses before it counts as the period's failure, so that a container is ready as soon as it listens.

pub mod http;
pub mod net;

use crate::pod::references::container_reference;
use crate::ports::NodeApi;
use crate::runtime::Runtime;
use base::clock::SharedClock;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Tries of a probe that could not be made at all (upstream: `maxProbeRetries`).
const RETRIES: usize = 3;
/// First pause of the quick retries; it doubles.
const QUICK_PAUSE: Duration = Duration::from_millis(10);
/// Longest output of a probe kept in an event, in bytes (upstream: `maxProbeMessageLength`).
const MESSAGE_MAX: usize = 10 * 1024;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// As events name it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// One run of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Good, with a remark.
    Warning(String),
    Failure(String),
    /// Nobody listens: the container may not be up yet.
    Refused(String),
    /// The probe itself could not be made.
    Error(String),
}

/// Counts equal results up to the thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

impl Tally {
    pub fn new(probe: &Probe) -> Self {
        let at_least =
            |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(default).max(1);
        Self {
            success_threshold: at_least(probe.success_threshold, 1),
            failure_threshold: at_least(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Takes a result; the verdict when its threshold is reached.
    pub fn feed(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let needed = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= needed).then_some(success)
    }
}

/// A verdict on a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub container: String,
    pub container_id: String,
    pub kind: ProbeKind,
    pub success: bool,
}

/// What probes are made with.
#[derive(Clone)]
pub struct Prober {
    pub runtime: Arc<dyn Runtime>,
    pub api: Arc<dyn NodeApi>,
    pub clock: SharedClock,
}

/// The container that a task probes.
#[derive(Clone)]
pub struct Target {
    pub pod: Arc<Pod>,
    pub pod_uid: String,
    pub container: Container,
    pub container_id: String,
    pub ip: Option<IpAddr>,
    pub started_ns: i64,
}

/// Probes until the task is dropped, or until a startup or failed liveness verdict ends it.
pub async fn run<M: From<Verdict> + Send>(
    prober: Prober,
    target: Target,
    kind: ProbeKind,
    out: mpsc::Sender<M>,
) {
    let Some(probe) = kind.of(&target.container).cloned() else { return };
    let seconds = |n: Option<i32>, default: u64| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(default);
    let period = Duration::from_secs(seconds(probe.period_seconds, 10).max(1));
    let delay = Duration::from_secs(seconds(probe.initial_delay_seconds, 0));
    tokio::time::sleep(left_of_delay(&prober, &target, delay)).await;
    let mut tally = Tally::new(&probe);
    let mut shown = None;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut quick = true;
    loop {
        let outcome = if quick {
            once_quickly(&prober, &target, &probe, period).await
        } else {
            once(&prober, &target, &probe).await
        };
        quick = false;
        let success = report(&prober, &target, kind, outcome);
        if let Some(verdict) = success.and_then(|s| tally.feed(s))
            && shown != Some(verdict)
        {
            shown = Some(verdict);
            let message = Verdict {
                container: target.container.name.clone(),
                container_id: target.container_id.clone(),
                kind,
                success: verdict,
            };
            if out.send(message.into()).await.is_err() {
                return;
            }
            if kind == ProbeKind::Startup || (kind == ProbeKind::Liveness && !verdict) {
                return;
            }
        }
        ticks.tick().await;
    }
}

fn left_of_delay(prober: &Prober, target: &Target, delay: Duration) -> Duration {
    let now = crate::pod::model::to_ns(prober.clock.now());
    let run = u64::try_from(now.saturating_sub(target.started_ns)).unwrap_or(0);
    delay.saturating_sub(Duration::from_nanos(run))
}

/// Notes what is worth an event; whether the probe succeeded, nothing when it could not be made.
fn report(prober: &Prober, target: &Target, kind: ProbeKind, outcome: Outcome) -> Option<bool> {
    let about = container_reference(&target.pod, &target.container.name);
    let title = kind.title();
    let warn = |reason: &str, text: String| prober.api.event(&about, true, reason, &text);
    match outcome {
        Outcome::Success => Some(true),
        Outcome::Warning(text) => {
            warn("ProbeWarning", format!("{title} probe warning: {}", bounded(&text)));
            Some(true)
        }
        Outcome::Failure(text) | Outcome::Refused(text) => {
            warn("Unhealthy", format!("{title} probe failed: {}", bounded(&text)));
            Some(false)
        }
        Outcome::Error(text) => {
            warn(
                "Unhealthy",
                format!("{title} probe errored and resulted in unknown state: {}", bounded(&text)),
            );
            None
        }
    }
}

fn bounded(text: &str) -> &str {
    let mut end = MESSAGE_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The first probe: a refused connection is tried again for the length of a period.
async fn once_quickly(prober: &Prober, target: &Target, probe: &Probe, period: Duration) -> Outcome {
    let begin = prober.clock.monotonic();
    let mut pause = QUICK_PAUSE;
    loop {
        let outcome = once(prober, target, probe).await;
        let spent = prober.clock.monotonic().saturating_sub(begin);
        if !matches!(outcome, Outcome::Refused(_)) || spent + pause >= period {
            return outcome;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn once(prober: &Prober, target: &Target, probe: &Probe) -> Outcome {
    let mut outcome = Outcome::Error("the probe was not made".into());
    for _ in 0..RETRIES {
        outcome = handler(prober, target, probe).await;
        if !matches!(outcome, Outcome::Error(_)) {
            break;
        }
    }
    outcome
}

async fn handler(prober: &Prober, target: &Target, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        let args = expand_static(exec.command.as_deref().unwrap_or_default(), &target.container);
        return match prober.runtime.exec_sync(&target.pod_uid, &target.container_id, &args, timeout).await {
            Ok((0, _)) => Outcome::Success,
            Ok((_, output)) => Outcome::Failure(String::from_utf8_lossy(&output).into_owned()),
            Err(e) if e.why.contains("timed out") => Outcome::Failure(e.to_string()),
            Err(e) => Outcome::Error(e.to_string()),
        };
    }
    let ip = target.ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(get) = &probe.http_get {
        return match http_request(get, &target.container, &ip, "probe") {
            Ok(request) => http::probe(&request, timeout).await,
            Err(e) => Outcome::Error(e),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or(ip);
        return match port(&tcp.port, &target.container) {
            Ok(port) => net::tcp(&host, port, timeout).await,
            Err(e) => Outcome::Error(e),
        };
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).unwrap_or(0);
        return net::grpc(&ip, port, grpc.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Error(format!(
        "missing probe handler for {}:{}",
        crate::pod::spec::display(&target.pod),
        target.container.name
    ))
}

/// Probes see only variables that are written out (upstream: `ExpandContainerCommandOnlyStatic`).
fn expand_static(command: &[String], container: &Container) -> Vec<String> {
    let value = |name: &str| {
        let vars = container.env.as_deref().unwrap_or_default();
        vars.iter()
            .rev()
            .find(|v| v.name == name && v.value_from.is_none())
            .map(|v| v.value.as_deref().unwrap_or_default())
    };
    command.iter().map(|c| crate::pod::expand::expand(c, value)).collect()
}

/// A port by number or by the container's name for it (upstream: `probe.ResolveContainerPort`).
///
/// # Errors
/// Upstream's text.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            match ports.iter().find(|p| p.name.as_deref() == Some(name)) {
                Some(p) => p.container_port,
                None => {
                    name.parse().map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"))?
                }
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// The request of an `httpGet` (upstream: `NewRequestForHTTPGetAction`).
///
/// # Errors
/// A port that does not resolve.
pub fn http_request(
    get: &HTTPGetAction,
    container: &Container,
    ip: &str,
    purpose: &str,
) -> Result<http::Request, String> {
    let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone()));
    Ok(http::Request {
        tls: get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host: get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_owned()),
        port: port(&get.port, container)?,
        path: get.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into()),
        headers: headers.collect(),
        user_agent: format!("kube-{purpose}/1.37"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thresholds() {
        let probe: Probe =
            serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3})).unwrap();
        let mut t = Tally::new(&probe);
        let got: Vec<_> =
            [true, true, true, false, false, true, false, false, false].map(|r| t.feed(r)).into();
        let (y, n) = (Some(true), Some(false));
        assert_eq!(got, [None, y, y, None, None, None, None, None, n]);
    }

    #[test]
    fn ports_and_commands() {
        let c: Container = serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}))
        .unwrap();
        assert_eq!(port(&IntOrString::String("web".into()), &c), Ok(8080));
        assert_eq!(port(&IntOrString::String("81".into()), &c), Ok(81));
        assert!(port(&IntOrString::String("nope".into()), &c).is_err());
        assert_eq!(port(&IntOrString::Int(70000), &c).unwrap_err(), "invalid port number: 70000");
        assert_eq!(expand_static(&["$(A)-$(B)".into()], &c), ["1-$(B)"]);
    }
}
