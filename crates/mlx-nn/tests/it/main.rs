//! mlx-nn against goldens of MLX for Python (see `tests/parity/nn.py`), and its loading rules.

mod activation;
mod attention;
mod golden;
mod layers;
mod linear;
mod load;
mod loss;
mod optimizer;
mod rope;
mod switch;
mod train;
