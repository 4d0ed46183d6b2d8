//! Reports of Bandit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oracle::analyzer::bandit::read_report;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(why) = read_report(text)
    {
        assert!(!why.is_empty());
    }
});
