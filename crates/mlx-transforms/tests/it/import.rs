//! Functions from files, called with other shapes than their traces have: right, or an error, but
//! never a read outside an array.

use std::path::Path;
use std::process::Command;

use mlx_core::ops::{indexing, linalg, reduction};
use mlx_core::{Array, Dtype, Error, Result, array};
use mlx_transforms::{ExportOptions, Exporter, ImportedFunction, Keywords, export_function};

use crate::export::import;

/// `f`, exported shapeless for each list of arguments, and read back.
fn shapeless(
    f: impl Fn(&[Array]) -> Result<Array> + 'static,
    traces: &[&[Array]],
) -> Result<ImportedFunction> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let options = ExportOptions::default().shapeless(true);
    let mut exporter = Exporter::new(&path, move |xs, _| Ok(vec![f(xs)?]), &options)?;
    for args in traces {
        exporter.trace(args)?;
    }
    exporter.finish()?;
    // The function keeps the file open.
    import(&path)
}

fn ramp(dims: &[i32]) -> Array {
    let size: i32 = dims.iter().product();
    Array::arange::<f32>(1.0, f64::from(size) + 1.0, 1.0)
        .unwrap()
        .reshape(&dims)
        .unwrap()
}

fn refused(result: Result<Vec<Array>>) {
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with("import_function("), "{text}");
    assert!(
        text.contains("Export this function without `shapeless`"),
        "{text}"
    );
}

#[test]
fn products_check_their_inner_dimensions() -> Result<()> {
    let weight = ramp(&[3, 4]);
    let f = shapeless(
        |xs| xs[0].matmul(&xs[1]),
        &[&[ramp(&[2, 3]), weight.clone()]],
    )?;
    for _ in 0..2 {
        refused(f.call(&[ramp(&[2, 100]), weight.clone()]));
        refused(f.call(&[ramp(&[2, 1]), weight.clone()]));
        for rows in [1, 2, 5] {
            let x = ramp(&[rows, 3]);
            let found = f.call(&[x.clone(), weight.clone()])?;
            let wanted = x.matmul(&weight)?.to_vec::<f32>()?;
            assert_eq!(found[0].to_vec::<f32>()?, wanted);
        }
    }
    Ok(())
}

#[test]
fn reductions_over_axes_of_size_one_follow_their_length() -> Result<()> {
    let f = shapeless(
        |xs| reduction::sum_axes(&xs[0], &[1], false),
        &[&[ramp(&[3, 1])]],
    )?;
    for dims in [[3, 1], [3, 5], [1, 1], [7, 1]] {
        let x = ramp(&dims);
        let wanted = reduction::sum_axes(&x, &[1], false)?.to_vec::<f32>()?;
        assert_eq!(f.call(&[x])?[0].to_vec::<f32>()?, wanted);
    }
    Ok(())
}

#[test]
fn indices_limited_to_one_length_serve_no_other() -> Result<()> {
    let f = shapeless(
        |xs| indexing::take(&xs[0], &xs[1], 0),
        &[&[ramp(&[5]), array!([0, 1])?]],
    )?;
    refused(f.call(&[ramp(&[2]), array!([0, 1])?]));
    refused(f.call(&[ramp(&[50]), array!([0, 1])?]));
    let found = f.call(&[ramp(&[5]), array!([1, 4, 900])?])?;
    assert_eq!(found[0].to_vec::<f32>()?, [2.0, 5.0, 5.0]);
    Ok(())
}

/// Each trace is held to its own shapes, also where their listing is hard to read.
#[test]
fn traces_of_one_file_are_told_apart() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let model = |xs: &[Array], keywords: &Keywords| {
        let mut y = xs[0].clone();
        for weight in xs[1..].iter().chain(keywords.values()) {
            y = y.matmul(weight)?;
        }
        Ok(vec![y])
    };
    let name = "w\": (3,3) float32 \"";
    let named = |dims: &[i32]| Keywords::from([(name.to_owned(), ramp(dims))]);
    let options = ExportOptions::default().shapeless(true);
    let mut exporter = Exporter::new(&path, model, &options)?;
    exporter.trace(&[ramp(&[2, 3])])?;
    exporter.trace_with(&[ramp(&[2, 3])], &named(&[3, 1]))?;
    exporter.trace(&[ramp(&[2, 3]), ramp(&[3, 4]), ramp(&[4, 2])])?;
    let half = ramp(&[1, 1]).astype(Dtype::Float16)?;
    exporter.trace(&[half.clone(), half])?;
    exporter.finish()?;
    let f = import(&path)?;
    assert_eq!(f.call(&[ramp(&[7, 9])])?[0].shape(), [7, 9]);
    assert_eq!(
        f.call_with(&[ramp(&[7, 3])], &named(&[3, 1]))?[0].shape(),
        [7, 1]
    );
    let three = |inner| f.call(&[ramp(&[5, 3]), ramp(&[3, 4]), ramp(&[inner, 2])]);
    assert_eq!(three(4)?[0].shape(), [5, 2]);
    refused(three(5));
    refused(f.call_with(&[ramp(&[7, 30])], &named(&[3, 1])));
    Ok(())
}

/// A name may say anything about the traces of its file.
#[test]
fn names_that_spoil_the_listing_are_errors() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in [
        "a\": (1) float32\n   \"b",
        "a\n\nb",
        "\n",
        "a\n 9. Function with",
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(number.to_string());
        let keywords = Keywords::from([(name.to_owned(), ramp(&[3, 3]))]);
        for shapeless in [false, true] {
            let options = ExportOptions::default().shapeless(shapeless);
            let f = |xs: &[Array], keywords: &Keywords| {
                let weight = keywords.values().next();
                Ok(vec![xs[0].matmul(weight.unwrap_or(&xs[0]))?])
            };
            let mut exporter = Exporter::new(&path, f, &options)?;
            exporter.trace_with(&[ramp(&[2, 3])], &keywords)?;
            exporter.finish()?;
            let imported = import(&path);
            if shapeless {
                assert!(matches!(
                    imported,
                    Err(Error::Op { .. } | Error::Backend(_))
                ));
            } else {
                assert_eq!(
                    imported?.call_with(&[ramp(&[2, 3])], &keywords)?[0].shape(),
                    [2, 3]
                );
            }
        }
    }
    Ok(())
}

const FILE: &str = "MLX_TEST_IMPORTED_FILE";

/// Runs as a child of the next test only: a process that never recorded work that may fail.
#[test]
fn failure_in_an_imported_function_child() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let f = import(Path::new(&path)).unwrap();
    let inverse = f.call(&[Array::zeros::<f32>(&[2, 2]).unwrap()]).unwrap();
    for _ in 0..3 {
        assert!(inverse[0].to_vec::<f32>().is_err());
    }
    assert_eq!(
        f.call(&[array!([[2.0, 0.0], [0.0, 4.0]]).unwrap()])
            .unwrap()[0]
            .to_vec::<f32>()
            .unwrap(),
        [0.5, 0.0, 0.0, 0.25]
    );
}

#[test]
fn a_failure_in_an_imported_function_stays_with_its_arrays() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    export_function(&path, |xs| Ok(vec![linalg::inv(&xs[0])?]), &[ramp(&[2, 2])])?;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "import::failure_in_an_imported_function_child"])
        .env(FILE, &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
    Ok(())
}
