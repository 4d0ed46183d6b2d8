//! Values that a program sends out of its slot: the one format that an adversary writes byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::Value;

fuzz_target!(|data: &[u8]| {
    if let Ok(v) = Value::decode(data) {
        let again = Value::decode(&v.encode()).expect("what was read can be written and read");
        // Not ==: a NaN inside is unequal to itself.
        assert_eq!(format!("{v:?}"), format!("{again:?}"));
        let _ = v.matches(&again, 1e-6);
    }
});
