//! Calls written to a file and read back.

use mlx_core::{Array, Result};
use mlx_transforms::{ExportOptions, Exporter, import_function};

use super::hostile::Rng;
use super::{Call, varied};

/// A trace of the call, mostly shapeless, run on its own arrays and on those of later cases.
pub(super) fn replayed(call: Call, own: &[Array], count: u64, rng: &mut Rng) -> Result<Vec<Array>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("call");
    let options = ExportOptions::default().shapeless(rng.chance(80));
    let function = call.function();
    let mut exporter = Exporter::new(&path, move |given, _| function(given), &options)?;
    exporter.trace(own)?;
    exporter.finish()?;
    // SAFETY: MLX wrote the file just now, and nobody changes it; our ops limit their indices.
    let imported = unsafe { import_function(&path)? };
    let outputs = varied(call, own, count, |given| imported.call(given))?;
    // Constants are read when they are first needed, while the file is there.
    for output in outputs.iter().filter(|output| !super::large(output)) {
        let _ = output.eval();
    }
    Ok(outputs)
}
