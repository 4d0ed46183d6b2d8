//! Values that travel between a program and us: exactly Python's builtin types, nothing with behaviour of its own.
//!
//! The encoding is that of Python's `marshal`, version 2, which every CPython from 3.8 on reads and writes natively and
//! which refuses subclasses. An object that calls itself equal to everything therefore never arrives here. Parts of large
//! lists come in version 4, where what occurs twice is written once ([`read`]).

mod read;

use read::Reader;
use serde_json::Value as Json;

/// A value of a builtin type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` that fits.
    Int(i128),
    /// Any other `int`: sign, and magnitude in digits of 15 bits, least first.
    Big(bool, Vec<u16>),
    /// `float`.
    Float(f64),
    /// `complex`.
    Complex(f64, f64),
    /// `str`, as UTF-8 where lone surrogates are encoded too.
    Str(Vec<u8>),
    /// `bytes`.
    Bytes(Vec<u8>),
    /// `list`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `dict`, in its order.
    Dict(Vec<(Value, Value)>),
    /// `set`, in no order.
    Set(Vec<Value>),
    /// `frozenset`, in no order.
    FrozenSet(Vec<Value>),
}

/// Why bytes are no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no value of builtin types: {0} at byte {1}")]
pub struct NotAValue(pub &'static str, pub usize);

impl NotAValue {
    /// Whether it may be a value, but one that is larger than anything that is read.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.0 == read::TOO_LARGE
    }
}

impl From<&Json> for Value {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i.into()),
                (None, Some(u)) => Self::Int(u.into()),
                (None, None) => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Self::Str(s.clone().into_bytes()),
            Json::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Json::Object(map) => crate::bigint::unwrap(map).unwrap_or_else(|| {
                Self::Dict(
                    map.iter().map(|(k, v)| (Self::Str(k.clone().into_bytes()), Self::from(v))).collect(),
                )
            }),
        }
    }
}

impl Value {
    /// In `marshal`'s encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let sized = |out: &mut Vec<u8>, tag: u8, n: usize| {
            out.push(tag);
            out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
        };
        match self {
            Self::None => out.push(b'N'),
            Self::Bool(true) => out.push(b'T'),
            Self::Bool(false) => out.push(b'F'),
            Self::Int(i) => match i32::try_from(*i) {
                Ok(i) => {
                    out.push(b'i');
                    out.extend_from_slice(&i.to_le_bytes());
                }
                Err(_) => write_big(*i < 0, &digits_of(i.unsigned_abs()), out),
            },
            Self::Big(negative, digits) => write_big(*negative, digits, out),
            Self::Float(f) => {
                out.push(b'g');
                out.extend_from_slice(&f.to_le_bytes());
            }
            Self::Complex(re, im) => {
                out.push(b'y');
                out.extend_from_slice(&re.to_le_bytes());
                out.extend_from_slice(&im.to_le_bytes());
            }
            Self::Str(s) => {
                sized(out, b'u', s.len());
                out.extend_from_slice(s);
            }
            Self::Bytes(s) => {
                sized(out, b's', s.len());
                out.extend_from_slice(s);
            }
            Self::List(items) | Self::Tuple(items) | Self::Set(items) | Self::FrozenSet(items) => {
                let tag = match self {
                    Self::List(_) => b'[',
                    Self::Tuple(_) => b'(',
                    Self::Set(_) => b'<',
                    _ => b'>',
                };
                sized(out, tag, items.len());
                items.iter().for_each(|v| v.write(out));
            }
            Self::Dict(items) => {
                out.push(b'{');
                for (k, v) in items {
                    k.write(out);
                    v.write(out);
                }
                out.push(b'0');
            }
        }
    }

    /// From `marshal`'s encoding, version 2; all of it must be one value.
    ///
    /// # Errors
    /// The bytes hold anything else: code objects, references, more or less than one value.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAValue> {
        Reader::whole(bytes, false)
    }

    /// From `marshal`'s encoding, version 2 to 4, where an object that occurs twice may be referred to. Here it is copied,
    /// as long as the copies stay below what a frame may have.
    ///
    /// # Errors
    /// As [`Value::decode`]; and for cycles, and too many copies.
    pub fn decode_shared(bytes: &[u8]) -> Result<Self, NotAValue> {
        Reader::whole(bytes, true)
    }

    /// Whether [`Value::decode_shared`] would read this, without making a value of it: what passes can be given to Python's
    /// `marshal.loads`, which trusts what it reads.
    ///
    /// # Errors
    /// As [`Value::decode_shared`].
    pub fn check_shared(bytes: &[u8]) -> Result<(), NotAValue> {
        Reader::whole(bytes, true)
    }

    /// Whether a returned value is as good as the expected one.
    ///
    /// Python's `==` on builtin types, except: a bool is no number; a tuple is as good as a list (JSON has lists only);
    /// an expected `dict` key that is text also stands for the integer it spells; floats may differ by `tolerance`,
    /// absolutely or relative to the larger.
    #[must_use]
    pub fn matches(&self, expected: &Self, tolerance: f64) -> bool {
        let all = |a: &[Self], b: &[Self]| {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.matches(y, tolerance))
        };
        match (self, expected) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(_) | Self::Int(_), Self::Float(_) | Self::Int(_)) => {
                let (a, b) = (self.as_float(), expected.as_float());
                a == b
                    || a.is_nan() && b.is_nan()
                    || a.is_finite()
                        && b.is_finite()
                        && (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
            }
            (Self::List(a) | Self::Tuple(a), Self::List(b) | Self::Tuple(b)) => all(a, b),
            (Self::Set(a) | Self::FrozenSet(a), Self::Set(b) | Self::FrozenSet(b)) => {
                a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| x.matches(y, 0.0)))
            }
            (Self::Dict(a), Self::Dict(b)) => {
                a.len() == b.len()
                    && b.iter().all(|(want, value)| {
                        let found = a.iter().find(|(k, _)| k.matches(want, 0.0) || k.spelled(want));
                        found.is_some_and(|(_, v)| v.matches(value, tolerance))
                    })
            }
            _ => self == expected,
        }
    }

    fn as_float(&self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "as Python compares an int with a float, nearly")]
            Self::Int(i) => *i as f64,
            Self::Float(f) => *f,
            _ => f64::NAN,
        }
    }

    fn spelled(&self, text: &Self) -> bool {
        matches!((self, text), (Self::Int(i), Self::Str(s)) if i.to_string().as_bytes() == s.as_slice())
    }
}

fn digits_of(mut n: u128) -> Vec<u16> {
    let mut digits = Vec::new();
    while n > 0 {
        digits.push((n & 0x7fff) as u16);
        n >>= 15;
    }
    digits
}

fn write_big(negative: bool, digits: &[u16], out: &mut Vec<u8>) {
    let n = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    out.push(b'l');
    out.extend_from_slice(&(if negative { -n } else { n }).to_le_bytes());
    digits.iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        Value::from(&serde_json::from_str::<Json>(text).expect("JSON"))
    }

    #[test]
    fn values_come_back_as_they_went() {
        let all = Value::Dict(vec![
            (Value::Str(b"a".to_vec()), Value::List(vec![Value::None, Value::Bool(true), Value::Float(0.5)])),
            (Value::Int(1 << 40), Value::Tuple(vec![Value::Int(-(1 << 70)), Value::Bytes(vec![0, 255])])),
            (Value::Complex(1.0, -2.0), Value::Set(vec![Value::FrozenSet(vec![Value::Int(-7)])])),
            (Value::Big(true, vec![1; 20]), Value::Bool(false)),
        ]);
        assert_eq!(Value::decode(&all.encode()), Ok(all));
    }

    #[test]
    fn marshals_own_bytes_are_read() {
        // marshal.dumps({'k': [1, 2**40, 'é', None]}, 2)
        let bytes = b"{t\x01\0\0\0k[\x04\0\0\0i\x01\0\0\0l\x03\0\0\0\0\0\0\0\0\x04u\x02\0\0\0\xc3\xa9N0";
        assert_eq!(Value::decode(bytes), Ok(json(r#"{"k":[1,1099511627776,"é",null]}"#)));
    }

    #[test]
    fn code_objects_references_and_cut_values_are_refused() {
        for bad in
            [&b"c\0\0\0\0"[..], b"r\0\0\0\0", b"[\x05\0\0\0N", b"", b"NN", b"0", b"[\xff\xff\xff\xff", b"{N0"]
        {
            assert!(Value::decode(bad).is_err(), "{bad:?}");
        }
        assert!(Value::decode(&b"[\x01\0\0\0".repeat(5000)).is_err());
    }

    #[test]
    fn equality_is_typed() {
        assert!(json("[1, 2.0]").matches(&json("[1.0, 2]"), 0.0));
        assert!(!json("true").matches(&json("1"), 0.0));
        assert!(!json("1").matches(&json("\"1\""), 0.0));
        assert!(Value::Tuple(vec![Value::Int(1)]).matches(&json("[1]"), 0.0));
        assert!(!Value::Bytes(b"a".to_vec()).matches(&json("\"a\""), 0.0));
        assert!(Value::Dict(vec![(Value::Int(3), Value::None)]).matches(&json(r#"{"3":null}"#), 0.0));
        assert!(!json("null").matches(&json("[]"), 0.0));
        assert!(json("0.1").matches(&json("0.10000001"), 1e-6));
        assert!(!json("0.1").matches(&json("0.10000001"), 0.0));
    }
}
