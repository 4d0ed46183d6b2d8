//! Metrics with confidence intervals and paired tests.
