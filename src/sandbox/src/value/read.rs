//! Reading `marshal`: bytes that an adversary may have written, one by one.
//!
//! What is accepted is a part of what `marshal.loads` of CPython 3.8 and later accepts, so that bytes which have been read
//! here can be handed on to it. It is not made for hostile bytes itself.

use super::{NotAValue, Value};

/// Nesting beyond this is refused, in references too: whoever walks a value needs stack for each level.
const DEPTH: usize = 200;
/// Bytes that references may stand for, in all: a few of them could stand for more than any memory.
const COPIES_MAX: u64 = 16 << 20;
/// Why a value beyond that is none.
pub(super) const TOO_LARGE: &str = "more copies of the same object than may cross the border";
/// Set in a tag: the object gets the next number, by which it can be referred to.
const NUMBERED: u8 = 0x80;

/// What has no parts.
pub(super) enum Scalar<'a> {
    None,
    Bool(bool),
    Int(i128),
    Big(bool, Vec<u16>),
    Float(f64),
    Complex(f64, f64),
    Str(&'a [u8]),
    Bytes(&'a [u8]),
}

/// What has items.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    List,
    Tuple,
    Set,
    FrozenSet,
}

/// What is made of the bytes: a [`Value`], or nothing.
pub(super) trait Build: Clone {
    fn scalar(of: Scalar<'_>) -> Self;
    fn items(kind: Kind, of: Vec<Self>) -> Self;
    fn dict(of: Vec<(Self, Self)>) -> Self;
}

impl Build for () {
    fn scalar(_: Scalar<'_>) -> Self {}
    fn items(_: Kind, _: Vec<Self>) -> Self {}
    fn dict(_: Vec<(Self, Self)>) -> Self {}
}

impl Build for Value {
    fn scalar(of: Scalar<'_>) -> Self {
        match of {
            Scalar::None => Self::None,
            Scalar::Bool(b) => Self::Bool(b),
            Scalar::Int(i) => Self::Int(i),
            Scalar::Big(negative, digits) => Self::Big(negative, digits),
            Scalar::Float(f) => Self::Float(f),
            Scalar::Complex(re, im) => Self::Complex(re, im),
            Scalar::Str(s) => Self::Str(s.to_vec()),
            Scalar::Bytes(s) => Self::Bytes(s.to_vec()),
        }
    }

    fn items(kind: Kind, of: Vec<Self>) -> Self {
        match kind {
            Kind::List => Self::List(of),
            Kind::Tuple => Self::Tuple(of),
            Kind::Set => Self::Set(of),
            Kind::FrozenSet => Self::FrozenSet(of),
        }
    }

    fn dict(of: Vec<(Self, Self)>) -> Self {
        Self::Dict(of)
    }
}

/// Something that has been read.
#[derive(Clone)]
struct Item<B> {
    built: B,
    /// Levels below it.
    height: usize,
    /// Bytes, with copies in place of references.
    size: u64,
    /// It can be in a set, and a key.
    hashable: bool,
}

pub(super) struct Reader<'a, B> {
    bytes: &'a [u8],
    at: usize,
    shared: bool,
    /// By number; `None`: not complete yet.
    numbered: Vec<Option<Item<B>>>,
    copies: u64,
}

impl<'a, B: Build> Reader<'a, B> {
    /// All the bytes as one value, with references when `shared`.
    pub fn whole(bytes: &'a [u8], shared: bool) -> Result<B, NotAValue> {
        let mut r = Self { bytes, at: 0, shared, numbered: Vec::new(), copies: 0 };
        let item = r.value(0)?.ok_or(NotAValue("a bare end mark", 0))?;
        if r.at == bytes.len() { Ok(item.built) } else { Err(NotAValue("something behind it", r.at)) }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], NotAValue> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or(NotAValue("an early end", self.at))?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NotAValue> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked"))
    }

    fn len(&mut self) -> Result<usize, NotAValue> {
        let n = i32::from_le_bytes(self.array()?);
        usize::try_from(n).map_err(|_| NotAValue("a negative length", self.at))
    }

    fn short_len(&mut self) -> Result<usize, NotAValue> {
        let [n] = self.array()?;
        Ok(n.into())
    }

    /// `None` is the mark that ends a dict.
    fn value(&mut self, depth: usize) -> Result<Option<Item<B>>, NotAValue> {
        if depth > DEPTH {
            return Err(NotAValue("nesting that is too deep", self.at));
        }
        let start = self.at;
        let [byte] = self.array()?;
        let (tag, numbered) = (byte & !NUMBERED, byte & NUMBERED != 0);
        let never_numbered = matches!(tag, b'0' | b'N' | b'T' | b'F' | b'r');
        if numbered && (never_numbered || !self.shared) {
            return Err(NotAValue("a number for it", start));
        }
        match tag {
            b'0' => return Ok(None),
            b'r' if self.shared => return self.referred(depth).map(Some),
            _ => {}
        }
        let number = self.numbered.len();
        if numbered {
            self.numbered.push(None);
        }
        let item = self.plain(tag, depth, start)?;
        if numbered {
            self.numbered[number] = Some(item.clone());
        }
        Ok(Some(item))
    }

    fn referred(&mut self, depth: usize) -> Result<Item<B>, NotAValue> {
        let start = self.at - 1;
        let number = self.len()?;
        let item = self.numbered.get(number).ok_or(NotAValue("a reference to nothing", start))?;
        let item = item.as_ref().ok_or(NotAValue("a value that holds itself", start))?;
        if depth + item.height > DEPTH {
            return Err(NotAValue("nesting that is too deep", start));
        }
        // Before it is copied.
        self.copies = self.copies.saturating_add(item.size);
        if self.copies > COPIES_MAX {
            return Err(NotAValue(TOO_LARGE, start));
        }
        Ok(item.clone())
    }

    fn plain(&mut self, tag: u8, depth: usize, start: usize) -> Result<Item<B>, NotAValue> {
        let scalar = match tag {
            b'N' => Scalar::None,
            b'T' => Scalar::Bool(true),
            b'F' => Scalar::Bool(false),
            b'i' => Scalar::Int(i32::from_le_bytes(self.array()?).into()),
            b'l' => self.big()?,
            b'g' => Scalar::Float(f64::from_le_bytes(self.array()?)),
            b'y' => Scalar::Complex(f64::from_le_bytes(self.array()?), f64::from_le_bytes(self.array()?)),
            b'u' | b't' => {
                let n = self.len()?;
                self.text(n, false)?
            }
            b'a' | b'A' if self.shared => {
                let n = self.len()?;
                self.text(n, true)?
            }
            b'z' | b'Z' if self.shared => {
                let n = self.short_len()?;
                self.text(n, true)?
            }
            b's' => {
                let n = self.len()?;
                Scalar::Bytes(self.take(n)?)
            }
            b'[' => return self.items(Kind::List, depth, Self::len),
            b'(' => return self.items(Kind::Tuple, depth, Self::len),
            b')' if self.shared => return self.items(Kind::Tuple, depth, Self::short_len),
            b'<' => return self.items(Kind::Set, depth, Self::len),
            b'>' => return self.items(Kind::FrozenSet, depth, Self::len),
            b'{' => return self.dict(depth),
            _ => return Err(NotAValue("a type that is not builtin", start)),
        };
        let size = (self.at - start) as u64;
        Ok(Item { built: B::scalar(scalar), height: 0, size, hashable: true })
    }

    fn items(
        &mut self,
        kind: Kind,
        depth: usize,
        len: impl FnOnce(&mut Self) -> Result<usize, NotAValue>,
    ) -> Result<Item<B>, NotAValue> {
        let n = len(self)?;
        let hashed = matches!(kind, Kind::Set | Kind::FrozenSet);
        let (mut items, mut height, mut size, mut hashable) = (Vec::new(), 0, 5_u64, true);
        for _ in 0..n {
            let item = self.value(depth + 1)?.ok_or(NotAValue("a missing item", self.at))?;
            if hashed && !item.hashable {
                return Err(NotAValue("an item of a set that has no hash", self.at));
            }
            height = height.max(item.height + 1);
            size = size.saturating_add(item.size);
            hashable &= item.hashable;
            items.push(item.built);
        }
        let hashable = hashable && matches!(kind, Kind::Tuple | Kind::FrozenSet);
        Ok(Item { built: B::items(kind, items), height, size, hashable })
    }

    fn dict(&mut self, depth: usize) -> Result<Item<B>, NotAValue> {
        let (mut items, mut height, mut size) = (Vec::new(), 0, 2_u64);
        while let Some(k) = self.value(depth + 1)? {
            if !k.hashable {
                return Err(NotAValue("a key that has no hash", self.at));
            }
            let v = self.value(depth + 1)?.ok_or(NotAValue("a key without a value", self.at))?;
            height = height.max(k.height.max(v.height) + 1);
            size = size.saturating_add(k.size).saturating_add(v.size);
            items.push((k.built, v.built));
        }
        Ok(Item { built: B::dict(items), height, size, hashable: false })
    }

    fn text(&mut self, n: usize, ascii: bool) -> Result<Scalar<'a>, NotAValue> {
        let at = self.at;
        let text = self.take(n)?;
        if if ascii { text.is_ascii() } else { is_text(text) } {
            Ok(Scalar::Str(text))
        } else {
            Err(NotAValue("bytes that are no text", at))
        }
    }

    fn big(&mut self) -> Result<Scalar<'a>, NotAValue> {
        let n = i32::from_le_bytes(self.array()?);
        let count = usize::try_from(n.unsigned_abs()).map_err(|_| NotAValue("a length", self.at))?;
        let at = self.at;
        let bytes = self.take(count.checked_mul(2).ok_or(NotAValue("a length", at))?)?;
        let digits: Vec<u16> = bytes.chunks_exact(2).map(|d| u16::from_le_bytes([d[0], d[1]])).collect();
        if digits.iter().any(|d| *d > 0x7fff) || digits.last() == Some(&0) {
            return Err(NotAValue("digits of an integer", at));
        }
        if count > 8 {
            return Ok(Scalar::Big(n < 0, digits)); // beyond 120 bits
        }
        let magnitude = digits.iter().rev().fold(0_i128, |acc, d| (acc << 15) | i128::from(*d));
        Ok(Scalar::Int(if n < 0 { -magnitude } else { magnitude }))
    }
}

/// Whether Python makes text of it: UTF-8, where lone surrogates are encoded like other characters.
fn is_text(mut bytes: &[u8]) -> bool {
    while let Err(e) = std::str::from_utf8(bytes) {
        match &bytes[e.valid_up_to()..] {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, rest @ ..] => bytes = rest,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `marshal.dumps` of version 4: `t = ('a', 1.5, 2**40, 'é', True, None, b'x')`, `[t, t, [], ('xy',)]`.
    const SHARED: &[u8] = b"[\x04\0\0\0\xa9\x07\xda\x01a\xe7\0\0\0\0\0\0\xf8?\xec\x03\0\0\0\0\0\0\0\0\x04\xf5\x02\0\0\0\xc3\xa9TN\xf3\x01\0\0\0xr\0\0\0\0[\0\0\0\0\xa9\x01\xfa\x02xy";

    fn shared(bytes: &[u8]) -> Result<Value, NotAValue> {
        let (value, check) = (Value::decode_shared(bytes), Value::check_shared(bytes));
        assert_eq!(value.as_ref().err(), check.as_ref().err(), "both read alike");
        value
    }

    #[test]
    fn what_occurs_twice_is_written_once_and_read_twice() {
        let t = Value::Tuple(vec![
            Value::Str(b"a".to_vec()),
            Value::Float(1.5),
            Value::Int(1 << 40),
            Value::Str("é".into()),
            Value::Bool(true),
            Value::None,
            Value::Bytes(b"x".to_vec()),
        ]);
        let last = Value::Tuple(vec![Value::Str(b"xy".to_vec())]);
        let all = Value::List(vec![t.clone(), t, Value::List(Vec::new()), last]);
        assert_eq!(shared(SHARED), Ok(all));
        assert!(Value::decode(SHARED).is_err(), "version 2 has no references");
    }

    #[test]
    fn cycles_references_to_nothing_and_numbers_for_constants_are_refused() {
        for bad in [
            &b"\xdb\x01\0\0\0r\0\0\0\0"[..], // a list in itself
            b"[\x01\0\0\0r\0\0\0\0",
            b"[\x02\0\0\0\xe9\x01\0\0\0r\x01\0\0\0",
            b"[\x01\0\0\0r\xff\xff\xff\xff",
            b"\xce",
            b"\xf2\0\0\0\0",
            b"c\0\0\0\0",
        ] {
            assert!(shared(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_few_bytes_that_stand_for_more_than_any_memory_are_too_large() {
        // [x, [r0 x 16], [r1 x 16], ...]: each level sixteen times the one before
        let mut bytes = b"[\x14\0\0\0\xe9\x01\0\0\0".to_vec();
        for level in 0..19_u32 {
            bytes.extend(b"\xdb\x10\0\0\0");
            (0..16).for_each(|_| {
                bytes.push(b'r');
                bytes.extend(level.to_le_bytes());
            });
        }
        assert!(shared(&bytes).is_err_and(|e| e.is_too_large()));
        // a long text, a million times
        let mut bytes = b"[\x41\x42\x0f\0\xf5\x10\x27\0\0".to_vec();
        bytes.extend([b'x'; 10_000]);
        (0..1_000_000).for_each(|_| bytes.extend(b"r\0\0\0\0"));
        assert!(shared(&bytes).is_err_and(|e| e.is_too_large()));
    }

    #[test]
    fn references_do_not_hide_depth() {
        // [[], [r0], [r1], ...]: every item is one level deeper than the one before
        let deep = |levels: u32| {
            let mut bytes = b"[".to_vec();
            bytes.extend((levels + 1).to_le_bytes());
            bytes.extend(b"\xdb\0\0\0\0");
            for level in 0..levels {
                bytes.extend(b"\xdb\x01\0\0\0r");
                bytes.extend(level.to_le_bytes());
            }
            bytes
        };
        assert!(shared(&deep(150)).is_ok());
        assert!(shared(&deep(250)).is_err());
    }

    #[test]
    fn what_marshal_would_refuse_is_refused_here() {
        for bad in [
            &b"u\x02\0\0\0\xff\xfe"[..],
            b"u\x02\0\0\0\xed\xa0",
            b"\xfa\x01\xe9",
            b"l\x01\0\0\0\xff\xff",
            b"l\x02\0\0\0\x01\0\0\0",
            b"<\x01\0\0\0[\0\0\0\0",
            b"{(\x01\0\0\0[\0\0\0\0N0",
        ] {
            assert!(shared(bad).is_err(), "{bad:?}");
        }
        assert!(shared(b"u\x03\0\0\0\xed\xa0\x80").is_ok(), "a lone surrogate");
        assert!(shared(b"{>\x01\0\0\0i\x01\0\0\0N0").is_ok(), "a frozenset as a key");
    }
}
