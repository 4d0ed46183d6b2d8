//! CPUs that processes and threads keep to. A refusal costs speed only.

/// The CPUs of this process, in order; none where it may have more than a set holds.
pub(crate) fn cpus() -> Vec<usize> {
    let Some(set) = of_this_thread() else { return Vec::new() };
    // SAFETY: reads a bit of the set; the index is below its size.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Keeps a process to one CPU.
pub(crate) fn pin(pid: u32, cpu: usize) {
    if cpu < libc::CPU_SETSIZE as usize {
        // SAFETY: the set lives on our stack, where all zeroes is valid; the index is below its size.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            set
        };
        apply(pid.cast_signed(), &set);
    }
}

fn apply(pid: libc::pid_t, set: &libc::cpu_set_t) {
    // SAFETY: the kernel reads as many bytes as the set has.
    unsafe { libc::sched_setaffinity(pid, size_of::<libc::cpu_set_t>(), set) };
}

fn of_this_thread() -> Option<libc::cpu_set_t> {
    // SAFETY: the kernel writes at most as many bytes as the set has; all zeroes is valid.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0).then_some(set)
    }
}

/// This thread keeps to one CPU until it is dropped, by the same thread.
pub(crate) struct Kept {
    before: Option<libc::cpu_set_t>,
}

impl Kept {
    /// To this CPU.
    pub fn to(cpu: usize) -> Self {
        let before = of_this_thread();
        if before.is_some() {
            pin(0, cpu);
        }
        Self { before }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            apply(0, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, cpus};

    #[test]
    fn a_thread_is_given_back_the_cpus_that_it_had() {
        let before = cpus();
        let last = *before.last().expect("there is a CPU");
        {
            let _kept = Kept::to(last);
            assert_eq!(cpus(), [last]);
        }
        assert_eq!(cpus(), before);
    }
}
