//! A short soak; `cargo run --release -p bessemer-sandbox --example soak 1000000` is the long one.

#[path = "../examples/soak/mix.rs"]
mod mix;

#[test]
fn nothing_grows_and_every_verdict_is_right_in_a_mixture() {
    let wrong = mix::soak(600, |line| eprintln!("{line}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
