//! The system call filters: what the receiver and the validator may ask of the kernel. Only lists and how they become
//! filters; it must not decide when they are set.
//!
//! Three filters lie on top of each other, and the kernel takes the strictest answer: what only an attacker asks for
//! ends the process; what a library may try is refused with `EPERM`; what is in no list does not exist (`ENOSYS`), so
//! that a newer C library falls back to an older call, as on an older kernel. `clone3` is one of these: what it is to
//! make cannot be seen by a filter, and the libraries fall back to `clone`, where it can.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{MaskedEq, Ne};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::Whose;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Memory, waiting, time, chance, its own end: no process does without.
const BASE: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    // The SSH library keeps its secrets out of the swap.
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// What the receiver does besides: threads, files below its directory, connections on sockets that are open.
const RECEIVER: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_utimensat,
    libc::SYS_flock,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_dup,
    libc::SYS_ioctl,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// What is refused with `EPERM`, to both.
const REFUSED: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_chroot,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_truncate,
    libc::SYS_openat2,
    libc::SYS_memfd_create,
    libc::SYS_inotify_init1,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_pkey_mprotect,
    libc::SYS_seccomp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
];

/// What ends the process: nothing of ours and no library asks for it, an attacker may.
const HOSTILE: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The names that glibc gives to memory; not in every libc crate.
const PR_SET_VMA: u32 = 0x5356_4d41;

/// The filters of this process, in the order in which they are set.
///
/// # Errors
/// A list is wrong, or this architecture has none.
pub fn filters(whose: Whose) -> Result<[SeccompFilter; 3], BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |rules, others, these| SeccompFilter::new(rules, others, these, architecture);
    let errno = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    let refused = refused(whose)?;
    let mut known: Rules = whole(BASE).chain(refused.keys().map(|number| (*number, Vec::new()))).collect();
    if whose == Whose::Receiver {
        known.extend(whole(RECEIVER));
    }
    Ok([
        filter(whole(HOSTILE).collect(), SeccompAction::Allow, SeccompAction::KillProcess)?,
        filter(known, errno(libc::ENOSYS), SeccompAction::Allow)?,
        // The last one: it refuses what sets filters.
        filter(refused, SeccompAction::Allow, errno(libc::EPERM))?,
    ])
}

fn whole(numbers: &[c_long]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    numbers.iter().map(|number| (*number, Vec::new()))
}

/// What is refused altogether, and what is refused unless its arguments are harmless.
fn refused(whose: Whose) -> Result<Rules, BackendError> {
    let mut rules: Rules = whole(REFUSED).collect();
    // Memory is data, or code that was there from the start.
    let executable = || Ok::<_, BackendError>(vec![flag(2, libc::PROT_EXEC)?]);
    let names = [libc::PR_SET_NAME.unsigned_abs(), libc::PR_GET_NAME.unsigned_abs(), PR_SET_VMA];
    rules.extend([
        when(libc::SYS_mmap, executable()?)?,
        when(libc::SYS_mprotect, executable()?)?,
        // Signals to itself only, as abort(3) sends them.
        when(libc::SYS_tgkill, vec![argument(0, Ne, std::process::id())?])?,
        // Limits may be read.
        when(libc::SYS_prlimit64, vec![SeccompCondition::new(2, Qword, Ne, 0)?])?,
        when(libc::SYS_prctl, all_but(0, &names)?)?,
    ]);
    match whose {
        Whose::Receiver => {
            let asks = [libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX];
            let asks: Vec<u32> = asks.iter().filter_map(|ask| u32::try_from(*ask).ok()).collect();
            // Threads, not processes.
            let process = SeccompCondition::new(0, Dword, MaskedEq(bit(libc::CLONE_THREAD)), 0)?;
            rules.extend([when(libc::SYS_clone, vec![process])?, when(libc::SYS_ioctl, all_but(1, &asks)?)?]);
        }
        Whose::Validator => {
            // No file is opened, and there is one thread.
            rules.extend(whole(&[libc::SYS_openat, libc::SYS_clone]));
        }
    }
    Ok(rules)
}

/// A call, when all of these hold.
fn when(number: c_long, conditions: Vec<SeccompCondition>) -> Result<(i64, Vec<SeccompRule>), BackendError> {
    Ok((number, vec![SeccompRule::new(conditions)?]))
}

fn argument(place: u8, operator: SeccompCmpOp, value: u32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(place, Dword, operator, u64::from(value))
}

/// One argument is none of these values.
fn all_but(place: u8, values: &[u32]) -> Result<Vec<SeccompCondition>, BackendError> {
    values.iter().map(|value| argument(place, Ne, *value)).collect()
}

/// This bit is set.
fn flag(place: u8, flag: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(place, Dword, MaskedEq(bit(flag)), bit(flag))
}

fn bit(flag: i32) -> u64 {
    u64::from(flag.unsigned_abs())
}
