//! What several crates do together, and what the Python peers make of the same input.
#![expect(
    clippy::unwrap_used,
    clippy::panic_in_result_fn,
    reason = "a test fails by panicking"
)]

mod autograd_contract;
mod cli_errors;
mod cpu_kernels;
mod damaged_files;
mod deep_graphs;
mod distributed;
mod lm_gguf;
mod lm_parity;
mod minilm;
mod porting;
mod prose;
mod smollm2;
mod support;
mod tokenizers;
mod transform_soundness;
