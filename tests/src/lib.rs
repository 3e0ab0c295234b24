//! Cross-crate tests, parity with the Python peers, and leak checks.
