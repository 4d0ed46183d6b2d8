//! Running out of memory: what it looks like, and what is done about it.

use crate::{Error, Result};
use model::shim;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether an error's words are an allocator's: libtorch's on the CPU, on CUDA, and C++'s own.
#[must_use]
pub fn is_out_of_memory(words: &str) -> bool {
    ["out of memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED"]
        .iter()
        .any(|sign| words.contains(sign))
}

/// Runs `f`; `None` when it ran out of memory. tch reports libtorch's errors as panics, other panics go on. Whether
/// operations are recorded afterwards does not depend on where `f` was cut off.
pub(super) fn within_memory<T>(f: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    let _recording = shim::Recording::keep();
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(Some(value)),
        Ok(Err(e)) if is_out_of_memory(&words_of(&e)) => Ok(None),
        Ok(Err(e)) => Err(e),
        Err(panic) => {
            let words = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("");
            if is_out_of_memory(words) { Ok(None) } else { std::panic::resume_unwind(panic) }
        }
    }
}

fn words_of(e: &Error) -> String {
    let mut out = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        out = format!("{out}: {e}");
        cause = e.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocator_that_gives_up_is_told_from_other_failures() {
        let huge = || {
            let t = tch::Tensor::empty([1 << 50], (tch::Kind::Double, tch::Device::Cpu));
            Ok(t.size()[0])
        };
        assert_eq!(within_memory(huge).unwrap(), None);
        assert_eq!(within_memory(|| Ok(3)).unwrap(), Some(3));
        let wrong: Result<Option<()>> = within_memory(|| Err(Error::Invalid("a row is wrong".into())));
        assert!(wrong.is_err());
        assert!(catch_unwind(|| within_memory(|| -> Result<()> { panic!("a mistake") })).is_err());
    }

    #[test]
    fn after_a_failure_inside_no_grad_operations_are_recorded_as_before() {
        let huge = || tch::Tensor::empty([1 << 50], (tch::Kind::Double, tch::Device::Cpu));
        let recorded = || {
            let x = tch::Tensor::ones([2], (tch::Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
            (x * 2.0).requires_grad()
        };
        assert!(within_memory(|| Ok(shim::no_grad(huge))).unwrap().is_none());
        assert!(recorded());
        // a guard that does not mind panics, as tch's own
        assert!(within_memory(|| Ok(tch::no_grad(huge))).unwrap().is_none());
        assert!(recorded());
        shim::no_grad(|| {
            let _ = within_memory(|| Ok(huge()));
            assert!(!recorded());
        });
    }
}
