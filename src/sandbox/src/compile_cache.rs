//! What compilers made, by content: the same source, flags and compiler give the same program, in this process and in
//! every other that shares the directory.
//!
//! One file per program: a line of JSON (its hash, the compiler's messages), then the program. It is written beside its
//! place and renamed, so a reader sees a whole file or none; the hash is checked at each read, so a torn or damaged file is a
//! miss. Only programs are kept: a compiler that failed may have failed for want of memory. Nothing in here is trusted with
//! more than any program is: it runs in a slot. But who can write to the directory can change verdicts, so a directory that
//! others may write to is refused.

use crate::bytes::Bytes;
use crate::job::Compile;
use crate::lang::Toolchain;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use slot::wire::PlacedFile;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Bumped when entries of older versions mean something else.
const FORMAT: &str = "bessemer-compiled-1";
/// After this many new entries the directory is measured.
const MEASURE_EVERY: u64 = 16;
/// What eviction leaves, of 100.
const KEPT_PERCENT: u64 = 80;
/// A half-written file older than this belongs to nobody any more.
const ABANDONED: Duration = Duration::from_secs(3600);
/// No header line is longer: the compiler's messages are bounded.
const HEADER_MAX: usize = 4 << 20;

/// A directory of programs.
#[derive(Debug)]
pub(crate) struct CompileCache {
    dir: PathBuf,
    bytes_max: u64,
    stored: AtomicU64,
}

/// The name of a program: a hash over everything that goes into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

/// A program that was kept.
pub(crate) struct Kept {
    pub binary: Vec<u8>,
    pub messages: Vec<u8>,
    /// What compiling took when it was made.
    pub wall_ms: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    key: String,
    sha256: String,
    messages_b64: Bytes,
    wall_ms: f64,
}

impl Key {
    /// Source, names and content of the files beside it, the whole command, the environment, and which compiler it is:
    /// its version, and path, size and time of every file that the command names by an absolute path.
    pub fn new(
        language: &str,
        tools: &Toolchain,
        argv: &[String],
        source: &PlacedFile,
        beside: &[PlacedFile],
    ) -> Self {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(FORMAT.as_bytes());
        part(language.as_bytes());
        part(tools.version.as_bytes());
        for text in argv.iter().chain(&tools.env) {
            part(text.as_bytes());
        }
        let program = argv.first().map(|a| host_path(tools, a)).unwrap_or_default();
        let identity = fs::metadata(&program)
            .map(|m| format!("{} {} {}.{}", program.display(), m.len(), m.mtime(), m.mtime_nsec()))
            .unwrap_or_default();
        part(identity.as_bytes());
        // In any order they are the same directory.
        let mut files: Vec<_> = beside.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in [source].into_iter().chain(files) {
            part(file.path.as_bytes());
            part(&file.data);
        }
        Self(hex(&hash.finalize()))
    }
}

/// Where a path of the slot lies outside of it.
fn host_path(tools: &Toolchain, inside: &str) -> PathBuf {
    let inside = Path::new(inside);
    let bound = tools
        .binds
        .iter()
        .find_map(|b| Some(Path::new(&b.source).join(inside.strip_prefix(&b.target).ok()?)));
    bound.unwrap_or_else(|| inside.to_path_buf())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl CompileCache {
    /// Opens a directory, made with mode 0700 when it is not there.
    ///
    /// # Errors
    /// It cannot be made, is not ours, or others may write to it.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, String> {
        let named = |e: io::Error| format!("compile cache {}: {e}", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(named)?;
        let meta = fs::metadata(dir).map_err(named)?;
        // SAFETY: takes nothing and always succeeds.
        if meta.uid() != unsafe { libc::geteuid() } || meta.mode() & 0o022 != 0 {
            return Err(format!(
                "compile cache {}: it must belong to you and be writable by nobody else (chmod 700), since whoever writes there can change verdicts",
                dir.display()
            ));
        }
        let cache = Self { dir: dir.to_owned(), bytes_max, stored: AtomicU64::new(0) };
        cache.trim();
        Ok(cache)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(&key.0)
    }

    /// The program of that name, if there is a whole one.
    pub fn get(&self, key: &Key) -> Option<Kept> {
        let path = self.path(key);
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let Some(kept) = read_entry(key, &bytes) else {
            let _ = fs::remove_file(&path); // damaged: the next one writes it anew
            return None;
        };
        let _ = file.set_modified(SystemTime::now()); // eviction takes the longest unused
        Some(kept)
    }

    /// Keeps a program. A failure costs a compilation, nothing else, so it is not told.
    pub fn put(&self, key: &Key, compile: &Compile, binary: &[u8]) {
        if binary.len() as u64 > self.bytes_max / 4 {
            return; // one program must not push out all others
        }
        let _ = self.write(key, compile, binary);
        if self.stored.fetch_add(1, Ordering::Relaxed) % MEASURE_EVERY == MEASURE_EVERY - 1 {
            self.trim();
        }
    }

    fn write(&self, key: &Key, compile: &Compile, binary: &[u8]) -> io::Result<()> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!(".new-{}-{number}", std::process::id()));
        let header = Header {
            format: FORMAT.into(),
            key: key.0.clone(),
            sha256: hex(&Sha256::digest(binary)),
            messages_b64: compile.output.clone(),
            wall_ms: compile.wall_ms,
        };
        let mut head = serde_json::to_vec(&header)?;
        head.push(b'\n');
        let written = (|| {
            // Left by a dead process of the same number: not ours to keep.
            let _ = fs::remove_file(&temporary);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&head)?;
            file.write_all(binary)?;
            // No fsync: after a crash of the machine a file that is not whole is a miss.
            fs::rename(&temporary, self.path(key))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the longest unused entries until the rest fits, and what writers have left behind.
    fn trim(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut found = Vec::new();
        let mut total = 0;
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue }; // evicted by another process meanwhile
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
                if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if meta.is_file() {
                total += meta.len();
                found.push((modified, meta.len(), entry.path()));
            }
        }
        if total <= self.bytes_max {
            return;
        }
        found.sort();
        for (_, size, path) in found {
            if total <= self.bytes_max / 100 * KEPT_PERCENT {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
}

/// The entry in these bytes, if it is whole and is the one that was asked for.
fn read_entry(key: &Key, bytes: &[u8]) -> Option<Kept> {
    let end = bytes.iter().take(HEADER_MAX).position(|b| *b == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    let binary = &bytes[end + 1..];
    let whole =
        header.format == FORMAT && header.key == key.0 && header.sha256 == hex(&Sha256::digest(binary));
    whole.then(|| Kept { binary: binary.to_vec(), messages: header.messages_b64.0, wall_ms: header.wall_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Toolchain {
        Toolchain {
            binds: Vec::new(),
            compile: None,
            run: Vec::new(),
            env: Vec::new(),
            version: "cc 1".into(),
        }
    }

    fn file(path: &str, data: &[u8]) -> PlacedFile {
        PlacedFile { path: path.into(), executable: false, data: data.to_vec() }
    }

    fn key(source: &[u8]) -> Key {
        Key::new("c", &tools(), &["/usr/bin/cc".into()], &file("main.c", source), &[])
    }

    fn compiled() -> Compile {
        Compile {
            ok: true,
            exit_code: Some(0),
            output: Bytes(b"a warning".to_vec()),
            cached: false,
            wall_ms: 5.0,
        }
    }

    fn cache(bytes_max: u64) -> (tempfile::TempDir, CompileCache) {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = CompileCache::open(&dir.path().join("c"), bytes_max).expect("a cache");
        (dir, cache)
    }

    #[test]
    fn everything_that_goes_into_a_program_is_in_its_name() {
        let argv = vec!["/usr/bin/cc".to_owned()];
        let base = Key::new("c", &tools(), &argv, &file("main.c", b"x"), &[]);
        let flags = vec!["/usr/bin/cc".to_owned(), "-O3".to_owned()];
        let newer = Toolchain { version: "cc 2".into(), ..tools() };
        let env = Toolchain { env: vec!["A=1".into()], ..tools() };
        let others = [
            Key::new("cpp", &tools(), &argv, &file("main.c", b"x"), &[]),
            Key::new("c", &tools(), &flags, &file("main.c", b"x"), &[]),
            Key::new("c", &newer, &argv, &file("main.c", b"x"), &[]),
            Key::new("c", &env, &argv, &file("main.c", b"x"), &[]),
            Key::new("c", &tools(), &argv, &file("main.c", b"y"), &[]),
            Key::new("c", &tools(), &argv, &file("main.c", b"x"), &[file("a.h", b"1")]),
            Key::new("c", &tools(), &argv, &file("main.c", b"x"), &[file("a.h", b"2")]),
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(*other, base, "{i}");
        }
        let (a, b) = (file("a.h", b"1"), file("b.h", b"2"));
        let both = |files: &[PlacedFile]| Key::new("c", &tools(), &argv, &file("main.c", b"x"), files);
        assert_eq!(both(&[a.clone(), b.clone()]), both(&[b, a]));
    }

    #[test]
    fn a_program_comes_back_with_its_messages() {
        let (_dir, cache) = cache(1 << 20);
        assert!(cache.get(&key(b"x")).is_none());
        cache.put(&key(b"x"), &compiled(), b"binary\nwith a line");
        let kept = cache.get(&key(b"x")).expect("it is kept");
        assert_eq!(
            (kept.binary.as_slice(), kept.messages.as_slice()),
            (&b"binary\nwith a line"[..], &b"a warning"[..])
        );
        assert!(cache.get(&key(b"y")).is_none());
    }

    #[test]
    fn a_damaged_or_foreign_entry_is_a_miss_and_goes_away() {
        let (_dir, cache) = cache(1 << 20);
        let path = cache.path(&key(b"x"));
        for change in 0..3 {
            cache.put(&key(b"x"), &compiled(), b"binary");
            let mut bytes = fs::read(&path).expect("an entry");
            match change {
                0 => *bytes.last_mut().expect("not empty") ^= 1,
                1 => bytes.truncate(bytes.len() - 2),
                _ => bytes.clear(),
            }
            fs::write(&path, bytes).expect("our own file");
            assert!(cache.get(&key(b"x")).is_none(), "{change}");
            assert!(!path.exists(), "{change}");
        }
        // A whole entry under another name: somebody renamed it.
        cache.put(&key(b"y"), &compiled(), b"another program");
        fs::rename(cache.path(&key(b"y")), &path).expect("our own file");
        assert!(cache.get(&key(b"x")).is_none());
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("a link");
        assert!(cache.get(&key(b"x")).is_none());
    }

    #[test]
    fn the_longest_unused_go_when_it_is_full() {
        let (_dir, cache) = cache(100_000);
        let program = vec![7_u8; 10_000];
        for i in 0..64_u8 {
            cache.put(&key(&[i]), &compiled(), &program);
            let _ = cache.get(&key(&[0])); // the first is in use all the time
        }
        let sizes: u64 = fs::read_dir(cache.dir())
            .expect("a directory")
            .map(|e| e.expect("an entry").metadata().expect("a file").len())
            .sum();
        assert!(sizes <= 100_000 + MEASURE_EVERY * 11_000, "{sizes}");
        assert!(cache.get(&key(&[0])).is_some());
        assert!(cache.get(&key(&[1])).is_none());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        let why = CompileCache::open(dir.path(), 1).expect_err("others could plant programs");
        assert!(why.contains("chmod 700"), "{why}");
    }
}
