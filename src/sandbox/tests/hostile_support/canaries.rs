//! What a supervisor must not let through: planted in its environment, home, sockets and descriptors.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

const VARIABLES: [&str; 4] = ["CANARY_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SLURM_JOB_ID"];
const FILES: [&str; 3] = [".ssh/id_canary", ".netrc", ".cache/huggingface/token"];

fn fresh(what: &str) -> String {
    let mut random = [0_u8; 12];
    fs::File::open("/dev/urandom")
        .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut random))
        .expect("random bytes");
    let hex: String = random.iter().map(|b| format!("{b:02x}")).collect();
    format!("canary-{what}-{hex}")
}

/// Puts canaries into the environment and the home of a campaign's process.
pub fn plant(command: &mut Command, home: &Path, user: Option<u32>) {
    for name in VARIABLES {
        command.env(name, fresh("env"));
    }
    command.env("HOME", home);
    for name in FILES {
        let path = home.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory in the home");
        fs::write(&path, fresh("home")).expect("a file in the home");
        if let Some(id) = user {
            std::os::unix::fs::chown(&path, Some(id), Some(id)).expect("we are root then");
        }
    }
}

/// What the campaign's process holds while programs run.
pub struct Held {
    /// No run may return any of these.
    pub secrets: Vec<String>,
    /// An expected output that nobody can guess.
    pub token: String,
    home: PathBuf,
    files: Vec<PathBuf>,
    _sockets: (Option<TcpListener>, Option<UnixListener>),
    _leaky: fs::File,
}

/// Collects the planted canaries and plants those that live in the process itself.
pub fn hold() -> Held {
    let home = PathBuf::from(std::env::var_os("HOME").expect("planted"));
    let mut secrets: Vec<String> = VARIABLES.iter().map(|n| std::env::var(n).expect("planted")).collect();
    secrets.extend(FILES.iter().map(|f| fs::read_to_string(home.join(f)).expect("planted")));
    let token = fresh("expected");
    secrets.push(token.clone());
    let in_fd = fresh("fd");
    let path = std::env::temp_dir().join(format!("bessemer-canary-{}", std::process::id()));
    fs::write(&path, &in_fd).expect("a temporary file");
    let leaky = fs::File::open(&path).expect("just written");
    fs::remove_file(&path).expect("just written");
    secrets.push(in_fd);
    // SAFETY: dup makes a new descriptor; that it leaks into children is the point.
    let leaked = unsafe { libc::dup(std::os::fd::AsRawFd::as_raw_fd(&leaky)) };
    assert!(leaked > 2);
    // Another campaign of this machine may hold these two at the moment; a listener is there either way.
    let tcp = TcpListener::bind(("127.0.0.1", 39517)).ok();
    let name = SocketAddr::from_abstract_name("h5-canary").expect("a name");
    let unix = UnixListener::bind_addr(&name).ok();
    let files = list(&home);
    Held { secrets, token, home, files, _sockets: (tcp, unix), _leaky: leaky }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

impl Held {
    /// No program has made or removed a file in the home.
    pub fn untouched(&self) {
        assert_eq!(list(&self.home), self.files, "files of the home have changed");
    }
}
