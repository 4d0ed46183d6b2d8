//! Job file -> matrix -> graph of tasks with content keys.
