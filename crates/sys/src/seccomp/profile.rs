//! Seccomp profiles: the model, and the JSON form of Docker and OCI that Localhost profiles are written in.
//!
//! Invariant: what the parser does not understand it refuses.

use crate::error::{Error, Result};
use serde::Deserialize;

/// Largest accepted profile, in bytes.
const PROFILE_BYTES_MAX: usize = 1 << 20;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Errno(u32),
    KillProcess,
    KillThread,
    Log,
    Trace(u32),
    Trap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal after masking with this.
    MaskedEqual(u64),
}

/// A condition on one argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// 0 to 5.
    pub index: u8,
    pub value: u64,
    pub comparison: Comparison,
}

/// Calls by name and what happens to them when all arguments match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub arguments: Vec<Argument>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// For calls that no rule matches.
    pub default: Action,
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<JsonRule>,
    #[serde(default)]
    listener_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<JsonArgument>>,
    includes: Option<JsonFilter>,
    excludes: Option<JsonFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Docker's conditions on where a rule is in force.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonFilter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[cfg(target_arch = "x86_64")]
const ARCH_NAME: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const ARCH_NAME: &str = "arm64";

/// Parses a profile; rules that depend on capabilities are taken for a container that has `capabilities`.
/// An empty profile is refused (CVE-2023-2431).
pub fn parse_profile(text: &str, capabilities: &[String]) -> Result<Profile> {
    if text.len() > PROFILE_BYTES_MAX {
        return Err(Error::check(format!("seccomp profile is larger than {PROFILE_BYTES_MAX} bytes")));
    }
    let json: JsonProfile =
        serde_json::from_str(text).map_err(|e| Error::check(format!("seccomp profile: {e}")))?;
    if !json.listener_path.is_empty() {
        return Err(Error::check("seccomp profile: listenerPath is not supported"));
    }
    let holds = |f: &JsonFilter| -> Result<bool> {
        let caps = f.caps.as_ref().is_none_or(|l| l.iter().all(|c| capabilities.contains(c)));
        let arches = f.arches.as_ref().is_none_or(|l| l.iter().any(|a| a == ARCH_NAME));
        let kernel = match &f.min_kernel {
            Some(v) => kernel_at_least(v)?,
            None => true,
        };
        Ok(caps && arches && kernel)
    };
    let excluded = |f: &JsonFilter| {
        f.caps.as_ref().is_some_and(|l| l.iter().any(|c| capabilities.contains(c)))
            || f.arches.as_ref().is_some_and(|l| l.iter().any(|a| a == ARCH_NAME))
    };
    let mut rules = vec![];
    for rule in json.syscalls {
        if let Some(f) = &rule.includes
            && !holds(f)?
        {
            continue;
        }
        if rule.excludes.as_ref().is_some_and(excluded) {
            continue;
        }
        let arguments = rule.args.unwrap_or_default().iter().map(argument).collect::<Result<Vec<_>>>()?;
        let action = action(&rule.action, rule.errno_ret)?;
        let names: Vec<String> = rule.names.into_iter().chain(rule.name).collect();
        rules.push(Rule { names, action, arguments });
    }
    Ok(Profile { default: action(&json.default_action, json.default_errno_ret)?, rules })
}

fn action(name: &str, errno: Option<u32>) -> Result<Action> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    if errno > 4095 {
        return Err(Error::check(format!("seccomp profile: errnoRet {errno} is out of range")));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(errno),
        "SCMP_ACT_TRAP" => Action::Trap,
        other => return Err(Error::check(format!("seccomp profile: unsupported action {other:?}"))),
    })
}

fn argument(a: &JsonArgument) -> Result<Argument> {
    let (comparison, value) = match a.op.as_str() {
        "SCMP_CMP_EQ" => (Comparison::Equal, a.value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, a.value),
        "SCMP_CMP_LT" => (Comparison::Less, a.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, a.value),
        "SCMP_CMP_GT" => (Comparison::Greater, a.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, a.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(a.value), a.value_two),
        other => return Err(Error::check(format!("seccomp profile: unsupported comparison {other:?}"))),
    };
    if a.index > 5 {
        return Err(Error::check(format!("seccomp profile: argument index {} is out of range", a.index)));
    }
    Ok(Argument { index: a.index, value, comparison })
}

fn kernel_at_least(version: &str) -> Result<bool> {
    let two = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let want = two(version).ok_or_else(|| Error::check(format!("seccomp profile: minKernel {version:?}")))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(two(&release).is_some_and(|have| have >= want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_docker_form() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],
          "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW"},
            {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,
              "op":"SCMP_CMP_MASKED_EQ"}],"excludes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}}]}"#;
        let p = parse_profile(text, &[]).unwrap();
        assert_eq!(p.default, Action::Errno(38));
        assert_eq!(p.rules.len(), 3);
        assert_eq!(p.rules[1].arguments[0].comparison, Comparison::MaskedEqual(2114060288));
        assert_eq!(p.rules[1].arguments[0].value, 0);
        let with = parse_profile(text, &["CAP_BPF".into(), "CAP_SYS_ADMIN".into()]).unwrap();
        assert_eq!(with.rules.len(), 3);
        assert_eq!(with.rules[1].names, ["bpf"]);
    }

    #[test]
    fn refuses_what_it_cannot_honour() {
        for bad in [
            "",
            "{}",
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"x"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
        ] {
            assert!(parse_profile(bad, &[]).is_err(), "{bad}");
        }
    }
}
