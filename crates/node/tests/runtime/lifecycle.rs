//! Start, stop, end, loss.

use crate::world::{POD, World, eventually, new_runtime};
use node::runtime::{Phase, Resources, Runtime as _};
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub fn starts_logs_exits(w: &World) {
    let mut events = w.runtime.events();
    let before = Instant::now();
    w.start_pod();
    let pod = before.elapsed();
    w.start_pod(); // again is fine
    let mut spec = w.container("say hello + complain oh + env + exit 3");
    spec.env = vec!["COLOUR=blue".into()];
    let before = Instant::now();
    let state = w.start(&spec).unwrap();
    println!("  sandbox {} us, container {} us", pod.as_micros(), before.elapsed().as_micros());
    assert!(state.pid > 0 && state.started_ns > 0 && state.phase == Phase::Running);
    let state = w.wait(&spec.id);
    assert_eq!((state.exit_code, state.signal, state.oom_killed), (3, 0, false));
    assert!(state.finished_ns >= state.started_ns);
    let log = w.log(&spec);
    let line = log.lines().find(|l| l.ends_with("hello")).unwrap();
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(rest, "stdout F hello");
    assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    assert!(log.contains(" stderr F oh\n"), "{log}");
    for wanted in ["COLOUR=blue", "HOME=/root", "HOSTNAME=the-pod", "PATH=/usr/local/sbin:"] {
        assert!(log.contains(wanted), "{wanted} in {log}");
    }
    let event = w.tokio.block_on(events.recv()).unwrap();
    assert_eq!((event.pod_uid.as_str(), event.container_id.as_str()), (POD, spec.id.as_str()));
    w.tokio.block_on(w.runtime.remove_container(POD, &spec.id)).unwrap();
    w.tokio.block_on(w.runtime.remove_container(POD, &spec.id)).unwrap();
    assert_eq!(w.tokio.block_on(w.runtime.state(POD)).unwrap(), Some(vec![]));
    assert_eq!(w.tokio.block_on(w.runtime.sandboxes()).unwrap().len(), 1);
    assert_eq!(w.tokio.block_on(w.runtime.state("no-such-pod")).unwrap(), None);
}

pub fn start_errors(w: &World) {
    w.start_pod();
    let running = w.container("tick");
    let first = w.start(&running).unwrap();
    assert_eq!(w.start(&running).unwrap().pid, first.pid);
    for (program, why) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/no/pe", "exec: \"/no/pe\": stat /no/pe: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let mut spec = w.container("");
        spec.args = vec![program.into()];
        let e = w.start(&spec).unwrap_err();
        assert_eq!((e.why.as_str(), e.container_fault), (why, true));
        assert!(!w.pods().join(POD).join("containers").join(&spec.id).exists());
        let group = format!("{}/{POD}/{}", w.group, spec.id);
        assert!(!sys::cgroup::machine().unwrap().exists(&group));
    }
    let mut spec = w.container("say never");
    spec.layers = vec!["/no/such/layer".into()];
    let e = w.start(&spec).unwrap_err();
    assert!(!e.container_fault && e.why.contains("/no/such/layer"), "{e}");
    let mut spec = w.container("say never");
    spec.id = "../escape".into();
    assert!(w.start(&spec).is_err());
}

pub fn stop(w: &World) {
    w.start_pod();
    let polite = w.container("trap");
    w.start(&polite).unwrap();
    w.wait_for_log(&polite, "trapping");
    let before = Instant::now();
    w.tokio.block_on(w.runtime.stop_container(POD, &polite.id, 30)).unwrap();
    assert_eq!(w.state(&polite.id).exit_code, 7);
    assert!(before.elapsed() < Duration::from_secs(5));
    // The first process of a pid namespace ignores a signal that it has no handler for.
    let deaf = w.container("tick");
    w.start(&deaf).unwrap();
    let before = Instant::now();
    w.tokio.block_on(w.runtime.stop_container(POD, &deaf.id, 1)).unwrap();
    let took = before.elapsed();
    assert!((Duration::from_millis(990)..Duration::from_secs(3)).contains(&took), "{took:?}");
    let state = w.state(&deaf.id);
    assert_eq!((state.exit_code, state.signal), (137, 9));
    // Stopping what has ended, or never was, is fine.
    w.tokio.block_on(w.runtime.stop_container(POD, &deaf.id, 1)).unwrap();
    w.tokio.block_on(w.runtime.stop_container(POD, "unknown", 1)).unwrap();
    w.tokio.block_on(w.runtime.stop_container("no-such-pod", "unknown", 1)).unwrap();
}

pub fn out_of_memory(w: &World) {
    w.start_pod();
    let mut spec = w.container("eat");
    spec.resources.memory_limit_bytes = Some(64 << 20);
    let (state, _) = w.run(&spec);
    assert_eq!((state.exit_code, state.signal, state.oom_killed), (137, 9, true));
    let (state, _) = w.run(&w.container("exit 0"));
    assert!(!state.oom_killed);
}

pub fn survives_the_parent(w: &World) {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .arg("__parent")
        .arg(w.pods())
        .arg(w.layer())
        .arg(&w.group)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0u8; 8];
    parent.stdout.take().unwrap().read_exact(&mut said).unwrap();
    parent.kill().unwrap(); // SIGKILL
    parent.wait().unwrap();
    let log = w.dir().join("logs/survivor/0.log");
    let ticks = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    let then = ticks();
    eventually("it goes on ticking", || ticks() > then + 2);
    let again = w.tokio.block_on(async { new_runtime(&w.pods()) });
    let before = Instant::now();
    let sandboxes = w.tokio.block_on(again.sandboxes()).unwrap();
    let states = w.tokio.block_on(again.state(POD)).unwrap().unwrap();
    println!("  found again in {} us", before.elapsed().as_micros());
    assert_eq!((sandboxes.len(), sandboxes[0].hostname.as_str()), (1, "the-pod"));
    assert_eq!((states.len(), states[0].phase), (1, Phase::Running));
    assert_eq!(w.exec("survivor", "exit 5").0, 5);
    let mut events = again.events();
    w.tokio.block_on(again.stop_container(POD, "survivor", 0)).unwrap();
    let event = w.tokio.block_on(async { tokio::time::timeout(Duration::from_secs(5), events.recv()).await });
    assert_eq!(event.unwrap().unwrap().container_id, "survivor");
    assert_eq!(w.state("survivor").exit_code, 137);
}

pub fn lost_shim(w: &World) {
    w.start_pod();
    let (before, running) = (w.container("exit 4"), w.container("tick"));
    w.run(&before);
    let pid = w.start(&running).unwrap().pid;
    let mut events = w.runtime.events();
    let record = std::fs::read_to_string(w.pods().join(POD).join("shim.json")).unwrap();
    let shim: i32 = record.split(|c: char| !c.is_ascii_digit()).find_map(|n| n.parse().ok()).unwrap();
    sys::process::signal_pid(shim, 9).unwrap();
    let event = w.tokio.block_on(async { tokio::time::timeout(Duration::from_secs(5), events.recv()).await });
    assert_eq!(event.unwrap().unwrap().pod_uid, POD);
    let state = w.state(&running.id);
    assert_eq!((state.phase, state.exit_code), (Phase::Exited, 137));
    assert_eq!(sys::process::start_time(pid), None);
    assert_eq!(w.state(&before.id).exit_code, 4);
    // A new shim takes over what is on disk.
    w.start_pod();
    assert_eq!(w.state(&running.id).exit_code, 137);
    assert_eq!(w.run(&w.container("exit 6")).0.exit_code, 6);
    w.tokio.block_on(w.runtime.remove_container(POD, &running.id)).unwrap();
}

pub fn limits_and_usage(w: &World) {
    w.start_pod_with(|s| s.resources.pids_limit = Some(100));
    let mut spec = w.container("tick");
    spec.resources = Resources {
        memory_limit_bytes: Some(128 << 20),
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(512),
        pids_limit: None,
    };
    w.start(&spec).unwrap();
    let cgroups = w.exec(&spec.id, "list /sys/fs/cgroup").1;
    let v2 = cgroups.contains("cgroup.procs");
    let limit = if v2 { "/sys/fs/cgroup/memory.max" } else { "/sys/fs/cgroup/memory/memory.limit_in_bytes" };
    // The container sees its own group as the root, and cannot write to it.
    assert_eq!(w.exec(&spec.id, &format!("cat {limit}")).1, format!("{}\n", 128 << 20));
    assert!(w.exec(&spec.id, &format!("try-write {limit}")).1.contains("Read-only"));
    let resources = Resources { memory_limit_bytes: Some(256 << 20), ..Resources::default() };
    w.tokio.block_on(w.runtime.update_container(POD, &spec.id, &resources)).unwrap();
    assert_eq!(w.exec(&spec.id, &format!("cat {limit}")).1, format!("{}\n", 256 << 20));
    let own = w.tokio.block_on(w.runtime.usage(POD, Some(&spec.id))).unwrap();
    let pod = w.tokio.block_on(w.runtime.usage(POD, None)).unwrap();
    assert!(own.memory_bytes > 0 && own.cpu_ns > 0, "{own:?}");
    assert!(pod.memory_bytes >= own.memory_bytes && pod.pids >= 1, "{pod:?}");
    w.tokio.block_on(w.runtime.stop_container(POD, &spec.id, 0)).unwrap();
    assert!(w.tokio.block_on(w.runtime.update_container(POD, &spec.id, &resources)).is_err());
}
