//! Run an untrusted program: limits, isolation, batches.
