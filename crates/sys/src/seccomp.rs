//! Seccomp: profiles to BPF programs, and loading them.
//!
//! A seccompiler program knows one action for a match, so a profile becomes several programs: the kernel runs all and
//! takes the strictest answer. Invariant: a profile that cannot be honoured completely is an error, never a weaker
//! filter.
//!
//! Programs of another architecture than the machine's own (32-bit ones) are killed: one filter covers one
//! architecture, and leaving the other open would make the filter worthless.

mod default;
mod profile;
mod table;

pub use default::runtime_default;
pub use profile::{Action, Argument, Comparison, Profile, Rule, parse_profile};

use crate::error::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// Programs ready to load, in loading order.
#[derive(Debug, Clone, Default)]
pub struct Filter(Vec<BpfProgram>);

impl Filter {
    /// No filter at all.
    pub fn unconfined() -> Self {
        Self::default()
    }

    pub fn is_unconfined(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// BPF opcodes and the return value used by the guard for unknown calls.
const LD_W_ABS: u16 = 0x20;
const JGT_K: u16 = 0x25;
const RET_K: u16 = 0x06;
const RET_ERRNO: u32 = 0x0005_0000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiles a profile.
pub fn compile(profile: &Profile) -> Result<Filter> {
    let default = action(profile.default);
    let mut by_action: Vec<(SeccompAction, Rules)> = vec![];
    let mut matched: Rules = BTreeMap::new();
    for rule in &profile.rules {
        let conditions = rule.arguments.iter().map(condition).collect::<Result<Vec<_>>>()?;
        let act = action(rule.action);
        for name in &rule.names {
            // A name that this architecture (or this program) does not know cannot be called by number either,
            // but for new calls, which the guard answers.
            let Some(number) = table::number(name) else { continue };
            if act == default {
                continue;
            }
            if profile.default != Action::Allow {
                add(&mut matched, number, &conditions)?;
            }
            if rule.action != Action::Allow {
                let position = by_action.iter().position(|(a, _)| *a == act);
                let rules = match position {
                    Some(i) => &mut by_action[i].1,
                    None => {
                        by_action.push((act.clone(), Rules::new()));
                        let last = by_action.len() - 1;
                        &mut by_action[last].1
                    }
                };
                add(rules, number, &conditions)?;
            }
        }
    }
    let mut programs = vec![];
    if profile.default != Action::Allow {
        programs.push(program(matched, default, SeccompAction::Allow)?);
    }
    for (act, rules) in by_action {
        programs.push(program(rules, SeccompAction::Allow, act)?);
    }
    if matches!(profile.default, Action::Errno(_))
        && let Some(first) = programs.first_mut()
    {
        guard_unknown(first);
    }
    Ok(Filter(programs))
}

/// An empty rule list means "whatever the arguments": it wins over rules with conditions.
fn add(rules: &mut Rules, number: i64, conditions: &[SeccompCondition]) -> Result<()> {
    if conditions.is_empty() {
        rules.insert(number, vec![]);
        return Ok(());
    }
    let rule =
        SeccompRule::new(conditions.to_vec()).map_err(|e| Error::check(format!("seccomp rule: {e}")))?;
    match rules.get_mut(&number) {
        Some(list) if list.is_empty() => {}
        Some(list) => list.push(rule),
        None => drop(rules.insert(number, vec![rule])),
    }
    Ok(())
}

fn program(rules: Rules, mismatch: SeccompAction, on_match: SeccompAction) -> Result<BpfProgram> {
    SeccompFilter::new(rules, mismatch, on_match, ARCH)
        .and_then(BpfProgram::try_from)
        .map_err(|e| Error::check(format!("compile seccomp filter: {e}")))
}

/// Calls newer than the table get ENOSYS, so that C libraries fall back to an older call instead of giving up.
/// The first three instructions check the architecture; jumps are relative, so inserting after them is sound.
fn guard_unknown(program: &mut BpfProgram) {
    let highest = u32::try_from(table::highest()).unwrap_or(u32::MAX);
    let guard = [
        sock_filter { code: LD_W_ABS, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JGT_K, jt: 0, jf: 1, k: highest },
        sock_filter { code: RET_K, jt: 0, jf: 0, k: RET_ERRNO | libc::ENOSYS as u32 },
    ];
    program.splice(3..3, guard);
}

fn action(action: Action) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno(n) => SeccompAction::Errno(n),
        Action::KillProcess => SeccompAction::KillProcess,
        Action::KillThread => SeccompAction::KillThread,
        Action::Log => SeccompAction::Log,
        Action::Trace(n) => SeccompAction::Trace(n),
        Action::Trap => SeccompAction::Trap,
    }
}

fn condition(a: &Argument) -> Result<SeccompCondition> {
    let op = match a.comparison {
        Comparison::Equal => SeccompCmpOp::Eq,
        Comparison::NotEqual => SeccompCmpOp::Ne,
        Comparison::Less => SeccompCmpOp::Lt,
        Comparison::LessOrEqual => SeccompCmpOp::Le,
        Comparison::Greater => SeccompCmpOp::Gt,
        Comparison::GreaterOrEqual => SeccompCmpOp::Ge,
        Comparison::MaskedEqual(mask) => SeccompCmpOp::MaskedEq(mask),
    };
    SeccompCondition::new(a.index, SeccompCmpArgLen::Qword, op, a.value)
        .map_err(|e| Error::check(format!("seccomp argument: {e}")))
}

/// Loads the programs into the calling process. Needs CAP_SYS_ADMIN or no_new_privs, which this does not set: a
/// container may gain privileges by set-user-id programs unless its owner forbids it.
pub fn load(filter: &Filter) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const sock_filter,
    }
    // The last one loaded sees the seccomp(2) calls before it; the strictest (first) therefore goes in last.
    for instructions in filter.0.iter().rev() {
        let length =
            u16::try_from(instructions.len()).map_err(|_| Error::check("seccomp filter too long"))?;
        let program = Program { length, filter: instructions.as_ptr() };
        // SAFETY: a valid sock_fprog whose instructions outlive the call; the kernel copies and verifies them.
        let r = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const program)
        };
        if r != 0 {
            return Err(Error::last("load seccomp filter"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(default: Action, rules: &[(&str, Action)]) -> Profile {
        let rules = rules
            .iter()
            .map(|(n, a)| Rule { names: vec![(*n).into()], action: *a, arguments: vec![] })
            .collect();
        Profile { default, rules }
    }

    #[test]
    fn one_program_per_action() {
        let deny = Action::Errno(1);
        let p =
            profile(deny, &[("read", Action::Allow), ("bpf", Action::Errno(38)), ("ptrace", Action::Trap)]);
        assert_eq!(compile(&p).unwrap().0.len(), 3);
        let open = profile(Action::Allow, &[("mkdir", Action::Errno(13))]);
        assert_eq!(compile(&open).unwrap().0.len(), 1);
        assert!(compile(&profile(Action::Allow, &[])).unwrap().is_unconfined());
    }

    #[test]
    fn the_default_profile_fits_the_kernels_limit() {
        let filter = compile(&runtime_default(&[])).unwrap();
        assert!(filter.0.iter().all(|p| p.len() < 4096));
        assert!(filter.0[0].len() > 1000);
    }
}
