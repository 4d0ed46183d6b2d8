//! Who may write a sweep: one planner at a time, on whatever login node (specs: F6).

use crate::db::Db;
use crate::error::{Error, Result};
use crate::host::Process;
use rusqlite::{OptionalExtension, Transaction, params};

/// How long a lease lasts without renewal. Longer than the longest scheduler call (150 s for a submit).
pub const TTL_MS: i64 = 300_000;

/// The right to write one sweep, held by this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub sweep: i64,
    pub owner: String,
}

/// Who holds a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub what: String,
    pub process: Process,
    pub expires_ms: i64,
}

impl Db {
    /// Takes the lease of a sweep for the command `what`. A holder that is dead on this machine, or whose lease has
    /// expired, is replaced.
    ///
    /// # Errors
    /// [`Error::Held`] by somebody who may be alive.
    pub fn acquire(&mut self, sweep: i64, name: &str, what: &str, now_ms: i64) -> Result<Lease> {
        let me = Process::me();
        let owner = format!("{}:{}:{}:{now_ms:x}", me.host, me.pid, me.pid_start);
        let taken = self.transaction(|tx| {
            if let Some(holder) = holder(tx, sweep)?
                && !is_free(&holder, now_ms)
            {
                return Ok(Err(holder));
            }
            tx.prepare_cached(
                "INSERT OR REPLACE INTO lease (sweep, owner, host, boot_id, pid, pid_start, what, acquired_ms, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                sweep,
                owner,
                me.host,
                me.boot_id,
                me.pid,
                i64::try_from(me.pid_start).unwrap_or(0),
                what,
                now_ms,
                now_ms + TTL_MS
            ])?;
            Ok(Ok(()))
        })?;
        match taken {
            Ok(()) => Ok(Lease { sweep, owner }),
            Err(holder) => Err(Error::Held {
                sweep: name.to_owned(),
                what: holder.what,
                pid: holder.process.pid,
                host: holder.process.host,
                left_s: (holder.expires_ms - now_ms).max(0) / 1000,
            }),
        }
    }

    /// Gives the lease back; a lease that is somebody else's by now is left alone.
    ///
    /// # Errors
    /// SQLite's.
    pub fn release(&mut self, lease: &Lease) -> Result<()> {
        self.guard(|c| {
            c.execute("DELETE FROM lease WHERE sweep = ?1 AND owner = ?2", params![lease.sweep, lease.owner])
                .map(|_| ())
        })
    }

    /// Who holds the sweep now, if anybody does who may be alive.
    ///
    /// # Errors
    /// SQLite's.
    pub fn holder(&self, sweep: i64, now_ms: i64) -> Result<Option<Holder>> {
        Ok(self.guard(|c| holder(c, sweep))?.filter(|h| !is_free(h, now_ms)))
    }
}

/// Renews the lease inside a transaction of its holder: `false` means that it is somebody else's, and the transaction
/// must not be committed. Every write of a sweep goes through this, so a planner that was stopped for ten minutes and
/// wakes up cannot write over its successor.
pub(crate) fn renew(tx: &Transaction, lease: &Lease, now_ms: i64) -> rusqlite::Result<bool> {
    let changed = tx
        .prepare_cached("UPDATE lease SET expires_ms = ?3 WHERE sweep = ?1 AND owner = ?2")?
        .execute(params![lease.sweep, lease.owner, now_ms + TTL_MS])?;
    Ok(changed == 1)
}

fn holder(conn: &rusqlite::Connection, sweep: i64) -> rusqlite::Result<Option<Holder>> {
    conn.query_row(
        "SELECT what, host, boot_id, pid, pid_start, expires_ms FROM lease WHERE sweep = ?1",
        [sweep],
        |r| {
            Ok(Holder {
                what: r.get(0)?,
                process: Process {
                    host: r.get(1)?,
                    boot_id: r.get(2)?,
                    pid: r.get(3)?,
                    pid_start: u64::try_from(r.get::<_, i64>(4)?).unwrap_or(0),
                },
                expires_ms: r.get(5)?,
            })
        },
    )
    .optional()
}

/// Dead on this machine: free at once. Elsewhere: only its expiry frees it.
fn is_free(holder: &Holder, now_ms: i64) -> bool {
    holder.process.is_gone().unwrap_or(false) || holder.expires_ms <= now_ms
}
