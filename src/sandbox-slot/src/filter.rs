//! The system-call filter: a binary search over call numbers, in classic BPF.
//!
//! Installed once by process 1 and inherited by every program, because installing costs the kernel a pass over all
//! call numbers. A linear list would cost each system call up to a hundred comparisons; the tree needs seven.

use crate::filter_list::{LAST_KNOWN, REFUSED, REFUSED_HERE};
use crate::{Result, SlotError};
use libc::sock_filter;
use nix::errno::Errno;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(crate) const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
// Offsets in struct seccomp_data; the low half of an argument comes first on little-endian machines.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

#[cfg(target_arch = "x86_64")]
const OUR_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OUR_ARCH: u32 = 0xc000_00b7;

pub(crate) const ALLOW: u32 = 0x7fff_0000;
/// The whole process dies of SIGSYS.
pub(crate) const KILL: u32 = 0x8000_0000;
const fn errno(e: i32) -> u32 {
    #[allow(clippy::cast_sign_loss, reason = "errno values are small and positive")]
    {
        0x0005_0000 | e as u32
    }
}
pub(crate) const EPERM: u32 = errno(libc::EPERM);
pub(crate) const ENOSYS: u32 = errno(libc::ENOSYS);

/// What happens to a call number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A constant answer.
    Answer(u32),
    /// EPERM when any of these bits of an argument is set.
    RefuseBits { argument: u32, bits: u32 },
    /// EPERM when an argument is one of these; the upper half is ignored, as the kernel's own code does (CVE-2019-10063).
    RefuseValues { argument: u32, values: &'static [u32] },
    /// EPERM unless an argument is one of these.
    AllowValues { argument: u32, values: [u32; 2] },
    /// An answer where none of these bits of an argument is set.
    WithoutBits { argument: u32, bits: u32, answer: u32 },
    /// EPERM where the masked bits of an argument have this value.
    RefuseMasked { argument: u32, mask: u32, value: u32 },
}

const NEW_NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

pub(crate) fn number(n: libc::c_long) -> u32 {
    u32::try_from(n).expect("system call numbers are small and positive")
}

fn rules() -> Vec<(u32, Rule)> {
    let mut rules: Vec<(u32, Rule)> =
        REFUSED.iter().chain(REFUSED_HERE).map(|n| (number(*n), Rule::Answer(EPERM))).collect();
    let bits = u32::try_from(NEW_NAMESPACES).expect("flags below the sign bit");
    rules.extend([
        // libc falls back to clone, whose flags a filter can see.
        (number(libc::SYS_clone3), Rule::Answer(ENOSYS)),
        (number(libc::SYS_clone), Rule::RefuseBits { argument: 0, bits }),
        // Pushing characters into a terminal's input, and the console's clipboard.
        (number(libc::SYS_ioctl), Rule::RefuseValues { argument: 1, values: &[0x5412, 0x541c] }),
        // Asking for the present personality is harmless; changing it turns off address randomisation and more.
        (number(libc::SYS_personality), Rule::AllowValues { argument: 0, values: [0, u32::MAX] }),
    ]);
    rules
}

/// The program as it is given to the kernel.
#[must_use]
pub fn program() -> Vec<sock_filter> {
    assemble(rules(), Some(LAST_KNOWN))
}

/// A program with these rules, the first of those for one call; every other call is allowed, up to `last` where it is given.
pub(crate) fn assemble(mut rules: Vec<(u32, Rule)>, last: Option<u32>) -> Vec<sock_filter> {
    rules.sort_by_key(|(n, _)| *n);
    rules.dedup_by_key(|(n, _)| *n);
    // Cut the number line into ranges with one rule each: (first number, rule).
    let mut ranges = vec![(0, Rule::Answer(ALLOW))];
    for (n, rule) in rules {
        if ranges.last().is_some_and(|(start, _)| *start == n) {
            ranges.pop();
        }
        ranges.push((n, rule));
        ranges.push((n + 1, Rule::Answer(ALLOW)));
    }
    if let Some(last) = last {
        ranges.retain(|(start, _)| *start <= last);
        ranges.push((last + 1, Rule::Answer(ENOSYS)));
    }
    let mut out = vec![
        op(LOAD, 0, 0, ARCH),
        op(IF_EQUAL, 1, 0, OUR_ARCH),
        op(RETURN, 0, 0, KILL),
        op(LOAD, 0, 0, NUMBER),
        // The x32 calls of x86-64 carry this bit.
        op(IF_AT_LEAST, 0, 1, 0x4000_0000),
        op(RETURN, 0, 0, KILL),
    ];
    tree(&ranges, &mut out);
    out
}

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn tree(ranges: &[(u32, Rule)], out: &mut Vec<sock_filter>) {
    if let [(_, rule)] = ranges {
        return leaf(*rule, out);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    // Conditional jumps reach 255 instructions; a plain jump in between reaches any distance.
    out.push(op(IF_AT_LEAST, 0, 1, right[0].0));
    let jump = out.len();
    out.push(op(JUMP, 0, 0, 0));
    tree(left, out);
    out[jump].k = u32::try_from(out.len() - jump - 1).expect("the program has a few hundred instructions");
    tree(right, out);
}

fn leaf(rule: Rule, out: &mut Vec<sock_filter>) {
    let mut value = |argument_n: u32, values: &[u32], listed: u32, other: u32| {
        out.push(op(LOAD, 0, 0, argument(argument_n)));
        for (left, value) in (0..u8::try_from(values.len()).expect("a few values")).rev().zip(values) {
            out.push(op(IF_EQUAL, left + 1, 0, *value));
        }
        out.extend([op(RETURN, 0, 0, other), op(RETURN, 0, 0, listed)]);
    };
    match rule {
        Rule::Answer(a) => out.push(op(RETURN, 0, 0, a)),
        Rule::RefuseBits { argument: n, bits } => out.extend([
            op(LOAD, 0, 0, argument(n)),
            op(IF_ANY_BIT, 0, 1, bits),
            op(RETURN, 0, 0, EPERM),
            op(RETURN, 0, 0, ALLOW),
        ]),
        Rule::WithoutBits { argument: n, bits, answer } => out.extend([
            op(LOAD, 0, 0, argument(n)),
            op(IF_ANY_BIT, 1, 0, bits),
            op(RETURN, 0, 0, answer),
            op(RETURN, 0, 0, ALLOW),
        ]),
        Rule::RefuseMasked { argument: n, mask, value } => out.extend([
            op(LOAD, 0, 0, argument(n)),
            op(AND, 0, 0, mask),
            op(IF_EQUAL, 0, 1, value),
            op(RETURN, 0, 0, EPERM),
            op(RETURN, 0, 0, ALLOW),
        ]),
        Rule::RefuseValues { argument: n, values } => value(n, values, EPERM, ALLOW),
        Rule::AllowValues { argument: n, values } => value(n, &values, ALLOW, EPERM),
    }
}

/// Installs the filter for this process and all that it will start.
///
/// # Errors
/// The kernel refused; nothing may run then.
pub fn install() -> Result<()> {
    give_to_kernel(&mut program()).map_err(|e| SlotError(format!("installing the filter: {e}")))
}

/// Allocates nothing, so that it may be called between fork and exec.
pub(crate) fn give_to_kernel(program: &mut [sock_filter]) -> std::result::Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let fprog = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: `fprog` points to `len` instructions that outlive the call; no_new_privs is set by now.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const fprog, 0, 0) };
    if done == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// A tiny BPF machine, enough for our own instructions.
#[cfg(test)]
pub(crate) fn run_program(program: &[sock_filter], arch: u32, number: u32, args: [u32; 4]) -> u32 {
    let mut acc = 0;
    let mut at = 0;
    loop {
        let i = &program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            LOAD if i.k == NUMBER => acc = number,
            LOAD if i.k == ARCH => acc = arch,
            LOAD => acc = args[(0..4).position(|n| i.k == argument(n)).expect("one of four arguments")],
            AND => acc &= i.k,
            JUMP => at += usize::try_from(i.k).expect("small"),
            IF_EQUAL => at += branch(acc == i.k),
            IF_AT_LEAST => at += branch(acc >= i.k),
            IF_ANY_BIT => at += branch(acc & i.k != 0),
            RETURN => return i.k,
            _ => panic!("unknown instruction {}", i.code),
        }
    }
}

#[cfg(test)]
pub(crate) const TESTED_ARCH: u32 = OUR_ARCH;

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(arch: u32, number: u32, args: [u32; 2]) -> u32 {
        run_program(&program(), arch, number, [args[0], args[1], 0, 0])
    }

    #[test]
    fn every_listed_call_is_refused_and_every_other_known_one_is_not() {
        let special = [libc::SYS_clone3, libc::SYS_clone, libc::SYS_ioctl, libc::SYS_personality];
        for n in 0..=LAST_KNOWN {
            if special.iter().any(|s| number(*s) == n) {
                continue;
            }
            let listed = REFUSED.iter().chain(REFUSED_HERE).any(|r| number(*r) == n);
            assert_eq!(evaluate(OUR_ARCH, n, [0, 0]), if listed { EPERM } else { ALLOW }, "call {n}");
        }
    }

    #[test]
    fn calls_that_came_later_do_not_exist() {
        assert_eq!(evaluate(OUR_ARCH, LAST_KNOWN + 1, [0, 0]), ENOSYS);
        assert_eq!(evaluate(OUR_ARCH, 5000, [0, 0]), ENOSYS);
        assert_eq!(evaluate(OUR_ARCH, number(libc::SYS_clone3), [0, 0]), ENOSYS);
    }

    #[test]
    fn foreign_architectures_and_x32_die() {
        assert_eq!(evaluate(0x4000_0003, 1, [0, 0]), KILL);
        assert_eq!(evaluate(OUR_ARCH, 0x4000_0001, [0, 0]), KILL);
    }

    #[test]
    fn clone_is_allowed_without_new_namespaces_only() {
        let clone = number(libc::SYS_clone);
        assert_eq!(evaluate(OUR_ARCH, clone, [0x11, 0]), ALLOW);
        for bit in [0x1000_0000, 0x0002_0000, 0x4000_0000, 0x2000_0000] {
            assert_eq!(evaluate(OUR_ARCH, clone, [0x11 | bit, 0]), EPERM);
        }
    }

    #[test]
    fn terminal_injection_and_new_personalities_are_refused() {
        let ioctl = number(libc::SYS_ioctl);
        assert_eq!(evaluate(OUR_ARCH, ioctl, [0, 0x5412]), EPERM);
        assert_eq!(evaluate(OUR_ARCH, ioctl, [0, 0x541c]), EPERM);
        assert_eq!(evaluate(OUR_ARCH, ioctl, [0, 0x5401]), ALLOW);
        let personality = number(libc::SYS_personality);
        assert_eq!(evaluate(OUR_ARCH, personality, [0, 0]), ALLOW);
        assert_eq!(evaluate(OUR_ARCH, personality, [0x0004_0000, 0]), EPERM);
    }
}
