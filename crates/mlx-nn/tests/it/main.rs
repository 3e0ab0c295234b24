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
mod optimizer_state;
mod rope;
mod step;
mod summary;
mod switch;
mod train;
#[cfg(feature = "train")]
mod trainer;
#[cfg(feature = "train")]
mod trainer_killed;
#[cfg(feature = "train")]
mod trainer_resume;
