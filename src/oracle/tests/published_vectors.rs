//! The published vectors, where somebody has them: `BESSEMER_DATA` names the folder of the data sets.
//! They are not ours to ship, so without it this test has nothing to do and says so.

use oracle::judge::{Mode, pairwise};

#[derive(serde::Deserialize)]
struct Vector {
    response: String,
    decision: Option<u8>,
}

#[test]
fn pairwise_reading_agrees_with_every_published_vector() {
    let Some(data) = std::env::var_os("BESSEMER_DATA") else {
        println!("SKIPPED: BESSEMER_DATA is not set");
        return;
    };
    let path = std::path::Path::new(&data).join("codeprefbench/parser_vectors.json");
    let vectors: Vec<Vector> = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    assert!(!vectors.is_empty());
    for v in vectors {
        let got = pairwise::preference(&v.response, Mode::Compat).ok().map(|p| match p {
            pairwise::Preference::A => 0,
            pairwise::Preference::B => 1,
        });
        assert_eq!(got, v.decision, "{:?}", v.response);
    }
}
