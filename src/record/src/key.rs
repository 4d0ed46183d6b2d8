//! Content keys (what a task *is*) and attempt tokens (what the scheduler calls one try).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// Hash of everything that decides a task's outputs: kind, parameters, the keys of its inputs and services, the format
/// version. 20 lower-case base32 characters = 100 bits. Resources, labels and paths are not in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ContentKey(pub String);

impl ContentKey {
    /// `inputs` maps the role (the name under `inputs:` or `services:`) to the upstream key.
    #[must_use]
    pub fn of(kind: &str, params: &Value, inputs: &BTreeMap<String, ContentKey>) -> Self {
        let mut canonical = String::new();
        canonical_json(params, &mut canonical);
        Self::of_canonical(kind, &canonical, inputs)
    }

    /// As [`ContentKey::of`] for parameters that are already [`canonical`]: planning 100,000 tasks writes each set of
    /// parameters once.
    #[must_use]
    pub fn of_canonical(kind: &str, params: &str, inputs: &BTreeMap<String, ContentKey>) -> Self {
        // keys in sorted order, as `canonical_json` would write them
        let mut canonical = format!("{{\"format\":{},\"inputs\":{{", crate::FORMAT);
        for (i, (role, key)) in inputs.iter().enumerate() {
            if i > 0 {
                canonical.push(',');
            }
            canonical_str(role, &mut canonical);
            canonical.push(':');
            canonical_str(&key.0, &mut canonical);
        }
        canonical.push_str("},\"kind\":");
        canonical_str(kind, &mut canonical);
        canonical.push_str(",\"params\":");
        canonical.push_str(params);
        canonical.push('}');
        ContentKey(base32(&Sha256::digest(canonical.as_bytes()), 20))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One attempt's unique name, used as the scheduler's job name: `b`, the phase's letter, `-`, 12 base32 characters
/// (60 bits). Exactly 15 characters of `[a-z0-9-]` starting with a letter, so that Torque keeps it whole (specs: F4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Token(pub String);

impl Token {
    /// Deterministic: the same sweep directory, task and attempt give the same token, so two dry runs are identical.
    /// `nonce` is the sweep's own random identity (two users with the same job file must not collide).
    #[must_use]
    pub fn new(nonce: &str, kind: &str, key: &ContentKey, attempt: u32) -> Self {
        let letter = kind.chars().find(char::is_ascii_lowercase).unwrap_or('x');
        let digest = Sha256::digest(format!("{nonce}\n{key}\n{attempt}").as_bytes());
        Token(format!("b{letter}-{}", base32(&digest, 12)))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a job name found in a queue listing can be one of ours.
    #[must_use]
    pub fn looks_like(name: &str) -> bool {
        let b = name.as_bytes();
        b.len() == 15
            && b[0] == b'b'
            && b[1].is_ascii_lowercase()
            && b[2] == b'-'
            && b[3..].iter().all(|c| c.is_ascii_lowercase() || (b'2'..=b'7').contains(c))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal SHA-256 of a file, read in bounded pieces.
///
/// # Errors
/// I/O errors.
pub fn sha256_file(path: &Path) -> std::io::Result<String> {
    let mut f = std::fs::File::open(path)?;
    let mut h = Sha256::new();
    let mut buf = vec![0u8; 1 << 20];
    loop {
        let n = f.read(&mut buf)?;
        if n == 0 {
            return Ok(hex(&h.finalize()));
        }
        h.update(&buf[..n]);
    }
}

/// Lower-case hexadecimal SHA-256 of bytes.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// RFC 4648 base32, lower case, no padding, cut to `len` characters.
fn base32(bytes: &[u8], len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut out = String::with_capacity(len);
    let (mut acc, mut bits) = (0u32, 0u32);
    for &b in bytes {
        acc = (acc << 8) | u32::from(b);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(ALPHABET[((acc >> bits) & 31) as usize] as char);
            if out.len() == len {
                return out;
            }
        }
        acc &= (1 << bits) - 1;
    }
    out
}

/// JSON with sorted keys and no blanks, so that a reordered job file has the same keys.
#[must_use]
pub fn canonical(v: &Value) -> String {
    let mut out = String::new();
    canonical_json(v, &mut out);
    out
}

fn canonical_json(v: &Value, out: &mut String) {
    use std::fmt::Write;
    match v {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(k, _)| *k);
            out.push('{');
            for (i, (k, v)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical_str(k, out);
                out.push(':');
                canonical_json(v, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical_json(item, out);
            }
            out.push(']');
        }
        Value::String(s) => canonical_str(s, out),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn canonical_str(s: &str, out: &mut String) {
    if s.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(s);
        out.push('"');
    } else {
        out.push_str(&Value::from(s).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_ignores_order_and_sees_every_value() {
        let none = BTreeMap::new();
        let a = ContentKey::of("sft", &json!({"lr": 1e-3, "r": 8}), &none);
        assert_eq!(a, ContentKey::of("sft", &json!({"r": 8, "lr": 1e-3}), &none));
        assert_ne!(a, ContentKey::of("sft", &json!({"r": 9, "lr": 1e-3}), &none));
        assert_ne!(a, ContentKey::of("rl", &json!({"lr": 1e-3, "r": 8}), &none));
        let inputs = BTreeMap::from([("model".to_owned(), a.clone())]);
        assert_ne!(a, ContentKey::of("sft", &json!({"lr": 1e-3, "r": 8}), &inputs));
        assert_eq!(a.0.len(), 20);
    }

    #[test]
    fn a_key_is_the_hash_of_one_canonical_document() {
        let inputs = BTreeMap::from([
            ("model".to_owned(), ContentKey("k\"".into())),
            ("a".to_owned(), ContentKey("b".into())),
        ]);
        let params = json!({"r": 8, "lr": 1e-3, "n": null, "s": "é\"\n"});
        let doc = json!({"format": crate::FORMAT, "kind": "sft", "params": params, "inputs": inputs});
        let digest = Sha256::digest(canonical(&doc).as_bytes());
        assert_eq!(ContentKey::of("sft", &params, &inputs), ContentKey(base32(&digest, 20)));
        assert_eq!(canonical(&params), "{\"lr\":0.001,\"n\":null,\"r\":8,\"s\":\"é\\\"\\n\"}");
    }

    #[test]
    fn tokens_fit_every_scheduler() {
        let key = ContentKey::of("sft", &json!({}), &BTreeMap::new());
        let t = Token::new("nonce", "sft", &key, 1);
        assert!(Token::looks_like(t.as_str()), "{t}");
        assert_ne!(t, Token::new("nonce", "sft", &key, 2));
        assert_ne!(t, Token::new("other", "sft", &key, 1));
        for not in ["bash", "b1-abcdefghijkl", "bs-ABCDEFGHIJKL", "bs-abcdefghijk1", "bs_abcdefghijkl"] {
            assert!(!Token::looks_like(not), "{not}");
        }
    }

    #[test]
    fn base32_matches_rfc_4648() {
        assert_eq!(base32(b"fooba", 8), "mzxw6ytb");
    }
}
