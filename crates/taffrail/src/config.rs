//! Flags, and the file that can hold them.
//!
//! `--config FILE` names a YAML map whose keys are flag names; what stands on the command line wins. Flags carry
//! upstream's names wherever upstream has one.

pub mod audit;
mod identity;

pub use audit::AuditOptions;
use clap::Args;
pub use identity::IdentityOptions;
use std::path::PathBuf;

/// Everything that `up` can be told.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// Where the cluster keeps everything: objects, keys, images, logs, the audit record
    #[arg(long, default_value = "/var/lib/taffrail", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// YAML file with flags (`secure-port: 6443`); flags on the command line win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Port of the API server
    #[arg(long, default_value_t = 6443, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub secure_port: u16,

    /// Address that the API server listens on; empty means every address of this machine
    #[arg(long, default_value = "", value_name = "IP", hide_default_value = true)]
    pub bind_address: String,

    /// Addresses of Services, IPv4 and IPv6
    #[arg(long, default_value = "10.96.0.0/16,fd00:96::/108", value_name = "CIDRS")]
    pub service_cluster_ip_range: String,

    /// Addresses of pods, IPv4 and IPv6
    #[arg(long, default_value = "10.244.0.0/16,fd00:244::/48", value_name = "CIDRS")]
    pub cluster_cidr: String,

    /// Nodes on this machine; 0 runs the control plane alone
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=32))]
    pub nodes: u8,

    /// Name of the first node; the machine's host name by default
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub hostname_override: String,

    /// Addresses of this machine's nodes on their own link, IPv4 and IPv6
    #[arg(long, default_value = "10.89.0.0/24,fd00:89::/64", value_name = "CIDRS")]
    pub node_cidr: String,

    /// Ports of NodePort Services
    #[arg(long, default_value = "30000-32767", value_name = "FROM-TO")]
    pub service_node_port_range: String,

    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local", value_name = "NAME")]
    pub cluster_domain: String,

    #[command(flatten)]
    pub identity: IdentityOptions,

    #[command(flatten)]
    pub audit: AuditOptions,

    /// How long Events are kept after their last change, such as 1h or 30m
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = some_duration)]
    pub event_ttl: std::time::Duration,

    /// Where objects are kept: `embedded` (the data directory), or `etcd=https://HOST:2379,…`
    #[arg(long, default_value = "embedded", value_parser = store, value_name = "STORE")]
    pub store: String,

    /// Who signs the certificates of the etcd servers
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,

    /// Certificate with which this server says to etcd who it is
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,

    /// The key of that certificate
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,

    /// EncryptionConfiguration (apiserver.config.k8s.io/v1): what is encrypted at rest, and with which keys. By default
    /// Secrets are, with a key that is made in the data directory
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,

    /// Largest size in bytes of keys and values that the store holds; more is refused
    #[arg(long, default_value_t = 2 << 30, value_name = "BYTES")]
    pub quota_backend_bytes: u64,

    /// Reading requests at a time
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub max_requests_inflight: usize,

    /// Changing requests at a time
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub max_mutating_requests_inflight: usize,

    /// How much the components log
    #[arg(long, default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: String,

    /// Do not write a context into ~/.kube/config
    #[arg(long)]
    pub no_kubeconfig: bool,
}

fn store(text: &str) -> Result<String, String> {
    match text {
        "embedded" => Ok(text.to_owned()),
        text if text.starts_with("etcd=") => Ok(text.to_owned()),
        _ => Err("expected embedded or etcd=URL,URL".to_owned()),
    }
}

/// A duration in Go's form.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    meta::time::parse_duration(text).map_err(|_| "expected a duration such as 1h or 30m".to_owned())
}

/// As [`duration`], of what must take time.
fn some_duration(text: &str) -> Result<std::time::Duration, String> {
    duration(text).ok().filter(|d| !d.is_zero()).ok_or("expected a duration such as 1h or 30m".to_owned())
}

/// What a flag that is on or off takes after its equals sign (Go: `strconv.ParseBool`).
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Puts the flags of a `--config` file before those of the command line, which then win.
pub fn with_file(args: Vec<String>) -> Result<Vec<String>, String> {
    let Some(path) = config_path(&args) else { return Ok(args) };
    let bytes = std::fs::read(&path).map_err(|e| format!("cannot read the config file {path}: {e}"))?;
    let (value, _) =
        meta::yaml::parse_yaml(&bytes, 1 << 20).map_err(|e| format!("{path} is not valid YAML: {e}"))?;
    let map = match value {
        serde_json::Value::Null => return Ok(args),
        serde_json::Value::Object(map) => map,
        _ => return Err(format!("{path}: expected a map of flag names to values")),
    };
    let given = |flag: &str| args.iter().any(|a| a == flag || a.starts_with(&format!("{flag}=")));
    let mut out: Vec<String> = args.iter().take(2).cloned().collect();
    for (name, value) in &map {
        let flag = format!("--{name}");
        if given(&flag) {
            continue;
        }
        let text = match value {
            serde_json::Value::Bool(true) => {
                out.push(flag);
                continue;
            }
            // The one switch that is on by itself.
            serde_json::Value::Bool(false) if name == "audit-webhook-batch-throttle-enable" => "false".into(),
            serde_json::Value::Bool(false) | serde_json::Value::Null => continue,
            serde_json::Value::String(s) => s.clone(),
            serde_json::Value::Number(n) => n.to_string(),
            serde_json::Value::Array(list) => list
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(","),
            serde_json::Value::Object(_) => return Err(format!("{path}: {name} must be a value, not a map")),
        };
        out.push(format!("{flag}={text}"));
    }
    out.extend(args.into_iter().skip(2));
    Ok(out)
}

fn config_path(args: &[String]) -> Option<String> {
    let mut args = args.iter();
    while let Some(a) = args.next() {
        if a == "--config" {
            return args.next().cloned();
        }
        if let Some(path) = a.strip_prefix("--config=") {
            return Some(path.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_first_and_the_command_line_wins() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "secure-port: 7443\nquota-backend-bytes: 3\nno-kubeconfig: true\n")
            .expect("written");
        let path = file.display().to_string();
        let args =
            ["taffrail", "up", "--config", &path, "--quota-backend-bytes", "2"].map(String::from).to_vec();
        let all = with_file(args).expect("read");
        assert_eq!(all[..2], ["taffrail", "up"]);
        assert!(
            all.contains(&"--secure-port=7443".to_owned()) && all.contains(&"--no-kubeconfig".to_owned())
        );
        assert!(!all.contains(&"--quota-backend-bytes=3".to_owned()));
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let args = ["taffrail", "up", "--config=/no/such"].map(String::from).to_vec();
        assert!(with_file(args).expect_err("refused").contains("/no/such"));
    }
}
