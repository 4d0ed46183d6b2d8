//! Packets between supervisor and slot. The first byte chooses the message. What decodes must encode to something that
//! decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slot::wire::{Hello, Report, Run, Setup};

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if let Ok(m) = Setup::decode(body) {
                assert_eq!(Setup::decode(&m.encode()).as_ref(), Ok(&m));
            }
        }
        1 => {
            if let Ok(m) = Hello::decode(body) {
                assert_eq!(Hello::decode(&m.encode()).as_ref(), Ok(&m));
            }
        }
        2 => {
            if let Ok(m) = Run::decode(body) {
                assert_eq!(Run::decode(&m.encode(true)).as_ref(), Ok(&m));
            }
        }
        _ => {
            if let Ok(m) = Report::decode(body) {
                assert_eq!(Report::decode(&m.encode()).as_ref(), Ok(&m));
            }
        }
    }
});
