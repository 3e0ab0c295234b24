//! What several crates do together, and what the Python peers make of the same input.
#![expect(
    clippy::unwrap_used,
    clippy::panic_in_result_fn,
    reason = "a test fails by panicking"
)]

mod adapters;
mod autograd_contract;
#[path = "../../crates/mlx-core/tests/it/calls.rs"]
mod calls;
mod cli_errors;
mod cpu_kernels;
mod cpu_packed;
mod damaged_files;
mod deep_graphs;
mod distributed;
mod distributed_nn;
mod gradients;
mod lm_gguf;
mod lm_parity;
mod minilm;
mod porting;
mod prompt_cache;
mod prose;
mod smollm2;
mod support;
mod tokenizers;
#[cfg(unix)]
mod transform_fuzz;
mod transform_soundness;
