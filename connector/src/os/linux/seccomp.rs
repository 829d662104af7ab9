//! A list of the system calls that a helper may make; every other fails with `EPERM`, which its libraries survive.
//!
//! Classic BPF, as the kernel takes it: no dependency for 40 numbers. What is on the list: reading and writing open
//! files, memory, threads and their locks, clocks, random numbers, and the end.
#![expect(unsafe_code, reason = "hands a filter to the kernel")]

use std::io;

use libc::sock_filter;

use super::check;

/// Installs the filter for this thread and all that it starts. Needs `PR_SET_NO_NEW_PRIVS`.
pub(super) fn only_compute() -> io::Result<()> {
    let Some(arch) = ARCH else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let mut filter = program(arch, std::process::id());
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the program and its length belong together and live until the call returns; the kernel copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) })?;
    Ok(())
}

fn program(arch: u32, own_pid: u32) -> Vec<sock_filter> {
    let mut filter = vec![
        load(ARCH_AT),
        skip_unless_equal(arch, 1),
        jump(1),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_AT),
    ];
    for call in ALLOWED {
        filter.extend([
            skip_unless_equal(number(call), 1),
            answer(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    filter.extend([
        // The C library falls back to `clone`, whose flags can be looked at.
        skip_unless_equal(number(libc::SYS_clone3), 1),
        refuse(libc::ENOSYS),
        // Threads, not processes.
        skip_unless_equal(number(libc::SYS_clone), 3),
        load(FIRST_ARGUMENT_AT),
        skip_unless_set(CLONE_THREAD, 1),
        answer(libc::SECCOMP_RET_ALLOW),
        load(NUMBER_AT),
        // `abort` is a signal to itself, and to nobody else.
        skip_unless_equal(number(libc::SYS_tgkill), 3),
        load(FIRST_ARGUMENT_AT),
        skip_unless_equal(own_pid, 1),
        answer(libc::SECCOMP_RET_ALLOW),
        refuse(libc::EPERM),
    ]);
    filter
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn skip_unless_equal(value: u32, instructions: u8) -> sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    statement(code, value, 0, instructions)
}

fn skip_unless_set(bits: u32, instructions: u8) -> sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    statement(code, bits, 0, instructions)
}

fn jump(instructions: u32) -> sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JA, instructions, 0, 0)
}

fn answer(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn refuse(error: i32) -> sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | error.unsigned_abs())
}

fn statement(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}

/// Offsets in `struct seccomp_data`; of an argument the lower half, both systems being little-endian.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = 16;

const CLONE_THREAD: u32 = libc::CLONE_THREAD.cast_unsigned();

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64`.
const ARCH: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// The most frequent first: the list is walked on each call.
const ALLOWED: [libc::c_long; 38] = [
    libc::SYS_futex,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_ppoll,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_close,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sysinfo,
    libc::SYS_membarrier,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the program as the kernel does.
    fn verdict(program: &[sock_filter], arch: u32, call: libc::c_long, argument: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let code = u32::from(step.code);
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                value = match step.k {
                    NUMBER_AT => number(call),
                    ARCH_AT => arch,
                    FIRST_ARGUMENT_AT => argument,
                    offset => panic!("a load from {offset}"),
                };
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                at += usize::try_from(step.k).unwrap();
            } else if code == libc::BPF_RET | libc::BPF_K {
                return step.k;
            } else {
                let is_set = if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
                    value == step.k
                } else {
                    value & step.k != 0
                };
                at += usize::from(if is_set { step.jt } else { step.jf });
            }
        }
    }

    #[test]
    fn a_helper_may_compute_and_talk_and_nothing_else() {
        let arch = ARCH.unwrap();
        let program = program(arch, 4321);
        let of = |call, argument| verdict(&program, arch, call, argument);
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        for call in ALLOWED {
            assert_eq!(of(call, 0), libc::SECCOMP_RET_ALLOW, "{call}");
        }
        for call in [
            libc::SYS_openat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_ftruncate,
            libc::SYS_unshare,
        ] {
            assert_eq!(of(call, 0), refused, "{call}");
        }
        assert_eq!(of(libc::SYS_clone, CLONE_THREAD), libc::SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_clone, 17), refused, "a process");
        assert_eq!(of(libc::SYS_tgkill, 4321), libc::SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_tgkill, 1), refused);
        let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        assert_eq!(of(libc::SYS_clone3, 0), no_such_call);
        assert_eq!(
            verdict(&program, 1, libc::SYS_read, 0),
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }
}
