//! Problem sets, splits, and code out of answers.
