//! The RuntimeDefault profile: what an ordinary program needs, and what each capability adds.
//!
//! upstream: github.com/containerd/containerd contrib/seccomp#DefaultProfile (the behaviour, not the text).
//! Invariant: a call that is in no list below answers EPERM, one newer than our table ENOSYS.

use super::profile::{Action, Argument, Comparison, Profile, Rule};

/// Namespace flags that clone may not carry without CAP_SYS_ADMIN.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Sockets of the hypervisor's family would bypass the pod network.
const AF_VSOCK: u64 = 40;
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const FILES: &str = "access cachestat chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 \
    faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl \
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd \
    getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl \
    lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat \
    mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 \
    read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile \
    setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask \
    unlink unlinkat utime utimensat utimes vmsplice write writev file_getattr";
const MEMORY: &str = "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall \
    mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise \
    process_mrelease remap_file_pages";
const PROCESSES: &str = "capget capset execve execveat exit exit_group fork getcpu getegid geteuid getgid getgroups \
    getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit get_robust_list getrusage getsid gettid \
    get_thread_area getuid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr pause pidfd_open pidfd_send_signal \
    prctl prlimit64 ptrace process_vm_readv process_vm_writev restart_syscall rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity \
    sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler \
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp \
    setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit \
    set_robust_list setsid set_thread_area set_tid_address setuid sigaltstack sysinfo tgkill tkill uname vfork wait4 \
    waitid";
const EVENTS_AND_TIME: &str = "alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl \
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 futex futex_requeue futex_wait \
    futex_waitv futex_wake getitimer getrandom gettimeofday io_cancel io_destroy io_getevents io_pgetevents io_setup \
    io_submit nanosleep pipe pipe2 poll ppoll pselect6 select signalfd signalfd4 time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times";
const COMMUNICATION: &str = "accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr \
    mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg \
    semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair";
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURE: &str = "";

/// Calls that a capability opens.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount2 unshare statmount listmount file_setattr",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday adjtimex clock_adjtime clock_settime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// The profile for a container with these capabilities.
pub fn runtime_default(capabilities: &[String]) -> Profile {
    let mut rules: Vec<Rule> = [FILES, MEMORY, PROCESSES, EVENTS_AND_TIME, COMMUNICATION, ARCHITECTURE]
        .iter()
        .map(|l| allow(l))
        .collect();
    for (capability, calls) in BY_CAPABILITY {
        if capabilities.iter().any(|c| c == capability) {
            rules.push(allow(calls));
        }
    }
    for personality in PERSONALITIES {
        rules.push(when("personality", 0, personality, Comparison::Equal));
    }
    rules.push(when("socket", 0, AF_VSOCK, Comparison::NotEqual));
    if !capabilities.iter().any(|c| c == "CAP_SYS_ADMIN") {
        rules.push(when("clone", 0, 0, Comparison::MaskedEqual(NAMESPACE_FLAGS)));
        // Its flags lie in memory where no filter can see them: ENOSYS makes C libraries use clone.
        rules.push(Rule {
            names: vec!["clone3".into()],
            action: Action::Errno(libc::ENOSYS as u32),
            arguments: vec![],
        });
    }
    Profile { default: Action::Errno(libc::EPERM as u32), rules }
}

fn allow(calls: &str) -> Rule {
    let names = calls.split_ascii_whitespace().map(String::from).collect();
    Rule { names, action: Action::Allow, arguments: vec![] }
}

fn when(call: &str, index: u8, value: u64, comparison: Comparison) -> Rule {
    let arguments = vec![Argument { index, value, comparison }];
    Rule { names: vec![call.into()], action: Action::Allow, arguments }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(p: &Profile, call: &str) -> bool {
        p.rules.iter().any(|r| r.action == Action::Allow && r.names.iter().any(|n| n == call))
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        let plain = runtime_default(&["CAP_CHOWN".into()]);
        for call in [
            "mount",
            "bpf",
            "keyctl",
            "add_key",
            "io_uring_setup",
            "userfaultfd",
            "reboot",
            "unshare",
            "setns",
        ] {
            assert!(!allows(&plain, call), "{call}");
        }
        let admin = runtime_default(&["CAP_SYS_ADMIN".into()]);
        assert!(allows(&admin, "mount") && allows(&admin, "clone3") && !allows(&admin, "reboot"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_name_is_a_call() {
        let all: Vec<String> = BY_CAPABILITY.iter().map(|(c, _)| (*c).to_string()).collect();
        for rule in runtime_default(&all).rules {
            for name in rule.names {
                assert!(super::super::table::number(&name).is_some(), "{name}");
            }
        }
    }
}
