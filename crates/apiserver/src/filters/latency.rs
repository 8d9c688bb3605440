//! Where a slow request's time went, for its audit record
//! (upstream: apiserver `pkg/endpoints/request/webhook_duration.go`, `filters/audit.go#writeLatencyToAnnotation`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Faster requests do not say.
const SLOW: Duration = Duration::from_millis(500);
const PREFIX: &str = "apiserver.latency.k8s.io/";

/// A part of the server in which a request spends time.
#[derive(Clone, Copy, Debug)]
pub enum Layer {
    Authentication,
    Authorization,
    FlowWait,
    Impersonation,
    MutatingWebhook,
    ValidatingWebhook,
    Storage,
    Serialization,
}

const LAYERS: [(Layer, &str); 8] = [
    (Layer::Authentication, "authentication"),
    (Layer::Authorization, "authorization"),
    (Layer::FlowWait, "apf-queue-wait"),
    (Layer::Impersonation, "impersonation"),
    (Layer::MutatingWebhook, "mutating-webhook"),
    (Layer::ValidatingWebhook, "validating-webhook"),
    (Layer::Storage, "etcd"),
    (Layer::Serialization, "serialize-response-object"),
];

/// The time that one request has spent, in nanoseconds by layer.
#[derive(Debug, Default)]
pub struct Latencies([AtomicU64; LAYERS.len()]);

impl Latencies {
    /// Adds time; of what runs at once, or is asked more than once, the longest counts.
    pub fn spent(&self, layer: Layer, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let slot = &self.0[layer as usize];
        match layer {
            Layer::Authorization | Layer::FlowWait | Layer::ValidatingWebhook => {
                slot.fetch_max(nanos, Ordering::Relaxed)
            }
            _ => slot.fetch_add(nanos, Ordering::Relaxed),
        };
    }

    /// How long it waited for others: webhooks, and its turn (upstream: `LatencyTrackers`).
    pub fn waited(&self) -> Duration {
        let layers = [Layer::FlowWait, Layer::MutatingWebhook, Layer::ValidatingWebhook];
        Duration::from_nanos(layers.iter().map(|l| self.0[*l as usize].load(Ordering::Relaxed)).sum())
    }

    /// What the record of a request that took `total` says.
    pub fn annotations(&self, total: Duration) -> Vec<(String, String)> {
        if total <= SLOW {
            return Vec::new();
        }
        let of = |(layer, name): (Layer, &str)| {
            let nanos = self.0[layer as usize].load(Ordering::Relaxed);
            (nanos > 0).then(|| (format!("{PREFIX}{name}"), go_duration(Duration::from_nanos(nanos))))
        };
        let mut out: Vec<_> = LAYERS.into_iter().filter_map(of).collect();
        if !out.is_empty() {
            out.push((format!("{PREFIX}total"), go_duration(total)));
        }
        out
    }
}

/// Go's `Duration.String`.
fn go_duration(d: Duration) -> String {
    let nanos = d.as_nanos();
    // A number of nanoseconds in a larger unit, without needless digits.
    let decimal = |nanos: u128, unit: u128| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        format!("{whole}.{}", digits.trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}\u{b5}s", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = d.as_secs() / 60;
            let seconds = decimal(nanos - u128::from(minutes) * 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (12, "12ns"),
            (1_500, "1.5\u{b5}s"),
            (512_300_000, "512.3ms"),
            (1_000_000_001, "1.000000001s"),
            (62_500_000_000, "1m2.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn only_slow_requests_say_where_their_time_went() {
        let l = Latencies::default();
        let ms = Duration::from_millis;
        l.spent(Layer::Storage, ms(200));
        l.spent(Layer::Storage, ms(300));
        l.spent(Layer::Authorization, ms(2));
        l.spent(Layer::Authorization, ms(1));
        assert!(l.annotations(ms(500)).is_empty());
        let of = |k: &str, v: &str| (format!("{PREFIX}{k}"), v.to_owned());
        assert_eq!(
            l.annotations(ms(600)),
            [of("authorization", "2ms"), of("etcd", "500ms"), of("total", "600ms")]
        );
        assert!(Latencies::default().annotations(ms(600)).is_empty());
    }
}
