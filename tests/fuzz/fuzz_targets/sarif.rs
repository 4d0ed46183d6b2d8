//! SARIF files of analyzers, and CodeGuru's old report format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oracle::analyzer::sarif::{Rules, read};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let security = read(text, Rules::Security);
    let all = read(text, Rules::All);
    assert_eq!(security.is_ok(), all.is_ok(), "whether a file can be read does not depend on the rules that count");
});
