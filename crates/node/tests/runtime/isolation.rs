//! What a container may not see, do or reach.

use crate::world::{POD, World};
use node::runtime::{Mount, PidNamespace, Propagation, Runtime as _, Seccomp};
use std::os::unix::fs::symlink;
use std::path::Path;

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("{name} in {status}"))
        .trim()
}

fn mount(source: &Path, target: &str) -> Mount {
    Mount {
        source: source.into(),
        sub_path: None,
        target: target.into(),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::None,
    }
}

/// Bits of the default capabilities.
const DEFAULT_BITS: &str = "00000000a80425fb";

pub fn privileges(w: &World) {
    w.start_pod();
    let acts = "cat /proc/self/status + unshare + kmsg";
    let root = w.output(&w.container(acts));
    assert_eq!(field(&root, "CapEff"), DEFAULT_BITS);
    assert_eq!(field(&root, "CapBnd"), DEFAULT_BITS);
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
        ("NoNewPrivs", "0"),
    ] {
        assert_eq!(field(&root, name), value, "{name}");
    }
    assert!(
        root.contains("unshare namespaces: operation not permitted") && root.contains("No such file"),
        "{root}"
    );
    let mut spec = w.container(&format!("{acts} + tick"));
    spec.security.uid = 1000;
    spec.security.gid = 1001;
    spec.security.groups = vec![2000, 2001];
    spec.security.no_new_privileges = true;
    spec.security.capabilities = vec![];
    w.start(&spec).unwrap();
    w.wait_for_log(&spec, "tick");
    // An exec'd process is no better off.
    for status in [w.log(&spec).replace(" stdout F ", "\n"), w.exec(&spec.id, "cat /proc/self/status").1] {
        for (name, value) in [
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("Uid", "1000\t1000\t1000\t1000"),
            ("Gid", "1001\t1001\t1001\t1001"),
            ("Groups", "2000 2001"),
        ] {
            assert_eq!(field(&status, name), value, "{name}");
        }
    }
    let mut spec = w.container("cat /proc/self/status");
    spec.security.seccomp = Seccomp::Unconfined;
    assert_eq!(field(&w.output(&spec), "Seccomp"), "0");
}

pub fn localhost_profile(w: &World) {
    w.start_pod();
    let mut spec = w.container("mkdir /made + say alive");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
    spec.security.seccomp = Seccomp::Profile(profile.into());
    assert_eq!(w.output(&spec), "Permission denied (os error 13)\nalive\n");
    let mut spec = w.container("say never");
    spec.security.seccomp = Seccomp::Profile("{}".into());
    assert!(w.start(&spec).is_err(), "an empty profile must be refused");
}

pub fn privileged(w: &World) {
    w.start_pod();
    let mut spec = w.container("cat /proc/self/status + kmsg + unshare + mountinfo");
    spec.security.privileged = true;
    let output = w.output(&spec);
    assert_eq!(field(&output, "Seccomp"), "0");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(field(&output, "CapEff"), field(&own, "CapEff"));
    assert_eq!(output.lines().filter(|l| *l == "allowed").count(), 2, "{output}");
    assert!(!output.contains(" /proc/keys "), "{output}");
    let sysfs = output.lines().find(|l| l.contains(" /sys ")).unwrap();
    assert!(sysfs.contains(" rw,"), "{sysfs}");
}

pub fn filesystem(w: &World) {
    w.start_pod();
    let acts = "pwd + try-cat /proc/keys + try-write /proc/sys/kernel/domainname + try-write /sys/x + list /sys/firmware \
                + write /tmp/x 1 + list /dev + cat /proc/self/mountinfo";
    let mut spec = w.container(acts);
    spec.cwd = "/work/dir".into();
    let output = w.output(&spec);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "/work/dir");
    assert_eq!(lines[1], "read 0 bytes", "the keys are the null device");
    assert!(lines[2].contains("Read-only") && lines[3].contains("Read-only"), "{output}");
    assert_eq!(lines[4], "", "/sys/firmware is empty");
    assert_eq!(lines[5], "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
    let mut spec = w.container("try-write /x + try-write /dev/shm/x + try-write /etc/passwd");
    spec.security.read_only_root = true;
    spec.cwd = "/made/all/the/same".into();
    let output = w.output(&spec);
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].contains("Read-only") && lines[2].contains("Read-only"), "{output}");
    assert_eq!(lines[1], "allowed");
    let mut spec = w.container("try-write /proc/sys/kernel/shm_rmid_forced + mountinfo");
    spec.security.unmasked_proc = true;
    assert!(!w.output(&spec).contains(" /proc/keys "));
    assert!(w.layer().join("bin/act").exists() && !w.layer().join("work").exists(), "the layer is untouched");
}

/// Images and volumes full of links that lead out.
pub fn links(w: &World) {
    w.start_pod();
    let outside = w.dir().join("outside");
    let volume = w.dir().join("volume");
    let evil = w.dir().join("evil");
    for dir in [&outside, &volume, &evil] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, volume.join("out")).unwrap();
    symlink("../outside", volume.join("up")).unwrap();
    for sub in ["out", "up", "out/secret", "../outside"] {
        let mut spec = w.container("say never");
        spec.mounts = vec![Mount { sub_path: Some(sub.into()), ..mount(&volume, "/vol") }];
        let e = w.start(&spec).unwrap_err();
        assert!(e.why.contains("subPath"), "{sub}: {e}");
    }
    // An image whose mount targets and kernel directories are links out of it.
    symlink(&outside, evil.join("target")).unwrap();
    symlink("../../../../../..", evil.join("climb")).unwrap();
    symlink(&outside, evil.join("work")).unwrap();
    let mut spec = w.container("list /target/made + pwd + list /");
    spec.layers.insert(0, evil.clone());
    spec.mounts =
        vec![mount(&volume, "/target/made"), mount(&volume, &format!("/climb{}/made", outside.display()))];
    spec.cwd = "/work/deep".into();
    let output = w.output(&spec);
    assert!(output.starts_with("out up\n"), "{output}");
    assert!(
        output.lines().nth(1).unwrap().ends_with("/outside/deep"),
        "inside, where the link leads: {output}"
    );
    let names: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["secret"], "nothing was made outside");
}

pub fn volumes(w: &World) {
    w.start_pod();
    let volume = w.dir().join("volume");
    std::fs::create_dir_all(volume.join("inner/deep")).unwrap();
    std::fs::write(volume.join("file"), "content").unwrap();
    let log = w.dir().join("termination");
    std::fs::write(&log, "").unwrap();
    let mut spec = w.container(
        "try-write /ro/x + try-write /rw/x + cat /one + list /sub + try-write /nest/inner/x + cat /dev/termination-log \
         + write /dev/termination-log bye",
    );
    spec.mounts = vec![
        mount(&volume, "/nest/inner"),
        Mount { read_only: true, ..mount(&volume, "/ro") },
        mount(&volume, "/rw"),
        mount(&volume.join("file"), "/one"),
        Mount { sub_path: Some("inner".into()), ..mount(&volume, "/sub") },
        Mount { sub_path: Some("new/made".into()), read_only: true, ..mount(&volume, "/made") },
        mount(&volume, "/nest"),
        mount(&log, "/dev/termination-log"),
    ];
    let output = w.output(&spec);
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].contains("Read-only"), "{output}");
    assert_eq!(lines[1..4], ["allowed", "contentdeep", "allowed"]);
    assert!(volume.join("new/made").is_dir());
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "bye");
    let mut spec = w.container("say never");
    spec.mounts = vec![mount(Path::new("/no/such/source"), "/x")];
    assert!(w.start(&spec).unwrap_err().why.contains("/no/such/source"));
}

pub fn namespaces(w: &World) {
    let pin = w.dir().join("netns");
    sys::netns::create(&pin).unwrap();
    let acts = "cat /proc/net/dev + link /proc/self/ns/net + link /proc/self/ns/ipc + link /proc/self/ns/uts + pid + cat /proc/sys/kernel/hostname + cat /proc/self/cgroup";
    w.start_pod_with(|s| {
        s.netns = Some(pin.clone());
        s.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
    });
    let mut one = w.container(&format!(
        "write /dev/shm/shared 1 + cat /proc/sys/net/ipv4/ip_unprivileged_port_start + {acts} + tick"
    ));
    one.pid = PidNamespace::Own;
    w.start(&one).unwrap();
    w.wait_for_log(&one, "tick");
    let first = w.log(&one);
    let second = w.output(&w.container(&format!("list /dev/shm + {acts}")));
    assert!(second.starts_with("shared\n"), "{second}");
    assert!(first.contains(" F 7\n") && !second.contains("eth"), "{first}");
    assert!(second.contains("the-pod\n") && second.contains("\n1\n"), "{second}");
    let paths = second.lines().filter(|l| l.contains("::") || l.matches(':').count() == 2);
    // cpuset has no group of the container's own.
    for line in paths.filter(|l| {
        l.contains("memory") || l.contains("pids") || l.starts_with("0::/") && !first.contains(":memory:")
    }) {
        assert!(line.ends_with(":/"), "own cgroup as root: {line}");
    }
    for kind in ["net", "ipc", "uts"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let pods = second.lines().find(|l| l.starts_with(&format!("{kind}:["))).unwrap();
        assert!(pods != host && first.contains(pods), "{kind}: {pods} {host}");
    }
    w.tokio.block_on(w.runtime.remove_sandbox(POD)).unwrap();
    sys::netns::delete(&pin).unwrap();
}

pub fn shared_pid(w: &World) {
    w.start_pod_with(|s| s.share_pid = true);
    let mut one = w.container("pid + cat /proc/1/comm + tick");
    one.pid = PidNamespace::Pod;
    w.start(&one).unwrap();
    w.wait_for_log(&one, "tick");
    let log = w.log(&one);
    assert!(log.contains(" F pause\n") && !log.contains(" F 1\n"), "{log}");
    let mut two = w.container("list /proc + try-cat /proc/1/environ + try-write /proc/1/root/x");
    two.pid = PidNamespace::Pod;
    let output = w.output(&two);
    let pids = output.lines().next().unwrap().split(' ').filter(|n| n.parse::<u32>().is_ok()).count();
    assert_eq!(pids, 3, "{output}");
    assert!(output.matches("ermi").count() + output.matches("denied").count() >= 2, "{output}");
    // Another container's namespace.
    let own = w.container("tick");
    w.start(&own).unwrap();
    let mut three = w.container("cat /proc/1/cmdline + list /proc");
    three.pid = PidNamespace::Container(own.id.clone());
    assert!(w.output(&three).contains("tick"));
    let mut host = w.container("pid");
    host.pid = PidNamespace::Host;
    assert!(w.output(&host).trim().parse::<u32>().unwrap() > 10);
}
