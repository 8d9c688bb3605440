//! The files that every container finds under `/etc`: hosts, hostname, resolv.conf
//! (upstream: `managedHostsFileContent`, `pkg/kubelet/network/dns`).

use super::spec;
use k8s_openapi::api::core::v1::{HostAlias, Pod};
use std::net::IpAddr;

/// Most search domains in a resolv.conf (upstream: `MaxDNSSearchPaths`).
const SEARCH_MAX: usize = 32;
/// Most name servers (upstream: `MaxDNSNameservers`).
const SERVERS_MAX: usize = 3;

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(ips: &[IpAddr], host: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            out.push_str(&format!("{ip}\t{host}\n"));
        } else {
            out.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n"));
        }
    }
    out + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod on the node's network, from the node's own file.
pub fn hosts_of_node(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|a| {
        format!("{}\t{}\n", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t"))
    });
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    /// Reads a resolv.conf.
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    dns.searches = words.filter(|w| *w != ".").map(|w| w.trim_end_matches('.').to_owned()).collect();
                }
                Some("options") => dns.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        dns
    }

    pub fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for s in &self.servers {
            out.push_str(&format!("nameserver {s}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

fn unique(list: &mut Vec<String>, most: usize) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|s| seen.insert(s.clone()));
    list.truncate(most);
}

/// What the pod's containers resolve with (upstream: `dns.Configurer.GetPodDNS`).
pub fn pod_dns(pod: &Pod, cluster_dns: &[IpAddr], cluster_domain: &str, node: &Dns) -> Dns {
    let s = spec::spec(pod);
    let policy = s.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !spec::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = if policy == "None" {
        Dns::default()
    } else if cluster && !cluster_dns.is_empty() {
        let ns = spec::namespace(pod);
        let mut searches: Vec<String> =
            [format!("{ns}.svc.{cluster_domain}"), format!("svc.{cluster_domain}"), cluster_domain.to_owned()].into();
        searches.extend(node.searches.iter().cloned());
        Dns {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        node.clone()
    };
    if let Some(own) = &s.dns_config {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        for o in own.options.iter().flatten() {
            let name = o.name.as_deref().unwrap_or_default();
            dns.options.retain(|x| x.split(':').next() != Some(name));
            dns.options.push(match o.value.as_deref().filter(|v| !v.is_empty()) {
                Some(v) => format!("{name}:{v}"),
                None => name.to_owned(),
            });
        }
    }
    unique(&mut dns.servers, SERVERS_MAX);
    unique(&mut dns.searches, SEARCH_MAX);
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn hosts_file() {
        let alias = HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = hosts(&["10.0.0.7".parse().unwrap()], "web-0", "web.n.svc.cluster.local", &[alias]);
        assert!(text.ends_with(
            "fe00::2\tip6-allrouters\n10.0.0.7\tweb-0.web.n.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
    }

    #[test]
    fn resolv_conf() {
        let node = Dns::parse("nameserver 9.9.9.9\nsearch corp.example. .\noptions edns0\n");
        let get = |spec: Value| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": spec})).unwrap();
            pod_dns(&pod, &["10.96.0.10".parse().unwrap()], "cluster.local", &node).render()
        };
        assert_eq!(
            get(json!({"containers": []})),
            "search n.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        assert_eq!(
            get(json!({"containers": [], "hostNetwork": true})),
            "search corp.example\nnameserver 9.9.9.9\noptions edns0\n"
        );
        assert_eq!(
            get(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.1"],
                "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}})),
            "search x\nnameserver 1.1.1.1\noptions ndots:2 debug\n"
        );
    }
}
