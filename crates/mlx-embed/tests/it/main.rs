//! Behaviour of `mlx-embed`.
