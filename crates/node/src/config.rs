//! Settings of a node agent, with upstream's defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How one node agent runs. Names follow upstream's kubelet flags and configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_name: String,
    /// `--root-dir`: pod directories, volumes, records.
    pub root_dir: PathBuf,
    /// `--pod-logs-dir`: container logs.
    pub pod_logs_dir: PathBuf,
    /// Parent cgroup of `kubepods`, relative to the root; empty for the root itself.
    pub cgroup_root: String,
    /// `--node-ip`: one per family, the primary family first.
    pub node_ips: Vec<IpAddr>,
    /// `--node-labels`
    pub node_labels: BTreeMap<String, String>,
    /// `--register-with-taints`, as `key=value:Effect`.
    pub register_with_taints: Vec<Taint>,
    pub cluster_domain: String,
    pub cluster_dns: Vec<IpAddr>,
    /// The file that `dnsPolicy: Default` copies.
    pub resolv_conf: PathBuf,
    pub max_pods: u32,
    pub pod_pids_limit: Option<u64>,
    /// Memory kept from pods in bytes (`evictionHard: memory.available`).
    pub memory_reserved: u64,
    /// Part of the disk kept from pods, in percent (`evictionHard: nodefs.available`).
    pub disk_reserved_percent: u64,
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Size in bytes at which a container's log is rotated.
    pub container_log_max_size: u64,
    /// Log files kept per container, the current one included.
    pub container_log_max_files: u32,
    pub node_status_update_frequency: Duration,
    pub node_status_report_frequency: Duration,
    pub lease_duration_seconds: i32,
    /// Port of the kubelet's HTTPS endpoint.
    pub port: u16,
    /// `Major.Minor.Patch` with a `v`, shown as `kubeletVersion`.
    pub version: String,
    /// CPU, memory and pods that the node claims, instead of the machine's (several nodes on one machine).
    pub capacity_override: BTreeMap<String, String>,
}

/// A taint that the node registers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl NodeConfig {
    /// Upstream's defaults below a data directory.
    pub fn new(node_name: impl Into<String>, data: &Path) -> Self {
        Self {
            node_name: node_name.into(),
            root_dir: data.join("kubelet"),
            pod_logs_dir: data.join("pods"),
            cgroup_root: String::new(),
            node_ips: Vec::new(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 110,
            pod_pids_limit: None,
            memory_reserved: 100 * base::size::MIB,
            disk_reserved_percent: 10,
            allowed_unsafe_sysctls: Vec::new(),
            container_log_max_size: 10 * base::size::MIB,
            container_log_max_files: 5,
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            lease_duration_seconds: 40,
            port: 10250,
            version: "v1.37.2".into(),
            capacity_override: BTreeMap::new(),
        }
    }

    /// The directory of a pod (upstream: `<root>/pods/<uid>`).
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }
}
