//! The content of a pod's `/etc/resolv.conf` and `/etc/hosts`. Pure.
//!
//! upstream: pkg/kubelet/network/dns/dns.go, pkg/kubelet/kubelet_pods.go#managedHostsFileContent

use std::collections::HashSet;
use std::net::IpAddr;

/// upstream: pkg/apis/core/validation/validation.go#MaxDNSNameservers
const SERVERS_MAX: usize = 3;
/// upstream: pkg/apis/core/validation/validation.go#MaxDNSSearchPaths
const SEARCHES_MAX: usize = 32;
/// Characters of the search line. upstream: pkg/apis/core/validation/validation.go#MaxDNSSearchListChars
const SEARCH_LINE_MAX: usize = 2048;
/// Characters of one search path.
const SEARCH_MAX: usize = 253;

/// The content of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    /// `ndots:5`
    pub options: Vec<String>,
}

/// `spec.dnsPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    #[default]
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    None,
}

impl DnsPolicy {
    /// By the API's word. upstream treats an unknown one as ClusterFirst.
    pub fn parse(text: &str) -> Self {
        match text {
            "ClusterFirstWithHostNet" => Self::ClusterFirstWithHostNet,
            "Default" => Self::Default,
            "None" => Self::None,
            _ => Self::ClusterFirst,
        }
    }
}

/// `spec.dnsConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodDnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// Name and value.
    pub options: Vec<(String, Option<String>)>,
}

/// What the node knows.
#[derive(Debug, Clone, Default)]
pub struct NodeDns {
    /// The cluster's DNS servers (`--cluster-dns`).
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`; empty without one.
    pub cluster_domain: String,
    /// The content of the file that `--resolv-conf` names; `None` when it names none.
    pub host: Option<ResolvConf>,
    pub node_ips: Vec<IpAddr>,
}

/// A warning of the reason, to be recorded as an event of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// `DNSConfigForming` or `MissingClusterDNS`
    pub reason: &'static str,
    pub message: String,
}

/// The resolver configuration of a pod, with the warnings that upstream records. `pod` is `name_namespace(uid)`.
/// upstream: pkg/kubelet/network/dns/dns.go#Configurer.GetPodDNS
pub fn pod_dns(
    node: &NodeDns,
    namespace: &str,
    pod: &str,
    policy: DnsPolicy,
    host_network: bool,
    config: Option<&PodDnsConfig>,
) -> (ResolvConf, Vec<Warning>) {
    let mut warnings = vec![];
    let mut conf = node.host.clone().unwrap_or_default();
    let cluster = match policy {
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::ClusterFirst => !host_network,
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    if policy == DnsPolicy::None {
        conf = ResolvConf::default();
    } else if cluster && !node.cluster_dns.is_empty() {
        conf.servers = node.cluster_dns.iter().map(IpAddr::to_string).collect();
        conf.searches = cluster_searches(node, namespace, conf.searches);
        conf.options = vec!["ndots:5".into()];
    } else {
        if cluster {
            let text = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \
                        \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
            warnings.push(Warning { reason: "MissingClusterDNS", message: format!("pod: {pod:?}. {text}") });
        }
        if node.host.is_none() {
            conf = loopback(&node.node_ips);
        }
    }
    if let Some(config) = config {
        append(&mut conf, config);
    }
    fit(&mut conf, &mut warnings);
    (conf, warnings)
}

fn cluster_searches(node: &NodeDns, namespace: &str, host: Vec<String>) -> Vec<String> {
    if node.cluster_domain.is_empty() {
        return host;
    }
    let domain = &node.cluster_domain;
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    unique(own.into_iter().chain(host))
}

fn loopback(node_ips: &[IpAddr]) -> ResolvConf {
    let mut servers: Vec<String> =
        node_ips.iter().map(|ip| if ip.is_ipv6() { "::1".into() } else { "127.0.0.1".into() }).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".into());
    }
    ResolvConf { servers, searches: vec![".".into()], options: vec![] }
}

/// upstream: pkg/kubelet/network/dns/dns.go#appendDNSConfig; options keep the order in which they were first named.
fn append(conf: &mut ResolvConf, config: &PodDnsConfig) {
    conf.servers = unique(conf.servers.drain(..).chain(config.nameservers.iter().cloned()));
    conf.searches = unique(conf.searches.drain(..).chain(config.searches.iter().cloned()));
    let given = config.options.iter().map(|(name, value)| match value.as_deref() {
        Some(value) if !value.is_empty() => format!("{name}:{value}"),
        _ => name.clone(),
    });
    put_options(&mut conf.options, given);
}

fn put_options(options: &mut Vec<String>, new: impl IntoIterator<Item = String>) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    for option in new {
        match options.iter_mut().find(|o| name(o) == name(&option)) {
            Some(old) => *old = option,
            None => options.push(option),
        }
    }
}

/// upstream: pkg/kubelet/network/dns/dns.go#formDNSConfigFitsLimits
fn fit(conf: &mut ResolvConf, warnings: &mut Vec<Warning>) {
    const REASON: &str = "DNSConfigForming";
    if conf.servers.len() > SERVERS_MAX {
        conf.servers.truncate(SERVERS_MAX);
        let line = conf.servers.join(" ");
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
        );
        warnings.push(Warning { reason: REASON, message });
    }
    let before = conf.searches.len();
    conf.searches.truncate(SEARCHES_MAX);
    conf.searches.retain(|s| s.len() <= SEARCH_MAX);
    while conf.searches.join(" ").len() > SEARCH_LINE_MAX {
        conf.searches.pop();
    }
    if conf.searches.len() < before {
        let line = conf.searches.join(" ");
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}"
        );
        warnings.push(Warning { reason: REASON, message });
    }
}

fn unique(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.into_iter().filter(|t| seen.insert(t.clone())).collect()
}

/// Reads a resolv.conf: `nameserver` lines add up, of `search` lines the last counts, options merge by name.
/// upstream: pkg/kubelet/network/dns/dns.go#parseResolvConf
pub fn parse(text: &str) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => conf.servers.extend(fields.next().map(str::to_owned)),
            Some("search") => {
                let plain = |s: &str| s.strip_suffix('.').unwrap_or(s).to_owned();
                conf.searches = fields.filter(|s| *s != ".").map(plain).collect();
            }
            Some("options") => put_options(&mut conf.options, fields.map(str::to_owned)),
            _ => {}
        }
    }
    conf
}

impl ResolvConf {
    /// The file's content, as container runtimes write it.
    pub fn content(&self) -> String {
        let mut out = String::new();
        let mut line = |word: &str, rest: String| {
            out.push_str(word);
            out.push(' ');
            out.push_str(&rest);
            out.push('\n');
        };
        if !self.searches.is_empty() {
            line("search", self.searches.join(" "));
        }
        for server in &self.servers {
            line("nameserver", server.clone());
        }
        if !self.options.is_empty() {
            line("options", self.options.join(" "));
        }
        out
    }
}

/// `spec.hostAliases`: an address and its names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAlias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

/// `/etc/hosts` of a pod with a network of its own.
/// upstream: pkg/kubelet/kubelet_pods.go#managedHostsFileContent
pub fn hosts(pod_ips: &[IpAddr], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        if domain.is_empty() {
            out.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            out.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    out + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod on the node's network, from the node's own file.
/// upstream: pkg/kubelet/kubelet_pods.go#nodeHostsFileContent
pub fn host_network_hosts(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines: String = aliases.iter().map(|a| format!("{}\t{}\n", a.ip, a.hostnames.join("\t"))).collect();
    format!("\n# Entries added by HostAliases.\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeDns {
        NodeDns {
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
            host: Some(parse("# c\nnameserver 8.8.8.8\nsearch corp.example. .\noptions ndots:1 rotate\n")),
            node_ips: vec![],
        }
    }

    #[test]
    fn cluster_first_has_the_search_list_and_host_network_falls_back() {
        let (conf, warnings) = pod_dns(&node(), "shop", "p", DnsPolicy::ClusterFirst, false, None);
        assert_eq!(
            conf.content(),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        );
        assert!(warnings.is_empty());
        let (conf, _) = pod_dns(&node(), "shop", "p", DnsPolicy::ClusterFirst, true, None);
        assert_eq!(conf.content(), "search corp.example\nnameserver 8.8.8.8\noptions ndots:1 rotate\n");
        let (conf, _) = pod_dns(&node(), "shop", "p", DnsPolicy::ClusterFirstWithHostNet, true, None);
        assert_eq!(conf.servers, ["10.96.0.10"]);
    }

    #[test]
    fn a_pods_own_config_is_merged_and_limited() {
        let config = PodDnsConfig {
            nameservers: ["1.1.1.1", "10.96.0.10", "1.1.1.2", "1.1.1.3"].map(String::from).to_vec(),
            searches: vec!["svc.cluster.local".into(), "x".repeat(254)],
            options: vec![("ndots".into(), Some("2".into())), ("edns0".into(), None)],
        };
        let (conf, warnings) = pod_dns(&node(), "n", "p", DnsPolicy::ClusterFirst, false, Some(&config));
        assert_eq!(conf.servers, ["10.96.0.10", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(conf.options, ["ndots:2", "edns0"]);
        assert_eq!(conf.searches.len(), 4);
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].message.ends_with("line is: 10.96.0.10 1.1.1.1 1.1.1.2"));
        let (conf, _) = pod_dns(&node(), "n", "p", DnsPolicy::None, false, Some(&config));
        assert_eq!(conf.servers, ["1.1.1.1", "10.96.0.10", "1.1.1.2"]);
    }

    #[test]
    fn without_cluster_dns_it_says_so() {
        let bare = NodeDns { node_ips: vec!["fd00::1".parse().unwrap()], ..NodeDns::default() };
        let (conf, warnings) = pod_dns(&bare, "n", "p_n(u)", DnsPolicy::ClusterFirst, false, None);
        assert_eq!(conf.content(), "search .\nnameserver ::1\n");
        assert_eq!(warnings[0].reason, "MissingClusterDNS");
    }

    #[test]
    fn hosts_files() {
        let alias = HostAlias { ip: "1.2.3.4".into(), hostnames: vec!["a".into(), "b".into()] };
        let ips: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let text = hosts(&ips, "web-0", "web.shop.svc.cluster.local", std::slice::from_ref(&alias));
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-")
        );
        assert!(text.ends_with(
            "10.0.0.5\tweb-0.web.shop.svc.cluster.local\tweb-0\n\
             fd00::5\tweb-0.web.shop.svc.cluster.local\tweb-0\n\
             \n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
        assert!(hosts(&ips[..1], "p", "", &[]).ends_with("fe00::2\tip6-allrouters\n10.0.0.5\tp\n"));
        assert!(host_network_hosts("127.0.0.1 x\n", &[]).contains("(host network).\n127.0.0.1 x\n"));
    }
}
