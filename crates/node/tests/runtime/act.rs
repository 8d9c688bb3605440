//! What this program does inside of a container: one small act per word of its command line.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

/// Acts are separated by `+`; the exit code is that of the last `exit`, 9 if an act fails.
pub fn main(words: &[String]) -> i32 {
    for act in words.split(|w| w == "+") {
        let args: Vec<&str> = act.iter().skip(1).map(String::as_str).collect();
        let Some(name) = act.first() else { continue };
        if name == "exit" {
            return args[0].parse().unwrap_or(9);
        }
        if let Err(e) = one(name, &args) {
            println!("error {name}: {e}");
            return 9;
        }
    }
    0
}

fn one(name: &str, args: &[&str]) -> std::io::Result<()> {
    match name {
        "say" => println!("{}", args.join(" ")),
        "complain" => eprintln!("{}", args.join(" ")),
        "cat" => print!("{}", std::fs::read_to_string(args[0])?),
        "try-cat" => match std::fs::read_to_string(args[0]) {
            Ok(text) => println!("read {} bytes", text.len()),
            Err(e) => println!("{e}"),
        },
        "write" => std::fs::write(args[0], args[1])?,
        "try-write" => println!("{}", said(std::fs::write(args[0], "x"))),
        "list" => {
            let mut names: Vec<String> = std::fs::read_dir(args[0])?
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        "env" => {
            println!("{}", std::env::vars().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("\n"))
        }
        "pwd" => println!("{}", std::env::current_dir()?.display()),
        "pid" => println!("{}", std::process::id()),
        "link" => println!("{}", std::fs::read_link(args[0])?.display()),
        "mountinfo" => print!("{}", std::fs::read_to_string("/proc/self/mountinfo")?),
        "sleep" => std::thread::sleep(Duration::from_millis(args[0].parse().unwrap_or(0))),
        "tick" => loop {
            println!("tick");
            std::thread::sleep(Duration::from_millis(50));
        },
        "wait-for" => {
            while !std::path::Path::new(args[0]).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "eat" => eat(),
        "trap" => trap(),
        "unshare" => println!("{}", said(sys::namespace::unshare(sys::namespace::UTS).map_err(Into::into))),
        "mkdir" => println!("{}", said(std::fs::create_dir(args[0]))),
        "kmsg" => println!("{}", said(std::fs::File::open("/dev/kmsg").map(drop))),
        "terminal" => {
            println!("terminal {}", std::io::stdin().is_terminal() && std::io::stdout().is_terminal())
        }
        "size" => {
            let size = rustix::termios::tcgetwinsize(std::io::stdout())?;
            println!("size {}x{}", size.ws_col, size.ws_row);
        }
        "echo" => echo()?,
        "stdout-again" => {
            std::fs::OpenOptions::new().write(true).open("/dev/stdout")?.write_all(b"again\n")?
        }
        other => return Err(std::io::Error::other(format!("no act {other}"))),
    }
    std::io::stdout().flush()
}

fn said(result: std::io::Result<()>) -> String {
    result.map_or_else(|e| e.to_string(), |()| "allowed".into())
}

/// Answers each line of input; ends with the input.
fn echo() -> std::io::Result<()> {
    let mut line = String::new();
    let mut byte = [0u8];
    while std::io::stdin().read(&mut byte)? == 1 {
        if byte[0] == b'\n' {
            println!("heard {line}");
            line.clear();
        } else {
            line.push(char::from(byte[0]));
        }
    }
    println!("input over");
    Ok(())
}

fn eat() {
    let mut all: Vec<Vec<u8>> = vec![];
    loop {
        all.push(vec![all.len() as u8 | 1; 1 << 20]);
    }
}

/// Ends with code 7 on SIGTERM.
fn trap() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a handler");
        println!("trapping");
        term.recv().await;
        std::process::exit(7);
    });
}
