//! Requests and values from outside, under arbitrary bytes.

use proptest::prelude::*;
use sandbox::fusion::RunCode;
use sandbox::wire::Request;
use sandbox::{Comparator, JobResult, Value};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        (-(1_i128 << 119)..(1_i128 << 119)).prop_map(Value::Int),
        any::<f64>().prop_filter("equal to itself", |f| !f.is_nan()).prop_map(Value::Float),
        ".{0,10}".prop_map(|s| Value::Str(s.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
    ];
    // what has a hash: in sets and as keys
    let some = |of: BoxedStrategy<Value>| proptest::collection::vec(of, 0..5);
    let hashed = leaf.clone().prop_recursive(2, 10, 5, move |inner| {
        prop_oneof![some(inner.clone()).prop_map(Value::Tuple), some(inner).prop_map(Value::FrozenSet)]
    });
    let hashed = hashed.boxed();
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            some(inner.clone()).prop_map(Value::List),
            some(inner.clone()).prop_map(Value::Tuple),
            some(hashed.clone()).prop_map(Value::Set),
            proptest::collection::vec((hashed.clone(), inner), 0..4).prop_map(Value::Dict),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_value_comes_back_as_it_went(v in value()) {
        prop_assert_eq!(Value::decode(&v.encode()), Ok(v));
    }

    #[test]
    fn arbitrary_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(v) = Value::decode(&bytes) {
            prop_assert_eq!(Value::decode(&v.encode()).is_ok(), true);
        }
        let (value, check) = (Value::decode_shared(&bytes), Value::check_shared(&bytes));
        prop_assert_eq!(value.err(), check.err());
    }

    #[test]
    fn arbitrary_lines_are_a_request_or_an_error(text in "\\PC{0,120}") {
        let _ = Request::parse(text.as_bytes()).and_then(Request::into_job);
        let _ = serde_json::from_str::<RunCode>(&text);
        let _ = serde_json::from_str::<JobResult>(&text);
    }

    #[test]
    fn requests_with_arbitrary_fields_never_panic(
        code in "\\PC{0,20}", mode in "stdio|function|pytest|script|parse|other", entry in proptest::option::of("\\PC{0,5}"),
        wall in any::<f64>(), memory in any::<u64>(), expected in proptest::option::of("\\PC{0,5}"),
    ) {
        let line = serde_json::json!({"id": "x", "code": code, "mode": mode, "entry": entry,
            "tests": [{"stdin": "a", "expected": expected}], "limits": {"wall_s": wall, "memory_mb": memory}});
        let _ = Request::parse(line.to_string().as_bytes()).and_then(Request::into_job);
    }

    #[test]
    fn every_comparator_accepts_the_same_bytes(text in proptest::collection::vec(any::<u8>(), 0..60)) {
        let float = Comparator::Float { tolerance: 0.0 };
        for c in [Comparator::ExactStripped, Comparator::Lines, Comparator::Tokens, Comparator::TokensIgnoreCase,
            Comparator::Validator(sandbox::Validator::default()), float, Comparator::SandboxFusion] {
            prop_assert!(c.matches(&text, &text), "{:?}", c);
        }
    }

    #[test]
    fn tokens_accept_all_that_lines_accept(a in "[ab \\n]{0,12}", b in "[ab \\n]{0,12}") {
        if Comparator::Lines.matches(a.as_bytes(), b.as_bytes()) {
            prop_assert!(Comparator::Tokens.matches(a.as_bytes(), b.as_bytes()));
        }
    }
}
