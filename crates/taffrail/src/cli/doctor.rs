//! `doctor`: what this machine lacks, and how to get it.

use std::path::Path;

pub fn run(data_dir: &Path) -> Result<(), String> {
    let mut missing = 0;
    let mut check = |what: &str, ok: bool, fix: &str| {
        println!("{} {what}", if ok { "ok  " } else { "MISS" });
        if !ok {
            missing += 1;
            println!("     {fix}");
        }
    };
    let root = rustix::process::geteuid().is_root();
    check("running as root", root, "nodes need root for namespaces, mounts and cgroups: run with sudo");
    let file = |p: &str| Path::new(p).exists();
    for (what, path, fix) in [
        ("user namespaces", "/proc/self/ns/user", "use a kernel with CONFIG_USER_NS"),
        ("network namespaces", "/proc/self/ns/net", "use a kernel with CONFIG_NET_NS"),
        ("process namespaces", "/proc/self/ns/pid", "use a kernel with CONFIG_PID_NS"),
        ("cgroup namespaces", "/proc/self/ns/cgroup", "use a kernel with CONFIG_CGROUPS"),
        (
            "IPv6",
            "/proc/net/if_inet6",
            "enable IPv6 (sysctl net.ipv6.conf.all.disable_ipv6=0); without it pods have IPv4 alone",
        ),
    ] {
        check(what, file(path), fix);
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    check("overlayfs", filesystems.contains("\toverlay"), "load it: modprobe overlay");
    let controllers = controllers();
    for name in ["cpu", "memory", "pids"] {
        let fix = "boot with cgroup_enable=memory, or mount the controllers";
        check(&format!("cgroup controller {name}"), controllers.iter().any(|c| c == name), fix);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    check("seccomp", status.contains("Seccomp:"), "use a kernel with CONFIG_SECCOMP_FILTER");
    let writable = data_dir
        .ancestors()
        .find(|p| p.exists())
        .is_some_and(|p| rustix::fs::access(p, rustix::fs::Access::WRITE_OK).is_ok());
    let fix = "choose another with --data-dir, or check its owner and mount";
    check(&format!("data directory {}", data_dir.display()), writable, fix);
    if missing > 0 {
        return Err(format!("{missing} thing{} missing", if missing == 1 { " is" } else { "s are" }));
    }
    Ok(())
}

/// Controllers of either cgroup version.
fn controllers() -> Vec<String> {
    let mut out: Vec<String> = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for line in
        std::fs::read_to_string("/proc/cgroups").unwrap_or_default().lines().filter(|l| !l.starts_with('#'))
    {
        let f: Vec<&str> = line.split_whitespace().collect();
        if let [name, hierarchy, _, "1"] = f.as_slice()
            && *hierarchy != "0"
        {
            out.push((*name).to_owned());
        }
    }
    out
}
