//! MLX for Rust: text embeddings
