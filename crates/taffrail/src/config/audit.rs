//! The flags of the audit backends, under upstream's names (upstream: apiserver `pkg/server/options/audit.go`).

use clap::Args;
use std::path::PathBuf;

/// Policy, log file and webhook.
#[derive(Args, Clone, Debug)]
pub struct AuditOptions {
    /// Audit policy (audit.k8s.io/v1); the built-in policy by default
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,

    /// Also write audit events to this file in upstream's format; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<String>,

    /// Days that rotated audit log files are kept
    #[arg(long, default_value_t = 366, value_name = "DAYS")]
    pub audit_log_maxage: u32,

    /// Rotated audit log files that are kept
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub audit_log_maxbackup: u32,

    /// Size in MiB at which the audit log is rotated; 0 is never
    #[arg(long, default_value_t = 100, value_name = "MIB")]
    pub audit_log_maxsize: u32,

    /// Format of the audit log
    #[arg(long, default_value = "json", value_parser = ["json", "legacy"])]
    pub audit_log_format: String,

    /// How the audit log is written
    #[arg(long, default_value = "blocking", value_parser = ["blocking", "blocking-strict", "batch"])]
    pub audit_log_mode: String,

    /// Compress rotated audit log files
    #[arg(long)]
    pub audit_log_compress: bool,

    /// Leave out bodies, then whole events, that are larger than the log's limits
    #[arg(long)]
    pub audit_log_truncate_enabled: bool,

    /// Largest size in bytes of one event in the log, with truncation
    #[arg(long, default_value_t = 102_400, value_name = "BYTES")]
    pub audit_log_truncate_max_event_size: usize,

    /// Kubeconfig of a server that audit events are sent to
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,

    /// How events are sent to the webhook
    #[arg(long, default_value = "batch", value_parser = ["batch", "blocking", "blocking-strict"])]
    pub audit_webhook_mode: String,

    /// Pause in seconds before a failed request to the webhook is tried again; it grows
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub audit_webhook_initial_backoff: u64,

    /// Events that wait for the webhook; more are dropped and counted
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub audit_webhook_batch_buffer_size: usize,

    /// Events in one request to the webhook
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub audit_webhook_batch_max_size: usize,

    /// Seconds after which a batch is sent even if it is not full
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub audit_webhook_batch_max_wait: u64,

    /// Batches a second that are sent to the webhook, on average; 0 is no limit
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub audit_webhook_batch_throttle_qps: f64,

    /// Batches that may be sent at once after a pause
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub audit_webhook_batch_throttle_burst: u32,

    /// Leave out bodies, then whole events, that are larger than the webhook's limits
    #[arg(long)]
    pub audit_webhook_truncate_enabled: bool,

    /// Largest size in bytes of a request to the webhook, with truncation
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES")]
    pub audit_webhook_truncate_max_batch_size: usize,

    /// Largest size in bytes of one event to the webhook, with truncation
    #[arg(long, default_value_t = 102_400, value_name = "BYTES")]
    pub audit_webhook_truncate_max_event_size: usize,
}
