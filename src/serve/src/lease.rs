//! How a server is found: the token file, the lease and its heartbeat, and the address to bind.

use record::layout;
use record::service::{HEARTBEAT_MS, STALE_MS, ServiceLease};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Why a lease could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the machine gives no random bytes for the token: {0}")]
    Random(String),
}

/// Environment variable with the address to bind, for the site's set-up lines.
pub const BIND_VARIABLE: &str = "BESSEMER_SERVE_BIND";
/// Environment variable with the host name or address that other nodes can reach.
pub const HOST_VARIABLE: &str = "BESSEMER_SERVE_HOST";

/// The address to bind: [`BIND_VARIABLE`], else every interface inside a batch job (its consumers may run on other
/// nodes; the token guards it), else loopback.
///
/// # Errors
/// A sentence when the variable holds no IP address.
pub fn bind_address(env: impl Fn(&str) -> Option<String>) -> Result<IpAddr, String> {
    if let Some(text) = env(BIND_VARIABLE) {
        return text.trim().parse().map_err(|_| {
            format!("{BIND_VARIABLE} is {text:?}: it must be an IP address, such as 127.0.0.1 or 0.0.0.0")
        });
    }
    let in_job = ["SLURM_JOB_ID", "PBS_JOBID"].iter().any(|name| env(name).is_some());
    Ok(if in_job { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST }.into())
}

/// The host that goes into the lease's URL for a bound address.
#[must_use]
pub fn advertised_host(bound: IpAddr, env: impl Fn(&str) -> Option<String>) -> String {
    if let Some(host) = env(HOST_VARIABLE) {
        return host.trim().to_owned();
    }
    if !bound.is_unspecified() {
        return bracketed(bound);
    }
    let name = host_name();
    // a node whose own name means nothing to its resolver can at least be reached on the node itself
    if (name.as_str(), 0).to_socket_addrs().is_ok_and(|mut a| a.next().is_some()) {
        name
    } else {
        Ipv4Addr::LOCALHOST.to_string()
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => format!("[{a}]"),
    }
}

pub(crate) fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Writes a new random token, readable by its owner only from the first byte on, and returns it.
pub(crate) fn write_token(task_dir: &Path) -> Result<String, LeaseError> {
    use std::fmt::Write as _;
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| LeaseError::Random(e.to_string()))?;
    let token = bytes.iter().fold(String::with_capacity(64), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    });
    let path = task_dir.join(layout::SERVICE_TOKEN);
    let temporary = task_dir.join(format!(".{}.{}.tmp", layout::SERVICE_TOKEN, std::process::id()));
    let written = (|| {
        // left over from a process of the same id that was killed
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(token.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        record::atomic::sync_dir(&path)
    })();
    if let Err(source) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(LeaseError::Write { path, source });
    }
    Ok(token)
}

#[derive(Default)]
struct Control {
    stop: Mutex<bool>,
    wake: Condvar,
    draining: AtomicBool,
    superseded: AtomicBool,
}

/// Keeps `service.json` fresh until it is dropped; the last write says `draining`.
pub struct Keeper {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    lease: ServiceLease,
}

impl Keeper {
    /// Publishes the lease and starts its heartbeat. `alive_ms` is asked before every beat: a server whose engine has
    /// not shown life for [`STALE_MS`] must not look healthy.
    ///
    /// # Errors
    /// When the first write fails; later failures are retried at the next beat.
    pub fn start(
        task_dir: &Path,
        lease: ServiceLease,
        alive_ms: impl Fn() -> i64 + Send + 'static,
    ) -> Result<Self, LeaseError> {
        Self::start_every(task_dir, lease, alive_ms, Duration::from_millis(HEARTBEAT_MS))
    }

    pub(crate) fn start_every(
        task_dir: &Path,
        lease: ServiceLease,
        alive_ms: impl Fn() -> i64 + Send + 'static,
        period: Duration,
    ) -> Result<Self, LeaseError> {
        let path = task_dir.join(layout::SERVICE);
        record::atomic::write_json(&path, &lease)
            .map_err(|source| LeaseError::Write { path: path.clone(), source })?;
        let control = Arc::new(Control::default());
        let thread = {
            let (control, path, lease) = (Arc::clone(&control), path.clone(), lease.clone());
            std::thread::spawn(move || beat(&control, &path, &lease, &alive_ms, period))
        };
        Ok(Self { control, thread: Some(thread), path, lease })
    }

    /// From now on the lease says that nothing new is taken.
    pub fn drain(&self) {
        self.control.draining.store(true, Relaxed);
        self.control.wake.notify_all();
    }

    /// Whether a later attempt of the same service has published its own lease.
    #[must_use]
    pub fn superseded(&self) -> bool {
        self.control.superseded.load(Relaxed)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.control.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.control.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if !another_attempt(&self.path, &self.lease) {
            let last = ServiceLease { draining: true, heartbeat_ms: record::now_ms(), ..self.lease.clone() };
            let _ = record::atomic::write_json(&self.path, &last);
        }
    }
}

fn beat(control: &Control, path: &Path, lease: &ServiceLease, alive_ms: &dyn Fn() -> i64, period: Duration) {
    let mut stop = control.stop.lock().unwrap_or_else(PoisonError::into_inner);
    let mut said_draining = lease.draining;
    loop {
        let draining = control.draining.load(Relaxed);
        if draining == said_draining && !*stop {
            stop = control.wake.wait_timeout(stop, period).unwrap_or_else(PoisonError::into_inner).0;
        }
        if *stop {
            return;
        }
        if another_attempt(path, lease) {
            control.superseded.store(true, Relaxed);
            return;
        }
        let draining = control.draining.load(Relaxed);
        said_draining = draining;
        let now = record::now_ms();
        if now - alive_ms() < STALE_MS {
            // a full disk or a network file system that is away: the next beat may succeed
            let _ = record::atomic::write_json(
                path,
                &ServiceLease { heartbeat_ms: now, draining, ..lease.clone() },
            );
        }
    }
}

/// Whether the file now belongs to a later attempt.
fn another_attempt(path: &Path, lease: &ServiceLease) -> bool {
    matches!(record::atomic::read_json::<ServiceLease>(path), Ok(Some(other)) if other.attempt > lease.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn lease(attempt: u32) -> ServiceLease {
        ServiceLease {
            format: record::FORMAT,
            url: "http://127.0.0.1:1".into(),
            token_file: layout::SERVICE_TOKEN.into(),
            model: "m".into(),
            attempt,
            host: "h".into(),
            pid: 1,
            started_ms: 1,
            heartbeat_ms: 1,
            draining: false,
        }
    }

    fn read(dir: &Path) -> ServiceLease {
        record::atomic::read_json(&dir.join(layout::SERVICE)).unwrap().unwrap()
    }

    /// Waits for another thread's effect; the limit only bounds a failing test.
    fn until(what: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(60), "it never happened");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_token_is_private_and_new_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_token(dir.path()).unwrap();
        let second = write_token(dir.path()).unwrap();
        assert_ne!(first, second);
        let path = dir.path().join(layout::SERVICE_TOKEN);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), second);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_heartbeat_moves_and_the_last_word_is_draining() {
        let dir = tempfile::tempdir().unwrap();
        let keeper =
            Keeper::start_every(dir.path(), lease(1), record::now_ms, Duration::from_millis(1)).unwrap();
        until(|| read(dir.path()).heartbeat_ms > 1);
        assert!(!read(dir.path()).draining);
        keeper.drain();
        until(|| read(dir.path()).draining);
        drop(keeper);
        assert!(read(dir.path()).draining);
    }

    #[test]
    fn a_server_whose_engine_hangs_does_not_look_healthy() {
        let dir = tempfile::tempdir().unwrap();
        let (asked, asks) = std::sync::mpsc::channel();
        let hung = move || {
            let _ = asked.send(());
            // well before what the keeper, which asks for the time by itself, takes for stale
            record::now_ms() - 2 * STALE_MS
        };
        let keeper = Keeper::start_every(dir.path(), lease(1), hung, Duration::from_millis(1)).unwrap();
        for _ in 0..5 {
            asks.recv().unwrap();
        }
        assert_eq!(read(dir.path()).heartbeat_ms, 1);
        drop(keeper);
    }

    #[test]
    fn an_older_attempt_gives_way_and_does_not_touch_the_newer_lease() {
        let dir = tempfile::tempdir().unwrap();
        let keeper =
            Keeper::start_every(dir.path(), lease(1), record::now_ms, Duration::from_millis(1)).unwrap();
        // the newer attempt keeps writing until the older one has noticed: a beat may be under way
        let newer = lease(2);
        until(|| {
            record::atomic::write_json(&dir.path().join(layout::SERVICE), &newer).unwrap();
            keeper.superseded()
        });
        drop(keeper);
        assert_eq!(read(dir.path()), newer);
    }

    #[test]
    fn addresses_follow_the_site() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_owned())
        };
        assert!(bind_address(env(&[])).unwrap().is_loopback());
        assert!(bind_address(env(&[("SLURM_JOB_ID", "3")])).unwrap().is_unspecified());
        let set = env(&[("SLURM_JOB_ID", "3"), (BIND_VARIABLE, "10.0.0.7")]);
        assert_eq!(bind_address(set).unwrap().to_string(), "10.0.0.7");
        assert!(bind_address(env(&[(BIND_VARIABLE, "eth0")])).unwrap_err().contains("IP address"));
        assert_eq!(advertised_host(Ipv4Addr::LOCALHOST.into(), env(&[])), "127.0.0.1");
        assert_eq!(advertised_host(std::net::Ipv6Addr::LOCALHOST.into(), env(&[])), "[::1]");
        assert_eq!(advertised_host(Ipv4Addr::UNSPECIFIED.into(), env(&[(HOST_VARIABLE, "n7")])), "n7");
    }
}
