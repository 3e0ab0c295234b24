//! Placeholders that a function smuggles out of its trace: errors, never crashes.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_core::{Array, Result, array, async_eval, eval};
use mlx_transforms::{ExportOptions, Exporter, Graph, compile, grad, vmap};

fn smuggle(
    into: &Rc<RefCell<Vec<Array>>>,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<> {
    let out = Rc::clone(into);
    move |xs: &[Array]| {
        let y = (&xs[0] * 2.0)?;
        out.borrow_mut().extend([xs[0].clone(), y.clone()]);
        Ok(vec![y])
    }
}

/// Everything that reads or uses an array, on one that has no value and never will.
fn expect_errors(leaked: &[Array]) {
    for array in leaked {
        assert!(array.eval().is_err());
        assert!(eval(&[array]).is_err());
        assert!(async_eval(&[array]).is_err());
        assert!(array.item::<f32>().is_err());
        assert!(array.to_vec::<f32>().is_err());
        assert!(array.as_slice::<f32>().is_err());
        assert!(array.to_slice::<f32>().is_err());
        assert!(array.elements::<f32>().is_err());
        assert!(array.to_bytes().is_err());
        assert!(array.to_string().contains('<'), "{array}");
        assert!(array.exp().unwrap().eval().is_err());
        assert!(!array.is_available());
        let _ = (format!("{array:?}"), array.shape(), array.dtype());
        assert!(Graph::new(&[array]).text().is_ok());
        // As a constant of other transforms.
        let constant = array.clone();
        let compiled = compile(move |xs: &[Array]| Ok(vec![(&xs[0] + &constant)?]), false).unwrap();
        let result = compiled(&[array!(1.0).unwrap()]);
        assert!(result.and_then(|out| out[0].eval()).is_err());
        let constant = array.clone();
        let slope = grad(
            move |xs: &[Array]| (&xs[0] * &constant)?.sum(false).map(|y| vec![y]),
            &[0],
        );
        let result = slope.unwrap()(&[array!(1.0).unwrap()]);
        assert!(result.and_then(|out| out[0].eval()).is_err());
        let constant = array.clone();
        let mapped = vmap(
            move |xs: &[Array]| Ok(vec![(&xs[0] + &constant)?]),
            &[Some(0)],
            &[Some(0)],
        );
        let result = mapped.unwrap()(&[array!([1.0, 2.0]).unwrap()]);
        assert!(result.and_then(|out| out[0].eval()).is_err());
    }
}

#[test]
fn of_vmap() {
    let leaked = Rc::default();
    let f = vmap(smuggle(&leaked), &[Some(0)], &[Some(0)]).unwrap();
    assert_eq!(
        f(&[array!([1.0, 2.0]).unwrap()]).unwrap()[0]
            .to_vec::<f32>()
            .unwrap(),
        [2.0, 4.0]
    );
    let leaked = leaked.take();
    assert_eq!(leaked.len(), 2);
    expect_errors(&leaked);
}

#[test]
fn of_compile() {
    let leaked = Rc::default();
    let f = compile(smuggle(&leaked), false).unwrap();
    f(&[array!(1.0).unwrap()]).unwrap();
    expect_errors(&leaked.take());
    // A trace that failed.
    let f = compile(
        {
            let inner = smuggle(&leaked);
            move |xs: &[Array]| {
                inner(xs)?;
                Err(mlx_core::Error::Backend("stop".to_owned()))
            }
        },
        false,
    )
    .unwrap();
    assert!(f(&[array!(1.0).unwrap()]).is_err());
    expect_errors(&leaked.take());
}

#[test]
fn of_an_export_and_into_one() {
    let folder = tempfile::tempdir().unwrap();
    let leaked = Rc::default();
    let f = smuggle(&leaked);
    let path = folder.path().join("f");
    let mut exporter = Exporter::new(&path, move |xs, _| f(xs), &ExportOptions::default()).unwrap();
    exporter.trace(&[array!(1.0).unwrap()]).unwrap();
    exporter.finish().unwrap();
    let leaked = leaked.take();
    expect_errors(&leaked);
    // MLX would write a constant's bytes from a null pointer.
    let constant = leaked[0].clone();
    let mut exporter = Exporter::new(
        folder.path().join("g"),
        move |xs, _| Ok(vec![(&xs[0] + &constant)?]),
        &ExportOptions::default(),
    )
    .unwrap();
    assert!(exporter.trace(&[array!(1.0).unwrap()]).is_err());
    assert!(
        exporter.trace(&[array!([1.0]).unwrap()]).is_err(),
        "the file is lost"
    );
    assert!(exporter.finish().is_err());
    assert!(!folder.path().join("g").exists());
}

/// The placeholders of gradients have values.
#[test]
fn of_grad_they_are_ordinary_arrays() {
    let leaked: Rc<RefCell<Vec<Array>>> = Rc::default();
    let f = grad(smuggle(&leaked), &[0]).unwrap();
    assert_eq!(
        f(&[array!(3.0).unwrap()]).unwrap()[0]
            .item::<f32>()
            .unwrap(),
        2.0
    );
    let leaked = leaked.take();
    assert_eq!(leaked[0].item::<f32>().unwrap(), 3.0);
    assert_eq!(leaked[1].item::<f32>().unwrap(), 6.0);
}
