//! NumPy's formats: one array per `npy` file, a zip of named ones per `npz` file.
//!
//! Versions 1 to 3, every dtype that MLX has, both byte orders and both element
//! orders are read. As in MLX, `V2` stands for `Bfloat16`, which NumPy lacks.
//! Pickled objects, strings, dates and structured dtypes are refused.

mod file;
mod header;
mod npz;

pub use file::{decode_npy, load_npy, save_npy};
pub use npz::{NpzLimits, decode_npz, load_npz, load_npz_with, save_npz, save_npz_compressed};
