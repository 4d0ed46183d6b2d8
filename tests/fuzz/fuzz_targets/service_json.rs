//! What clients of `sandbox batch` and `sandbox serve` send. The first byte chooses the reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::fusion::{GetPromptById, GetPrompts, RunCode, RunJupyter, Submit};
use sandbox::wire::{Request, job_of_line};
use sandbox::{JobResult, Tier};

fuzz_target!(|data: &[u8]| {
    let Some((reader, text)) = data.split_first() else { return };
    match reader % 6 {
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
        3 => {
            if let Ok(request) = serde_json::from_slice::<Submit>(text)
                && let Ok(submission) = request.prepare()
            {
                assert!(submission.job.check().is_ok(), "only what can be run is accepted");
            }
        }
        4 => {
            if let Ok(request) = serde_json::from_slice::<RunJupyter>(text) {
                let cells = request.cells.len();
                assert_eq!(request.into_job().1, cells);
            }
        }
        5 => {
            if let Ok(request) = serde_json::from_slice::<GetPrompts>(text)
                && let (Ok(ids), Ok(prompts)) = (request.ids(), request.prompts())
            {
                assert!(ids.iter().eq(prompts.iter().map(|p| &p.id)));
            }
            if let Ok(request) = serde_json::from_slice::<GetPromptById>(text)
                && let Ok(prompt) = request.prompt()
            {
                assert_eq!(prompt.id, request.id);
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
