use super::*;
use crate::error::Error;
use crate::host::Process;
use crate::state::AttemptState;

/// The state file of a version 1 ledger, as `sqlite3 FILE .dump` wrote it.
const VERSION_1: &str = include_str!("../../tests/data/state-v1.sql");

fn restore(dir: &Path) {
    let conn = Connection::open(dir.join(FILE)).unwrap();
    conn.execute_batch(VERSION_1).unwrap();
    // .dump leaves the pragmas out
    conn.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
}

#[test]
fn an_old_state_file_is_migrated_after_a_copy_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    restore(dir.path());
    let db = Db::open(dir.path()).unwrap();
    let sweep = db.find_sweep("old").unwrap();
    assert_eq!(sweep.calls, 7);
    let attempts = db.all_attempts(sweep.id).unwrap();
    let states: Vec<&str> = attempts.iter().map(|a| a.state.name()).collect();
    assert_eq!(states, ["succeeded", "failed", "running"]);
    assert_eq!(attempts[2].state.job().unwrap().id, "4712_0");
    assert_eq!(attempts[2].state.job().unwrap().token.as_str(), "bc-arrayarrayar");
    assert_eq!(
        (attempts[2].events_offset, attempts[2].stuck.as_str()),
        (0, ""),
        "new columns have their defaults"
    );
    assert_eq!(db.open_submissions(sweep.id).unwrap().len(), 1);
    let version: i64 = db.guard(|c| c.pragma_query_value(None, "user_version", |r| r.get(0))).unwrap();
    assert_eq!(version, i64::try_from(MIGRATIONS.len()).unwrap());
    let copy = Connection::open(dir.path().join("bessemer.v1.bak")).unwrap();
    let kept: i64 = copy.query_row("SELECT count(*) FROM attempt", [], |r| r.get(0)).unwrap();
    assert_eq!(kept, 3);
    drop(db);
    Db::open(dir.path()).unwrap();
}

#[test]
fn every_migration_leads_to_the_same_schema_as_a_new_file() {
    let schema = |dir: &Path| -> Vec<(String, String)> {
        let db = Db::open(dir).unwrap();
        db.guard(|c| {
            c.prepare("SELECT m.name, p.name || ' ' || p.type FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table' ORDER BY 1, p.cid")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })
        .unwrap()
    };
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    restore(old.path());
    assert_eq!(schema(old.path()), schema(new.path()));
}

#[test]
fn a_newer_state_file_and_a_strangers_database_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Db::open(dir.path()).unwrap());
    let conn = Connection::open(dir.path().join(FILE)).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let e = Db::open(dir.path()).unwrap_err();
    assert!(matches!(e, Error::Newer { found: 99, .. }) && e.to_string().contains("update bessemer"), "{e}");

    let other = tempfile::tempdir().unwrap();
    let conn = Connection::open(other.path().join(FILE)).unwrap();
    conn.execute_batch("CREATE TABLE cookies (x)").unwrap();
    drop(conn);
    assert!(matches!(Db::open(other.path()).unwrap_err(), Error::NotALedger(_)));
    std::fs::write(other.path().join(FILE), "this is no database, it is a text of some length").unwrap();
    assert!(matches!(Db::open(other.path()).unwrap_err(), Error::NotALedger(_)));
}

#[test]
fn a_locked_file_is_told_with_its_file_system_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Db::open(dir.path()).unwrap();
    let other = Connection::open(dir.path().join(FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.guard(|c| c.busy_timeout(Duration::from_millis(1))).unwrap();
    let e = db.transaction(|_| Ok(())).unwrap_err();
    assert_eq!(e.exit_code(), 75);
    let text = e.to_string();
    assert!(text.contains(&db.file_system().name) && text.contains("--state-dir"), "{text}");
}

#[test]
fn a_network_file_system_gets_a_rollback_journal_and_one_holder() {
    let dir = tempfile::tempdir().unwrap();
    let open = |network: bool| {
        let conn = Connection::open(dir.path().join(FILE)).unwrap();
        let file_system = FileSystem { name: "NFS".into(), network };
        let mut db = Db { conn, path: dir.path().join(FILE), file_system };
        db.configure().and_then(|()| db.migrate(MIGRATIONS)).map(|()| db)
    };
    let db = open(true).unwrap();
    let mode: String = db.guard(|c| c.pragma_query_value(None, "journal_mode", |r| r.get(0))).unwrap();
    assert_eq!(mode, "truncate");
    let second = Connection::open(dir.path().join(FILE)).unwrap();
    second.busy_timeout(Duration::from_millis(1)).unwrap();
    assert!(second.query_row("SELECT count(*) FROM sweep", [], |r| r.get::<_, i64>(0)).is_err(), "exclusive");
    drop(db);
    assert_eq!(second.query_row("SELECT count(*) FROM sweep", [], |r| r.get::<_, i64>(0)).unwrap(), 0);
    drop(second);
    let db = open(false).unwrap();
    let mode: String = db.guard(|c| c.pragma_query_value(None, "journal_mode", |r| r.get(0))).unwrap();
    assert_eq!(mode, "wal");
}

fn sweep(db: &mut Db) -> i64 {
    db.put_sweep(&rows::SweepRow {
        id: 0,
        name: "s".into(),
        run_dir: "/runs/s".into(),
        site: "here".into(),
        nonce: "n".into(),
        job_sha256: String::new(),
        graph_sha256: String::new(),
        created_ms: 0,
        calls: 0,
    })
    .unwrap()
}

/// Puts the lease into other hands.
fn hand_over(db: &Db, to: &Process, expires_ms: i64) {
    db.guard(|c| {
        c.execute(
            "UPDATE lease SET owner = 'other', host = ?1, boot_id = ?2, pid = ?3, pid_start = ?4, expires_ms = ?5",
            rusqlite::params![to.host, to.boot_id, to.pid, i64::try_from(to.pid_start).unwrap(), expires_ms],
        )
    })
    .unwrap();
}

#[test]
fn a_lease_is_held_by_the_living_and_freed_by_death_here_or_expiry_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Db::open(dir.path()).unwrap();
    let s = sweep(&mut db);
    let now = record::now_ms();
    db.acquire(s, "s", "bessemer submit", now).unwrap();
    let e = db.acquire(s, "s", "bessemer resume", now).unwrap_err();
    assert!(matches!(e, Error::Held { .. }) && e.to_string().contains("bessemer submit"), "{e}");

    let dead = Process { pid_start: Process::me().pid_start + 1, ..Process::me() };
    hand_over(&db, &dead, now + lease::TTL_MS);
    assert!(db.holder(s, now).unwrap().is_none());
    db.acquire(s, "s", "bessemer submit", now).unwrap();

    let elsewhere = Process { host: "login2".into(), ..Process::me() };
    hand_over(&db, &elsewhere, now + lease::TTL_MS);
    let e = db.acquire(s, "s", "bessemer submit", now).unwrap_err();
    assert!(e.to_string().contains("login2"), "{e}");
    assert!(db.acquire(s, "s", "bessemer submit", now + lease::TTL_MS).is_ok(), "expired");
}

#[test]
fn who_lost_the_lease_writes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Db::open(dir.path()).unwrap();
    let s = sweep(&mut db);
    let lease = db.acquire(s, "s", "bessemer submit", record::now_ms()).unwrap();
    db.write(&lease, "s", |w| w.add_calls(1)).unwrap();
    hand_over(&db, &Process { host: "login2".into(), ..Process::me() }, i64::MAX);
    let e = db.write(&lease, "s", |w| w.add_calls(100)).unwrap_err();
    assert!(matches!(e, Error::LeaseLost(_)), "{e}");
    assert_eq!(db.sweeps().unwrap()[0].calls, 1);
    db.release(&lease).unwrap();
    assert!(db.holder(s, 0).unwrap().is_some(), "somebody else's lease is not given back");
}

#[test]
fn unknown_states_of_a_newer_program_decide_nothing() {
    let dir = tempfile::tempdir().unwrap();
    restore(dir.path());
    let db = Db::open(dir.path()).unwrap();
    db.guard(|c| c.execute("UPDATE attempt SET state = 'teleported'", [])).unwrap();
    assert!(db.all_attempts(1).unwrap().iter().all(|a| a.state == AttemptState::Lost));
    assert!(db.live_attempts(1).unwrap().is_empty());
}
