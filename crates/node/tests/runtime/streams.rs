//! Exec, terminals, attach, logs.

use crate::world::{POD, World, eventually, words};
use node::runtime::{ExecSpec, Runtime as _, Streams};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

pub fn exec(w: &World) {
    w.start_pod();
    let mut spec = w.container("tick");
    spec.security.uid = 1000;
    spec.security.gid = 1000;
    spec.cwd = "/srv/app".into();
    w.start(&spec).unwrap();
    let before = Instant::now();
    let (code, output) = w.exec(&spec.id, "say out + complain err + pwd + env + stdout-again + exit 5");
    println!("  exec {} us", before.elapsed().as_micros());
    assert_eq!(code, 5, "{output}");
    for wanted in ["out\n", "err\n", "/srv/app\n", "HOME=/srv\n", "again\n"] {
        assert!(output.contains(wanted), "{wanted:?} in {output}");
    }
    let e = w.try_exec(&spec.id, &["nope".into()]).unwrap_err();
    assert_eq!(
        (e.why.as_str(), e.container_fault),
        ("exec: \"nope\": executable file not found in $PATH", true)
    );
    assert!(w.try_exec("unknown", &["act".into()]).unwrap_err().container_fault);
    let long = w.tokio.block_on(w.runtime.exec_sync(
        POD,
        &spec.id,
        &words("sleep 60000"),
        Duration::from_millis(200),
    ));
    assert!(long.unwrap_err().why.contains("timed out"));
    eventually("the command is gone", || {
        w.exec(&spec.id, "list /proc").1.split(' ').filter(|n| n.parse::<u32>().is_ok()).count() == 2
    });
    let wanted = ExecSpec { container_id: spec.id.clone(), args: words("echo"), tty: false, stdin: true };
    let s = w.tokio.block_on(w.runtime.exec(POD, &wanted)).unwrap();
    let mut stdin = File::from(s.stdin.unwrap());
    stdin.write_all(b"one\ntwo\n").unwrap();
    drop(stdin);
    let mut out = String::new();
    File::from(s.stdout.unwrap()).read_to_string(&mut out).unwrap();
    assert_eq!(out, "heard one\nheard two\ninput over\n");
    assert_eq!(w.tokio.block_on(w.runtime.exec_wait(POD, &s.exec_id)).unwrap(), 0);
}

/// Reads until the text has come.
fn read_until(fd: &mut File, text: &str) -> String {
    let mut all = String::new();
    let mut chunk = [0u8; 1024];
    while !all.contains(text) {
        let n = fd.read(&mut chunk).unwrap_or(0);
        assert!(n > 0, "{text:?} never came in {all:?}");
        all.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    all
}

fn files(s: Streams) -> (Option<File>, File, String) {
    let file = |fd: OwnedFd| File::from(fd);
    (s.stdin.map(file), file(s.stdout.unwrap()), s.exec_id)
}

pub fn terminals(w: &World) {
    w.start_pod();
    let mut spec = w.container("terminal + say ready + wait-for /go + size + env + echo");
    (spec.tty, spec.stdin) = (true, true);
    w.start(&spec).unwrap();
    w.wait_for_log(&spec, "stdout F terminal true");
    let attached = w.tokio.block_on(w.runtime.attach(POD, &spec.id)).unwrap();
    assert!(attached.stderr.is_none());
    let (stdin, mut stdout, id) = files(attached);
    w.tokio.block_on(w.runtime.resize(POD, &id, 111, 33)).unwrap();
    assert_eq!(w.exec(&spec.id, "write /go 1").0, 0);
    let text = read_until(&mut stdout, "HOSTNAME");
    assert!(text.contains("size 111x33"), "{text}");
    stdin.unwrap().write_all(b"hi\n").unwrap();
    read_until(&mut stdout, "heard hi");
    eventually("the environment has TERM", || w.log(&spec).contains("TERM=xterm"));

    let wanted = ExecSpec {
        container_id: spec.id.clone(),
        args: words("terminal + wait-for /go2 + size"),
        tty: true,
        stdin: true,
    };
    let (stdin, mut stdout, id) = files(w.tokio.block_on(w.runtime.exec(POD, &wanted)).unwrap());
    read_until(&mut stdout, "terminal true");
    w.tokio.block_on(w.runtime.resize(POD, &id, 90, 20)).unwrap();
    w.exec(&spec.id, "write /go2 1");
    read_until(&mut stdout, "size 90x20");
    assert_eq!(w.tokio.block_on(w.runtime.exec_wait(POD, &id)).unwrap(), 0);
    drop(stdin);
}

pub fn attach(w: &World) {
    w.start_pod();
    let mut spec = w.container("say first + echo + complain last");
    (spec.stdin, spec.stdin_once) = (true, true);
    w.start(&spec).unwrap();
    w.wait_for_log(&spec, "first");
    let (one_in, mut one_out, _) = files(w.tokio.block_on(w.runtime.attach(POD, &spec.id)).unwrap());
    let (two_in, mut two_out, _) = files(w.tokio.block_on(w.runtime.attach(POD, &spec.id)).unwrap());
    let mut two_in = two_in.unwrap();
    two_in.write_all(b"from two\n").unwrap();
    read_until(&mut one_out, "heard from two\n");
    read_until(&mut two_out, "heard from two\n");
    // One that goes away disturbs nobody; with stdinOnce the first end of input is the end.
    drop((two_in, two_out));
    let text = read_until(&mut one_out, "input over\n");
    assert!(!text.contains("last"), "stderr is a stream of its own: {text}");
    let mut rest = String::new();
    one_out.read_to_string(&mut rest).unwrap();
    drop(one_in);
    assert_eq!(w.wait(&spec.id).exit_code, 0);
    assert!(w.log(&spec).contains("stdout F heard from two") && w.log(&spec).contains("stderr F last"));
    assert!(w.tokio.block_on(w.runtime.attach(POD, &spec.id)).is_err());
}

pub fn reopen(w: &World) {
    w.start_pod();
    let spec = w.container("tick");
    w.start(&spec).unwrap();
    w.wait_for_log(&spec, "tick");
    let moved = spec.log_path.with_extension("old");
    std::fs::rename(&spec.log_path, &moved).unwrap();
    w.tokio.block_on(w.runtime.reopen_log(POD, &spec.id)).unwrap();
    let old = std::fs::read_to_string(&moved).unwrap().len();
    w.wait_for_log(&spec, "tick");
    assert_eq!(std::fs::read_to_string(&moved).unwrap().len(), old);
}
