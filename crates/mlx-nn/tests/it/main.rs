//! mlx-nn against goldens of MLX for Python (see `tests/parity/nn.py`), and its loading rules.

mod activation;
mod adapter;
mod attention;
mod golden;
mod init;
mod layers;
mod linear;
mod load;
mod loss;
mod optimizer;
mod rope;
mod step;
mod switch;
mod train;
#[cfg(feature = "train")]
mod trainer;
