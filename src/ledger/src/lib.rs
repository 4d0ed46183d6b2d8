//! Tasks, attempts, leases, reconcile: the state machine and its SQLite file.
