//! Functions in files: ours read back, and Python's.

use std::path::{Path, PathBuf};
use std::thread;

use mlx_core::{Array, Dtype, Error, Result, array};
use mlx_transforms::{
    ExportOptions, Exporter, ImportedFunction, Keywords, export_function, import_function,
};

/// A file that a test wrote, or that `tests/parity/export.py` did.
pub(crate) fn import(path: &Path) -> Result<ImportedFunction> {
    // SAFETY: MLX wrote the file, and nobody changes it.
    unsafe { import_function(path) }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/core/export")
        .join(name)
}

fn model(args: &[Array], keywords: &Keywords) -> Result<Vec<Array>> {
    let weight = array!([[1.0, -1.0], [2.0, 0.5]])?;
    let y = args[0].matmul(&weight)?;
    Ok(vec![match keywords.get("scale") {
        Some(scale) => (y * scale)?,
        None => y,
    }])
}

#[test]
fn several_traces_share_a_file() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.mlxfn");
    let options = ExportOptions::default().metadata("weights of Tuesday");
    let mut exporter = Exporter::new(&path, model, &options)?;
    let (row, rows) = (array!([[1.0, 2.0]])?, array!([[1.0, 2.0], [3.0, 4.0]])?);
    let scale = Keywords::from([("scale".to_owned(), array!(10.0)?)]);
    exporter.trace(&[row.clone()])?;
    exporter.trace(&[rows.clone()])?;
    exporter.trace_with(&[row.clone()], &scale)?;
    assert!(!path.exists(), "appears when it is whole");
    exporter.finish()?;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let f = import(&path)?;
    assert_eq!(f.metadata(), "weights of Tuesday");
    assert_eq!(f.call(&[row.clone()])?[0].to_vec::<f32>()?, [5.0, 0.0]);
    assert_eq!(f.call(&[rows])?[0].to_vec::<f32>()?, [5.0, 0.0, 11.0, -1.0]);
    assert_eq!(
        f.call_with(&[row.clone()], &scale)?[0].to_vec::<f32>()?,
        [50.0, 0.0]
    );
    for wrong in [
        f.call(&[]),
        f.call(&[array!([1.0, 2.0])?]),
        f.call(&[row.astype(Dtype::Int32)?]),
        f.call_with(&[row], &Keywords::from([("size".to_owned(), array!(1.0)?)])),
    ] {
        assert!(matches!(wrong, Err(Error::Op { .. })), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn shapeless_traces_serve_every_length() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let options = ExportOptions::default().shapeless(true);
    let mut exporter = Exporter::new(&path, |xs, _| Ok(vec![xs[0].exp()?]), &options)?;
    exporter.trace(&[array!([0.0])?])?;
    exporter.finish()?;
    let f = import(&path)?;
    assert_eq!(
        f.call(&[Array::zeros::<f32>(&[5])?])?[0].to_vec::<f32>()?,
        [1.0; 5]
    );
    assert!(f.call(&[array!(0.0)?]).is_err());
    Ok(())
}

#[test]
fn any_thread_may_call_an_imported_function() -> Result<()> {
    static_assertions::assert_impl_all!(ImportedFunction: Send, Sync);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let table = Array::arange::<f32>(0.0, 100.0, 1.0)?;
    table.eval()?;
    export_function(
        &path,
        move |xs| Ok(vec![(&xs[0] + &table)?.sum(false)?]),
        &[array!(0.0)?],
    )?;
    let f = import(&path)?;
    thread::scope(|scope| {
        for n in 0..4 {
            let f = &f;
            scope.spawn(move || {
                for i in 0..20 {
                    let x = (n * 20 + i) as f32;
                    let y = f.call(&[Array::scalar(x).unwrap()]).unwrap();
                    assert_eq!(y[0].item::<f32>().unwrap(), 4950.0 + 100.0 * x);
                }
            });
        }
    });
    Ok(())
}

/// Our own products have no name in the format; while a function is exported MLX's stand in.
#[test]
fn products_with_kernels_of_our_own_are_written_as_mlx_s() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let half = |n: f32, dims: &[i32]| Array::full::<f32>(dims, n)?.astype(Dtype::Float16);
    let weight = half(0.5, &[8, 4])?;
    weight.eval()?;
    export_function(
        &path,
        move |xs| Ok(vec![xs[0].matmul(&weight)?]),
        &[half(1.0, &[2, 8])?],
    )?;
    let y = import(&path)?.call(&[half(2.0, &[2, 8])?])?.remove(0);
    assert_eq!(y.astype(Dtype::Float32)?.to_vec::<f32>()?, [8.0; 8]);
    Ok(())
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_no_file() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let x = array!([1.0, 2.0])?;
    // Its bytes would be those of two elements, and whatever lies behind them.
    let spread = Array::scalar(1.0f32)?.broadcast_to(&[1000, 2])?;
    spread.eval()?;
    let result = export_function(&path, move |xs| Ok(vec![(&xs[0] + &spread)?]), &[x.clone()]);
    assert!(result.unwrap_err().to_string().contains("row-major"));
    let result = export_function(
        &path,
        |_| Err(Error::Backend("no".to_owned())),
        &[x.clone()],
    );
    assert_eq!(result.unwrap_err().to_string(), "no");
    let mut twice = Exporter::new(&path, |xs, _| Ok(xs.to_vec()), &ExportOptions::default())?;
    twice.trace(&[x.clone()])?;
    assert!(
        twice.trace(&[x.clone()]).is_err(),
        "the same arguments again"
    );
    drop(twice);
    assert!(
        Exporter::new(
            folder.path().join("no/such/folder"),
            model,
            &ExportOptions::default()
        )
        .is_err()
    );
    let custom = mlx_transforms::custom_vjp(|xs| Ok(xs.to_vec()), |_, c, _| Ok(c.to_vec()))?;
    assert!(export_function(&path, custom, &[x]).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(import(&path).is_err());
    Ok(())
}

/// Made by `tests/parity/export.py`, which also holds what Python computes.
#[test]
fn functions_of_python_run_here() -> Result<()> {
    let (golden, _) = mlx_core::io::load_safetensors(fixture("golden.safetensors"))?;
    let f = import(&fixture("function.mlxfn"))?;
    assert_eq!(f.metadata(), "from Python");
    let y = f.call(&[golden["x"].clone()])?.remove(0);
    assert_eq!(y.to_vec::<f32>()?, golden["y"].to_vec::<f32>()?);
    let scale = Keywords::from([("scale".to_owned(), golden["scale"].clone())]);
    let z = f.call_with(&[golden["x"].clone()], &scale)?.remove(0);
    assert_eq!(z.to_vec::<f32>()?, golden["z"].to_vec::<f32>()?);
    Ok(())
}
