//! Writing a module's arrays under their keys.

use std::{collections::HashMap, path::Path};

use mlx_core::{Array, io};

use crate::{
    Descend, Error, KeyPath, Module, Result, Visitor, Weight, module::parameters::parameters,
};

/// Writes every array of a module to a safetensors file that [`load_weights`](crate::load_weights)
/// and MLX for Python read, with the text `metadata` in its header.
///
/// # Errors
/// [`Error::NotLoaded`] if a layer holds nothing to save; [`Error::Core`] if evaluation or
/// writing fails.
pub fn save_weights(
    module: &dyn Module,
    path: impl AsRef<Path>,
    metadata: &HashMap<String, String>,
) -> Result<()> {
    check_loaded(module)?;
    Ok(io::save_safetensors(path, &parameters(module), metadata)?)
}

/// Writes every array of a module to an npz file, which NumPy and MLX for Python read.
///
/// # Errors
/// As [`save_weights`]; NumPy has no bfloat16.
pub fn save_weights_npz(module: &dyn Module, path: impl AsRef<Path>) -> Result<()> {
    check_loaded(module)?;
    let arrays = parameters(module);
    Ok(io::save_npz(path, &arrays)?)
}

fn check_loaded(module: &dyn Module) -> Result<()> {
    let mut unloaded = Unloaded(None);
    module.visit(&KeyPath::root(), &mut unloaded);
    unloaded.0.map_or(Ok(()), Err)
}

/// Finds the first weight without arrays, which would be missing from the file.
struct Unloaded(Option<Error>);

impl<'a> Visitor<'a> for Unloaded {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        let base = match weight {
            Weight::Adapted(adapted) => adapted.base(),
            other => other,
        };
        if let Weight::Unloaded { .. } = base
            && self.0.is_none()
        {
            self.0 = Some(Error::weight(
                path.child("weight").to_string(),
                "not loaded, so it cannot be saved",
            ));
        }
        Descend::Over
    }
}
