//! Values that a program sends out of its slot: the one format that an adversary writes byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::Value;

fn comes_back(v: &Value) {
    let again = Value::decode(&v.encode()).expect("what was read can be written and read");
    // Not ==: a NaN inside is unequal to itself.
    assert_eq!(format!("{v:?}"), format!("{again:?}"));
    let _ = v.matches(&again, 1e-6);
}

fuzz_target!(|data: &[u8]| {
    if let Ok(v) = Value::decode(data) {
        comes_back(&v);
    }
    // Parts of long lists, where an object may be referred to. Both ways of reading them agree.
    let (shared, checked) = (Value::decode_shared(data), Value::check_shared(data));
    assert_eq!(shared.as_ref().err(), checked.as_ref().err());
    // What few bytes stand for may be much; comparing it takes long and shows nothing.
    if let Ok(v) = shared
        && v.encode().len() < 1 << 16
    {
        comes_back(&v);
    }
});
