//! TensorBoard's event files: scalars by step, beside our own JSONL.
//!
//! A file is a sequence of TFRecords (length, its checksum, bytes, their checksum; little endian) whose bytes are the
//! protocol buffer `tensorboard.Event`. Of that we need five fields, so no protobuf compiler takes part:
//! `Event {1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary}`, `Summary {1: repeated Value}`,
//! `Value {1: string tag, 2: float simple_value}`.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Writes `events.out.tfevents.*` into a directory; the file is made with the first scalar.
pub struct Curves {
    dir: PathBuf,
    file: Option<File>,
}

impl Curves {
    /// Curves in `dir`, which comes with the first scalar.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), file: None }
    }

    /// One record with the values of `step`. Each goes out in one write(2): a crash tears at most the last one, which
    /// readers skip.
    ///
    /// # Errors
    /// I/O errors.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let now = record::now_ms() as f64 / 1000.0;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.dir, now)?),
        };
        file.write_all(&record_of(&event(now, step, values)))
    }
}

fn open(dir: &Path, now: f64) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    // TensorBoard orders the files of a run by name, and takes any that contains "tfevents"
    let name = format!("events.out.tfevents.{:010}.{}", now as u64, std::process::id());
    let mut file = File::options().create(true).append(true).open(dir.join(name))?;
    let mut first = Vec::new();
    double(&mut first, 1, now);
    bytes(&mut first, 3, b"brain.Event:2");
    file.write_all(&record_of(&first))?;
    Ok(file)
}

fn event(now: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        bytes(&mut one, 1, tag.as_bytes());
        key(&mut one, 2, FIXED32);
        one.extend((*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &one);
    }
    let mut out = Vec::new();
    double(&mut out, 1, now);
    key(&mut out, 2, VARINT);
    varint(&mut out, step);
    bytes(&mut out, 5, &summary);
    out
}

fn record_of(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

/// TFRecord's checksum: CRC-32C, rotated and shifted so that the checksum of data with checksums inside stays useful.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// Field numbers here are below 16, so a key is one byte.
fn key(out: &mut Vec<u8>, field: u8, wire: u8) {
    out.push(field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    key(out, field, FIXED64);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    key(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of a file, checksums checked.
    fn records(mut rest: &[u8]) -> Vec<Vec<u8>> {
        let word = |b: &[u8]| u32::from_le_bytes(b[..4].try_into().unwrap());
        let mut out = Vec::new();
        while !rest.is_empty() {
            let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(word(&rest[8..]), masked(&rest[..8]));
            assert_eq!(word(&rest[12 + n..]), masked(&rest[12..12 + n]));
            out.push(rest[12..12 + n].to_vec());
            rest = &rest[16 + n..];
        }
        out
    }

    #[test]
    fn a_file_begins_with_its_version_and_has_one_record_per_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut curves = Curves::new(&dir.path().join("tb"));
        assert!(!dir.path().join("tb").exists(), "nothing to show, no file");
        curves.scalars(1, &[("loss", 2.5), ("learning_rate", 1e-3)]).unwrap();
        curves.scalars(300, &[("loss", 1.25)]).unwrap();
        let file = std::fs::read_dir(dir.path().join("tb")).unwrap().next().unwrap().unwrap();
        assert!(file.file_name().to_str().unwrap().starts_with("events.out.tfevents."));
        let all = records(&std::fs::read(file.path()).unwrap());
        assert_eq!(all.len(), 3);
        assert!(all[0].ends_with(b"brain.Event:2"));
        // key, little-endian base 128: 300 is 0xac 0x02; then Summary{Value{tag "loss", 1.25}}
        let want = [&[0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4][..], b"loss", &[0x15, 0, 0, 0xa0, 0x3f]]
            .concat();
        assert!(all[2].ends_with(&want), "{:x?}", all[2]);
    }

    #[test]
    fn the_checksum_is_that_of_the_published_vectors() {
        // RFC 3720 B.4: 32 bytes of zeros
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
