//! The state file: opening and migrations. Rows are in [`rows`] and [`writes`], who may write in [`lease`].

pub mod lease;
pub mod rows;
pub mod writes;

use crate::error::{Error, Result};
use crate::fsys::{self, FileSystem};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the state file in the state directory.
pub const FILE: &str = "bessemer.sqlite";

/// Numbered migrations; entry k brings version k to k + 1. Never edited once released: a change is a new file.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../../state/0001_ledger.sql"),
    include_str!("../../../../state/0002_progress.sql"),
    include_str!("../../../../state/0003_waiting.sql"),
];

/// "bess" in ASCII: `PRAGMA application_id`, so that another program's database is not taken for ours.
const APPLICATION_ID: i64 = 0x6265_7373;

/// An open state file.
#[derive(Debug)]
pub struct Db {
    pub(crate) conn: Connection,
    path: PathBuf,
    file_system: FileSystem,
}

impl Db {
    /// Opens (and creates, and migrates) the state file below `state_dir`.
    ///
    /// # Errors
    /// [`Error::Newer`], [`Error::NotALedger`], [`Error::Busy`], I/O.
    pub fn open(state_dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(state_dir)
            .map_err(Error::io(format!("cannot create the state directory {}", state_dir.display())))?;
        let path = state_dir.join(FILE);
        let file_system = fsys::of(state_dir);
        let conn = Connection::open(&path).map_err(|e| wrap(e, &path, &file_system))?;
        let mut db = Self { conn, path, file_system };
        db.configure()?;
        db.migrate(MIGRATIONS)?;
        Ok(db)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn file_system(&self) -> &FileSystem {
        &self.file_system
    }

    /// Journal and locks by the file system (specs: F30): WAL needs shared memory, which no network file system has;
    /// there, one holder at a time with a rollback journal.
    fn configure(&mut self) -> Result<()> {
        let network = self.file_system.network;
        self.guard(|c| {
            c.busy_timeout(Duration::from_secs(if network { 20 } else { 60 }))?;
            if network {
                c.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            }
            let journal = if network { "TRUNCATE" } else { "WAL" };
            c.pragma_update_and_check(None, "journal_mode", journal, |_| Ok(()))?;
            c.pragma_update(None, "synchronous", "FULL")?;
            c.pragma_update(None, "foreign_keys", true)?;
            c.pragma_update(None, "temp_store", "MEMORY")
        })
    }

    /// Brings the file to the newest version, each step in one transaction, after a copy (`*.v<old>.bak`).
    fn migrate(&mut self, migrations: &[&str]) -> Result<()> {
        let known = i64::try_from(migrations.len()).expect("a handful of migrations");
        let (found, id, tables): (i64, i64, i64) = self.guard(|c| {
            Ok((
                c.pragma_query_value(None, "user_version", |r| r.get(0))?,
                c.pragma_query_value(None, "application_id", |r| r.get(0))?,
                c.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0))?,
            ))
        })?;
        if tables > 0 && id != APPLICATION_ID {
            return Err(Error::NotALedger(self.path.clone()));
        }
        if found > known {
            return Err(Error::Newer { path: self.path.clone(), found, known });
        }
        if found == known {
            return Ok(());
        }
        if found > 0 {
            self.backup(&self.path.with_extension(format!("v{found}.bak")))?;
        }
        self.transaction(|tx| {
            // Another process may have migrated while this one waited for the lock.
            let start: i64 = tx.pragma_query_value(None, "user_version", |r| r.get(0))?;
            for (version, sql) in (1i64..).zip(migrations) {
                if version > start {
                    tx.execute_batch(sql)?;
                }
            }
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", known.max(start))
        })
    }

    /// A consistent copy by `VACUUM INTO`; an older copy of that name is replaced.
    ///
    /// # Errors
    /// SQLite's and I/O errors.
    pub fn backup(&self, to: &Path) -> Result<()> {
        let part = to.with_extension("part");
        let _ = std::fs::remove_file(&part);
        self.guard(|c| c.execute("VACUUM INTO ?1", [part.to_string_lossy()]).map(|_| ()))?;
        std::fs::rename(&part, to).map_err(Error::io(format!("cannot write the backup {}", to.display())))
    }

    /// Copies the state file once a day (`bessemer.daily.bak`), by its age.
    ///
    /// # Errors
    /// As [`Db::backup`].
    pub fn daily_backup(&self) -> Result<()> {
        let to = self.path.with_extension("daily.bak");
        let fresh = std::fs::metadata(&to)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| t.elapsed().ok())
            .is_some_and(|age| age < Duration::from_secs(24 * 3600));
        if fresh { Ok(()) } else { self.backup(&to) }
    }

    /// Runs a read.
    pub(crate) fn guard<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        f(&self.conn).map_err(|e| wrap(e, &self.path, &self.file_system))
    }

    /// Runs `f` in `BEGIN IMMEDIATE`: the write lock is taken at the start, so that what `f` reads still holds when it
    /// writes. An error rolls back.
    pub(crate) fn transaction<T>(
        &mut self,
        f: impl FnOnce(&rusqlite::Transaction) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let run = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = f(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        run(&mut self.conn).map_err(|e| wrap(e, &self.path, &self.file_system))
    }
}

/// Lock trouble is told with the file system's name, everything else with the path.
fn wrap(e: rusqlite::Error, path: &Path, file_system: &FileSystem) -> Error {
    let lock = match &e {
        rusqlite::Error::SqliteFailure(code, _) => match code.code {
            ErrorCode::DatabaseBusy => Some("it is locked"),
            ErrorCode::DatabaseLocked => Some("a table is locked"),
            ErrorCode::FileLockingProtocolFailed => Some("locking protocol error"),
            ErrorCode::SystemIoFailure if matches!(code.extended_code & 0xFF00, 0xF00 | 0x900 | 0x800) => {
                Some("locking I/O error")
            }
            ErrorCode::NotADatabase => return Error::NotALedger(path.to_owned()),
            _ => None,
        },
        _ => None,
    };
    match lock {
        Some(what) => Error::Busy {
            path: path.to_owned(),
            file_system: file_system.name.clone(),
            what: what.to_owned(),
        },
        None => Error::Sqlite { path: path.to_owned(), source: e },
    }
}

#[cfg(test)]
mod tests;
