//! The architectures, one file each, named after their `model_type`.

pub mod bert;
