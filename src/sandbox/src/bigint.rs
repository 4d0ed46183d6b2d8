//! Integers of any size in JSON: Python has them, and serde_json makes floats of those above 64 bits.
//!
//! A test whose expected value is 2^70 + 1 would pass with 2^70. So, before a line is parsed, long integers become
//! objects with one reserved key, and [`Value::from`] reads those back.

use crate::value::Value;
use serde_json::Value as Json;
use std::borrow::Cow;

/// No text of a request can spell it by accident; one that spells it on purpose gets an integer.
const KEY: &str = "\u{0}int";
/// Integers with more digits stay floats: reading them takes the square of their length.
const DIGITS_MAX: usize = 20_000;
/// 64 bits hold every integer with fewer digits.
const DIGITS_LONG: usize = 19;

/// The text with its long integers wrapped.
pub(crate) fn wrap(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Vec<u8> = Vec::new();
    let (mut copied, mut at) = (0, 0);
    let mut quoted = false;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            b'-' | b'0'..=b'9' if !quoted => {
                let start = at;
                at += 1;
                while text.get(at).is_some_and(u8::is_ascii_digit) {
                    at += 1;
                }
                let digits = at - start - usize::from(*byte == b'-');
                let whole = !matches!(text.get(at), Some(b'.' | b'e' | b'E' | b'+' | b'-'));
                // The digits behind a point or an exponent were skipped with what stands before them.
                let leading_zero = text[at - digits..].starts_with(b"0"); // no JSON: left for the parser to refuse
                if whole && !leading_zero && (DIGITS_LONG..=DIGITS_MAX).contains(&digits) {
                    out.extend_from_slice(&text[copied..start]);
                    out.extend_from_slice(b"{\"\\u0000int\":\"");
                    out.extend_from_slice(&text[start..at]);
                    out.extend_from_slice(b"\"}");
                    copied = at;
                }
                while matches!(text.get(at), Some(b'.' | b'e' | b'E' | b'+' | b'-' | b'0'..=b'9')) {
                    at += 1;
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// The integer in a wrapping.
pub(crate) fn unwrap(map: &serde_json::Map<String, Json>) -> Option<Value> {
    let text = map.get(KEY).filter(|_| map.len() == 1)?.as_str()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if let Ok(small) = text.parse::<i128>() {
        return Some(Value::Int(small));
    }
    // Base 10 000 to base 2^15, which is what Python's `marshal` counts in.
    let mut limbs: Vec<u16> = Vec::new();
    for chunk in chunks(digits.as_bytes()) {
        let mut carry = chunk;
        for limb in &mut limbs {
            let v = u32::from(*limb) * 10_000 + carry;
            *limb = u16::try_from(v & 0x7fff).expect("15 bits");
            carry = v >> 15;
        }
        while carry > 0 {
            limbs.push(u16::try_from(carry & 0x7fff).expect("15 bits"));
            carry >>= 15;
        }
    }
    Some(Value::Big(negative, limbs))
}

/// Four digits at a time, from the front; the first chunk takes what is left over.
fn chunks(digits: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let first = digits.len() % 4;
    let number = |part: &[u8]| part.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'));
    std::iter::once(number(&digits[..first])).chain(digits[first..].chunks(4).map(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        Value::from(&serde_json::from_slice::<Json>(&wrap(text.as_bytes())).expect("JSON"))
    }

    #[test]
    fn long_integers_keep_every_digit() {
        assert_eq!(read("18446744073709551617"), Value::Int(18_446_744_073_709_551_617));
        assert_eq!(
            read("[-123456789012345678901234567890]"),
            Value::List(vec![Value::Int(-123_456_789_012_345_678_901_234_567_890)])
        );
        // 2^150 = 2^(15 * 10): ten limbs of nothing and a one
        let big = "1427247692705959881058285969449495136382746624";
        let mut limbs = vec![0; 10];
        limbs.push(1);
        assert_eq!(read(big), Value::Big(false, limbs.clone()));
        assert_eq!(read(&format!("-{big}")), Value::Big(true, limbs));
    }

    #[test]
    fn everything_else_is_left_as_it_is() {
        for text in [
            "12",
            "\"12345678901234567890123\"",
            "1234567890123456789012.5",
            "1e400",
            "{\"a\\\"12345678901234567890\":1}",
        ] {
            assert_eq!(wrap(text.as_bytes()), text.as_bytes(), "{text}");
        }
        assert!(matches!(read("12345678901234567890123e2"), Value::Float(_)));
        assert!(matches!(read("0.12345678901234567890123"), Value::Float(_)));
        assert_eq!(read("1234567890123456789"), Value::Int(1_234_567_890_123_456_789));
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in ["00000000000000000000", "-", "12345678901234567890-5", "--12345678901234567890"] {
            assert!(serde_json::from_str::<Json>(text).is_err(), "{text}");
            let wrapped = wrap(text.as_bytes());
            let read = serde_json::from_slice::<Json>(&wrapped);
            assert!(read.is_err(), "{text}");
        }
    }
}
