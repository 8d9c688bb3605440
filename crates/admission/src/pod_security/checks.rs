//! The table of checks and its evaluation (upstream: pod-security-admission `policy/registry.go`, `policy/checks.go`).
//!
//! Invariants: a check has at most one revision at a version, the newest that is not younger than it; violations are
//! told in the order of the table, which is that of upstream's identifiers, baseline before restricted.

use super::pod::Pod;
use super::policy::{Level, LevelVersion, Version};
use super::{baseline, restricted};

/// What a check finds wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In a few words, the same for all pods.
    pub reason: &'static str,
    /// Which containers, which values.
    pub detail: String,
}

/// Why a pod violates a level; nothing when it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict(Vec<Violation>);

/// A check's rule from some version on.
pub struct Revision {
    /// The first minor version that has it.
    since: u64,
    run: fn(&Pod<'_>) -> Option<Violation>,
    /// Baseline checks that a restricted one stands in for.
    overrides: &'static [&'static str],
}

/// A rule of a level, through its history.
pub struct Check {
    /// Upstream's identifier.
    id: &'static str,
    /// Oldest first.
    revisions: &'static [Revision],
}

/// Judges a pod by the rules of a level at a version. A version from the future has the newest rules.
pub fn evaluate(lv: LevelVersion, pod: &Pod<'_>) -> Verdict {
    if lv.level == Level::Privileged {
        return Verdict::default();
    }
    let restricted: Vec<&Revision> = if lv.level == Level::Restricted {
        RESTRICTED.iter().filter_map(|c| c.at(lv.version)).collect()
    } else {
        Vec::new()
    };
    let stands = |c: &&Check| !restricted.iter().any(|r| r.overrides.contains(&c.id));
    let baseline = BASELINE.iter().filter(stands).filter_map(|c| c.at(lv.version));
    Verdict(baseline.chain(restricted.iter().copied()).filter_map(|r| (r.run)(pod)).collect())
}

impl Verdict {
    pub fn allowed(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons alone: `privileged, hostPort`.
    pub fn reasons(&self) -> String {
        self.0.iter().map(|v| v.reason).collect::<Vec<_>>().join(", ")
    }

    /// The reasons, each with its detail in brackets.
    pub fn details(&self) -> String {
        let one = |v: &Violation| format!("{} ({})", v.reason, v.detail);
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Check {
    fn at(&self, version: Version) -> Option<&Revision> {
        self.revisions.iter().rev().find(|r| Version::Minor(r.since) <= version)
    }
}

const fn since(since: u64, run: fn(&Pod<'_>) -> Option<Violation>) -> Revision {
    Revision { since, run, overrides: &[] }
}

impl Revision {
    const fn instead_of(mut self, ids: &'static [&'static str]) -> Self {
        self.overrides = ids;
        self
    }
}

const BASELINE: &[Check] = &[
    Check { id: "appArmorProfile", revisions: &[since(0, baseline::app_armor_profile)] },
    Check { id: "capabilities_baseline", revisions: &[since(0, baseline::capabilities)] },
    Check { id: "hostNamespaces", revisions: &[since(0, baseline::host_namespaces)] },
    Check { id: "hostPathVolumes", revisions: &[since(0, baseline::host_path_volumes)] },
    Check { id: "hostPorts", revisions: &[since(0, baseline::host_ports)] },
    Check {
        id: "hostProbesAndHostLifecycle",
        revisions: &[since(34, baseline::host_probes_and_host_lifecycle)],
    },
    Check { id: "privileged", revisions: &[since(0, baseline::privileged)] },
    Check {
        id: "procMount",
        revisions: &[
            since(0, baseline::proc_mount),
            since(35, |p| if p.in_user_namespace() { None } else { baseline::proc_mount(p) }),
        ],
    },
    Check {
        id: "seLinuxOptions",
        revisions: &[
            since(0, |p| baseline::se_linux_options(p, 0)),
            since(31, |p| baseline::se_linux_options(p, 31)),
        ],
    },
    Check {
        id: "seccompProfile_baseline",
        revisions: &[since(0, baseline::seccomp_annotations), since(19, baseline::seccomp_profile)],
    },
    Check {
        id: "sysctls",
        revisions: &[
            since(0, |p| baseline::sysctls(p, 0)),
            since(27, |p| baseline::sysctls(p, 27)),
            since(29, |p| baseline::sysctls(p, 29)),
            since(32, |p| baseline::sysctls(p, 32)),
            since(37, |p| baseline::sysctls(p, 37)),
        ],
    },
    Check { id: "windowsHostProcess", revisions: &[since(0, baseline::windows_host_process)] },
];

const RESTRICTED: &[Check] = &[
    Check {
        id: "allowPrivilegeEscalation",
        revisions: &[
            since(8, restricted::allow_privilege_escalation),
            since(25, |p| unless_windows(p, restricted::allow_privilege_escalation)),
        ],
    },
    Check {
        id: "capabilities_restricted",
        revisions: &[
            since(22, restricted::capabilities).instead_of(&["capabilities_baseline"]),
            since(25, |p| unless_windows(p, restricted::capabilities)).instead_of(&["capabilities_baseline"]),
        ],
    },
    Check {
        id: "procMount_restricted",
        // Before 1.35 the baseline check was as strict as this one.
        revisions: &[since(35, baseline::proc_mount).instead_of(&["procMount"])],
    },
    Check {
        id: "restrictedVolumes",
        revisions: &[since(0, restricted::volumes).instead_of(&["hostPathVolumes"])],
    },
    Check {
        id: "runAsNonRoot",
        revisions: &[
            since(0, restricted::run_as_non_root),
            since(35, |p| unless_in_user_namespace(p, restricted::run_as_non_root)),
        ],
    },
    Check {
        id: "runAsUser",
        revisions: &[
            since(23, restricted::run_as_user),
            since(35, |p| unless_in_user_namespace(p, restricted::run_as_user)),
        ],
    },
    Check {
        id: "seccompProfile_restricted",
        revisions: &[
            since(19, restricted::seccomp_profile).instead_of(&["seccompProfile_baseline"]),
            since(25, |p| unless_windows(p, restricted::seccomp_profile))
                .instead_of(&["seccompProfile_baseline"]),
        ],
    },
];

/// Windows pods may not set the Linux fields that the check wants set.
fn unless_windows(pod: &Pod<'_>, check: fn(&Pod<'_>) -> Option<Violation>) -> Option<Violation> {
    if pod.is_windows() { None } else { check(pod) }
}

fn unless_in_user_namespace(pod: &Pod<'_>, check: fn(&Pod<'_>) -> Option<Violation>) -> Option<Violation> {
    if pod.in_user_namespace() { None } else { check(pod) }
}

#[cfg(test)]
mod tests {
    use super::super::policy;
    use super::*;
    use serde_json::{Value, json};

    /// Evaluates every case of a fixture file at every level and version that it names.
    fn run(file: &str) {
        let (cases, _) = meta::yaml::parse_yaml(file.as_bytes(), 1 << 20).expect("the fixture is YAML");
        let mut judged = 0;
        for case in cases.as_array().expect("the fixture is a list") {
            let about = case["about"].as_str().expect("a case says what it is about");
            let tree = json!({"metadata": {"annotations": case["annotations"]}, "spec": case["spec"]});
            for (at, want) in case["want"].as_object().expect("a case wants something") {
                let lv = policy::parse(at).expect("a level and a version");
                let got = evaluate(lv, &Pod::new(&tree));
                assert_eq!(Value::from(got.details()), *want, "{about}, at {at}");
                judged += 1;
            }
        }
        assert!(judged > 20, "only {judged} judgements");
    }

    #[test]
    fn baseline_cases() {
        run(include_str!("cases/baseline.yaml"));
    }

    #[test]
    fn restricted_cases() {
        run(include_str!("cases/restricted.yaml"));
    }

    #[test]
    fn the_table_is_in_order_and_its_overrides_exist() {
        for table in [BASELINE, RESTRICTED] {
            assert!(table.is_sorted_by_key(|c| c.id));
            for check in table {
                assert!(check.revisions.is_sorted_by(|a, b| a.since < b.since), "{}", check.id);
            }
        }
        assert!(BASELINE.iter().all(|c| c.revisions.iter().all(|r| r.overrides.is_empty())));
        for id in RESTRICTED.iter().flat_map(|c| c.revisions).flat_map(|r| r.overrides) {
            assert!(BASELINE.iter().any(|c| c.id == *id), "{id}");
        }
    }

    #[test]
    fn reasons_are_told_without_details() {
        let pod = json!({"spec": {"hostPID": true, "containers": [
            {"name": "a", "securityContext": {"privileged": true}, "ports": [{"hostPort": 80}]},
        ]}});
        let lv = policy::parse("baseline:latest").expect("a level and a version");
        assert_eq!(evaluate(lv, &Pod::new(&pod)).reasons(), "host namespaces, hostPort, privileged");
    }
}
