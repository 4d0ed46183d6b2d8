//! What clients of `sandbox batch` and `sandbox serve` send. The first byte chooses the reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::fusion::RunCode;
use sandbox::wire::{Request, job_of_line};
use sandbox::{JobResult, Tier};

fuzz_target!(|data: &[u8]| {
    let Some((reader, text)) = data.split_first() else { return };
    match reader % 3 {
        0 => {
            let twice = || Request::parse(text).and_then(Request::into_job);
            match (twice(), job_of_line(1, text, Tier::B)) {
                (Ok(a), Ok(b)) => assert_eq!(format!("{a:?}"), format!("{b:?}")),
                // A mistake is named, and never comes back as a success.
                (Err(e), Err(r)) => {
                    assert!(!e.to_string().is_empty() && !r.passed_all() && r.reason.is_some());
                }
                (a, b) => panic!("{a:?} against {b:?}"),
            }
        }
        1 => {
            if let Ok(request) = serde_json::from_slice::<RunCode>(text) {
                let _ = request.into_job();
            }
        }
        _ => {
            if let Ok(r) = serde_json::from_slice::<JobResult>(text) {
                let again = serde_json::to_vec(&r).expect("a result can be written");
                serde_json::from_slice::<JobResult>(&again).expect("and read again");
            }
        }
    }
});
