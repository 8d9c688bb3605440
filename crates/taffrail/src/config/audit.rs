//! The flags of the audit backends, under upstream's names (upstream: apiserver `pkg/server/options/audit.go`).

use super::{duration, switch};
use audit::batch::{Batch, Mode};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

const MODES: [&str; 3] = ["batch", "blocking", "blocking-strict"];
const VERSION: &str = "audit.k8s.io/v1";

/// Policy, log file and webhook.
#[derive(Args, Clone, Debug)]
pub struct AuditOptions {
    /// Audit policy (audit.k8s.io/v1); the built-in policy by default
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,

    #[command(flatten)]
    pub log: AuditLogOptions,

    #[command(flatten)]
    pub webhook: AuditWebhookOptions,
}

/// The log file.
#[derive(Args, Clone, Debug)]
pub struct AuditLogOptions {
    /// Also write audit events to this file in upstream's format; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<String>,

    /// Days that rotated audit log files are kept; 0 is for ever
    #[arg(long, default_value_t = 366, value_name = "DAYS")]
    pub audit_log_maxage: u32,

    /// Rotated audit log files that are kept; 0 is all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub audit_log_maxbackup: u32,

    /// Size in MiB at which the audit log is rotated; 0 is never
    #[arg(long, default_value_t = 100, value_name = "MIB")]
    pub audit_log_maxsize: u32,

    /// Format of the audit log
    #[arg(long, default_value = "json", value_parser = ["json", "legacy"])]
    pub audit_log_format: String,

    /// Group and version of events in the audit log
    #[arg(long, default_value = VERSION, value_parser = [VERSION])]
    pub audit_log_version: String,

    /// Compress rotated audit log files
    #[arg(
        long,
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch,
        action = clap::ArgAction::Set,
        hide_default_value = true,
    )]
    pub audit_log_compress: bool,

    /// How the audit log is written
    #[arg(long, default_value = "blocking", value_parser = MODES)]
    pub audit_log_mode: String,

    /// Events that wait for the log in batch mode; more are dropped and counted
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub audit_log_batch_buffer_size: usize,

    /// Events that are written to the log at once in batch mode
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub audit_log_batch_max_size: usize,

    /// How long a batch waits for more events in batch mode
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub audit_log_batch_max_wait: Duration,

    /// Limit the rate of batches in batch mode
    #[arg(
        long,
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch,
        action = clap::ArgAction::Set,
        hide_default_value = true,
    )]
    pub audit_log_batch_throttle_enable: bool,

    /// Batches a second on average, with the rate limited
    #[arg(long, default_value_t = 0.0, value_name = "N")]
    pub audit_log_batch_throttle_qps: f64,

    /// Batches that may be written at once after a pause, with the rate limited
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub audit_log_batch_throttle_burst: u32,

    /// Leave out bodies, then whole events, that are larger than the log's limits
    #[arg(
        long,
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch,
        action = clap::ArgAction::Set,
        hide_default_value = true,
    )]
    pub audit_log_truncate_enabled: bool,

    /// Largest size in bytes of a batch in the log, with truncation
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES")]
    pub audit_log_truncate_max_batch_size: usize,

    /// Largest size in bytes of one event in the log, with truncation
    #[arg(long, default_value_t = 102_400, value_name = "BYTES")]
    pub audit_log_truncate_max_event_size: usize,
}

/// A server that events are sent to.
#[derive(Args, Clone, Debug)]
pub struct AuditWebhookOptions {
    /// Kubeconfig of a server that audit events are sent to
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,

    /// Pause before a failed request to the webhook is tried again; it grows
    #[arg(long, alias = "audit-webhook-batch-initial-backoff", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub audit_webhook_initial_backoff: Duration,

    /// Group and version of events that are sent to the webhook
    #[arg(long, default_value = VERSION, value_parser = [VERSION])]
    pub audit_webhook_version: String,

    /// How events are sent to the webhook
    #[arg(long, default_value = "batch", value_parser = MODES)]
    pub audit_webhook_mode: String,

    /// Events that wait for the webhook; more are dropped and counted
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub audit_webhook_batch_buffer_size: usize,

    /// Events in one request to the webhook
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub audit_webhook_batch_max_size: usize,

    /// Time after which a batch is sent even if it is not full
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub audit_webhook_batch_max_wait: Duration,

    /// Limit the rate of batches
    #[arg(
        long,
        default_value = "true",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch,
        action = clap::ArgAction::Set,
    )]
    pub audit_webhook_batch_throttle_enable: bool,

    /// Batches a second that are sent to the webhook, on average
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub audit_webhook_batch_throttle_qps: f64,

    /// Batches that may be sent at once after a pause
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub audit_webhook_batch_throttle_burst: u32,

    /// Leave out bodies, then whole events, that are larger than the webhook's limits
    #[arg(
        long,
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch,
        action = clap::ArgAction::Set,
        hide_default_value = true,
    )]
    pub audit_webhook_truncate_enabled: bool,

    /// Largest size in bytes of a request to the webhook, with truncation
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES")]
    pub audit_webhook_truncate_max_batch_size: usize,

    /// Largest size in bytes of one event to the webhook, with truncation
    #[arg(long, default_value_t = 102_400, value_name = "BYTES")]
    pub audit_webhook_truncate_max_event_size: usize,
}

/// A backend's mode, batches and limits, as it takes them.
pub struct Backend {
    pub mode: Mode,
    pub batch: Batch,
    /// Bytes of an event and of a batch.
    pub limits: Option<(usize, usize)>,
}

impl AuditLogOptions {
    /// # Errors
    /// The flags contradict each other, in upstream's words.
    pub fn backend(&self) -> Result<Backend, String> {
        Given {
            plugin: "log",
            mode: &self.audit_log_mode,
            buffer_events: self.audit_log_batch_buffer_size,
            batch_events: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait,
            throttle: self.audit_log_batch_throttle_enable,
            rate: self.audit_log_batch_throttle_qps,
            burst: self.audit_log_batch_throttle_burst,
            truncate: self.audit_log_truncate_enabled,
            event_bytes: self.audit_log_truncate_max_event_size,
            batch_bytes: self.audit_log_truncate_max_batch_size,
        }
        .checked()
    }
}

impl AuditWebhookOptions {
    /// # Errors
    /// The flags contradict each other, in upstream's words.
    pub fn backend(&self) -> Result<Backend, String> {
        Given {
            plugin: "webhook",
            mode: &self.audit_webhook_mode,
            buffer_events: self.audit_webhook_batch_buffer_size,
            batch_events: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable,
            rate: self.audit_webhook_batch_throttle_qps,
            burst: self.audit_webhook_batch_throttle_burst,
            truncate: self.audit_webhook_truncate_enabled,
            event_bytes: self.audit_webhook_truncate_max_event_size,
            batch_bytes: self.audit_webhook_truncate_max_batch_size,
        }
        .checked()
    }
}

/// What both backends are told alike.
struct Given<'a> {
    plugin: &'a str,
    mode: &'a str,
    buffer_events: usize,
    batch_events: usize,
    max_wait: Duration,
    throttle: bool,
    rate: f64,
    burst: u32,
    truncate: bool,
    event_bytes: usize,
    batch_bytes: usize,
}

impl Given<'_> {
    /// Upstream: `validateBackendBatchOptions`, `AuditTruncateOptions.Validate`.
    fn checked(self) -> Result<Backend, String> {
        let plugin = self.plugin;
        let mode = match self.mode {
            "batch" => Mode::Batch,
            "blocking-strict" => Mode::BlockingStrict,
            _ => Mode::Blocking,
        };
        let positive = |wrong: bool, what: &str, value: String| match wrong {
            true => Err(format!("invalid audit {what} {value}, must be a positive number")),
            false => Ok(()),
        };
        let batch = |what: &str| format!("batch {plugin} {what}");
        if mode == Mode::Batch {
            positive(self.buffer_events == 0, &batch("buffer size"), self.buffer_events.to_string())?;
            positive(self.batch_events == 0, &batch("max batch size"), self.batch_events.to_string())?;
            if self.throttle {
                positive(self.rate <= 0.0, &batch("throttle QPS"), self.rate.to_string())?;
                positive(self.burst == 0, &batch("throttle burst"), self.burst.to_string())?;
            }
        }
        let events = format!("truncate {plugin} max event size");
        positive(self.event_bytes == 0, &events, self.event_bytes.to_string())?;
        if self.batch_bytes < self.event_bytes {
            return Err(format!(
                "invalid audit truncate {plugin} max batch size {}, must be greater than max event size ({})",
                self.batch_bytes, self.event_bytes
            ));
        }
        Ok(Backend {
            mode,
            batch: Batch {
                buffer_events: self.buffer_events,
                batch_events: self.batch_events,
                max_wait: self.max_wait,
                throttle: (mode == Mode::Batch && self.throttle).then_some((self.rate, self.burst)),
            },
            limits: self.truncate.then_some((self.event_bytes, self.batch_bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        audit: AuditOptions,
    }

    fn parsed(args: &[&str]) -> AuditOptions {
        Cli::try_parse_from(["x"].iter().chain(args)).expect("parsed").audit
    }

    #[test]
    fn upstreams_defaults() {
        let o = parsed(&[]);
        let (log, hook) = (o.log.backend().expect("valid"), o.webhook.backend().expect("valid"));
        assert_eq!((log.mode, log.batch.buffer_events, log.batch.batch_events), (Mode::Blocking, 10_000, 1));
        assert_eq!(
            (hook.mode, hook.batch.buffer_events, hook.batch.batch_events),
            (Mode::Batch, 10_000, 400)
        );
        assert_eq!((hook.batch.max_wait, hook.batch.throttle), (Duration::from_secs(30), Some((10.0, 15))));
        assert_eq!((log.limits, hook.limits), (None, None));
    }

    #[test]
    fn switches_and_durations_are_written_as_upstream_writes_them() {
        let o = parsed(&[
            "--audit-webhook-batch-throttle-enable=false",
            "--audit-webhook-batch-initial-backoff=1m30s",
            "--audit-log-compress",
            "--audit-log-truncate-enabled=true",
        ]);
        assert_eq!(o.webhook.backend().expect("valid").batch.throttle, None);
        assert_eq!(o.webhook.audit_webhook_initial_backoff, Duration::from_secs(90));
        assert!(o.log.audit_log_compress && o.log.backend().expect("valid").limits.is_some());
    }

    #[test]
    fn what_cannot_be_is_refused_in_upstreams_words() {
        let of = |args: &[&str]| parsed(args).log.backend().err().unwrap_or_default();
        assert_eq!(
            of(&["--audit-log-mode=batch", "--audit-log-batch-buffer-size=0"]),
            "invalid audit batch log buffer size 0, must be a positive number"
        );
        assert_eq!(
            of(&["--audit-log-mode=batch", "--audit-log-batch-throttle-enable"]),
            "invalid audit batch log throttle QPS 0, must be a positive number"
        );
        assert_eq!(
            of(&["--audit-log-truncate-max-batch-size=5"]),
            "invalid audit truncate log max batch size 5, must be greater than max event size (102400)"
        );
    }
}
