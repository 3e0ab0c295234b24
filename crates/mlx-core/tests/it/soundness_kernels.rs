//! Operands that MLX's CPU kernels plan or count wrongly.

use std::process::Command;

use mlx_core::ops::fast::{layer_norm, rms_norm};
use mlx_core::ops::linalg::{norm, norm_p};
use mlx_core::ops::linalg_basic::{einsum, segmented_mm, vecdot};
use mlx_core::{Array, eval};

/// Tells a test that it runs in a process of its own.
const ALONE: &str = "MLX_TEST_ALONE";

fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Runs another test of this file in a process of its own, which must survive it.
fn alone(test: &str, variable: &str, value: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("soundness_kernels::{test}"),
            "--nocapture",
        ])
        .env(ALONE, "1")
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    // BLAS leaves with success; whoever gets to the end says so.
    assert!(
        output.status.success() && text.contains("survived"),
        "{} {text}",
        output.status
    );
}

/// `[rows, columns]`, of which one is zero, in transposed order.
fn transposed(rows: i32, columns: i32) -> Array {
    let empty = Array::zeros::<f32>(&[columns, rows]).unwrap();
    empty.eval().unwrap();
    empty.transpose().unwrap()
}

fn floats(array: mlx_core::Result<Array>) -> Vec<f32> {
    array.unwrap().to_vec::<f32>().unwrap()
}

/// Other tests would record LAPACK's work, whose errors are looked for from then on.
#[test]
fn spectral_norms_alone() {
    if !is_alone() {
        return;
    }
    let bad = Array::full::<f32>(&[2, 2], f32::NAN).unwrap();
    for ord in [2.0, -2.0] {
        let norm = norm_p(&bad, ord, None, false).unwrap();
        for _ in 0..3 {
            assert!(norm.item::<f32>().is_err());
            assert!(eval(&[&norm]).is_err());
        }
        let fine = Array::ones::<f32>(&[3]).unwrap().sum(false).unwrap();
        assert_eq!(fine.item::<f32>().unwrap(), 3.0);
    }
    println!("survived");
}

#[test]
fn spectral_norms_keep_their_error() {
    alone("spectral_norms_alone", "MLX_CPU_KERNELS", "");
    let a = Array::from_slice(&[3.0f32, 0.0, 0.0, 4.0], &[2, 2]).unwrap();
    for (ord, wanted) in [(2.0, 4.0), (-2.0, 3.0)] {
        let norm = floats(norm_p(&a, ord, Some(&[1, 0]), true))[0];
        assert!((norm - wanted).abs() < 1e-6, "{norm}");
    }
}

#[test]
fn reductions_inside_other_operations_read_nothing_of_empty_arrays() {
    assert_eq!(floats(norm(&transposed(3, 0), Some(&[1]), false)), [0.0; 3]);
    assert_eq!(floats(norm(&transposed(0, 3), Some(&[0]), false)), [0.0; 3]);
    assert_eq!(
        floats(norm_p(&transposed(3, 0), 1.0, Some(&[1]), false)),
        [0.0; 3]
    );
    for shape in [[3, 0], [0, 3]] {
        let x = transposed(shape[0], shape[1]);
        assert!(floats(rms_norm(&x, None, 1e-5)).is_empty());
        assert!(floats(layer_norm(&x, None, None, 1e-5)).is_empty());
        assert!(floats(x.softmax(&[0])).is_empty());
        assert_eq!(
            floats(x.mean_axes(&[1], true)).len(),
            usize::try_from(shape[0]).unwrap()
        );
    }
    let (a, b) = (transposed(3, 0), transposed(3, 0));
    assert_eq!(floats(vecdot(&a, &b, -1)), [0.0; 3]);
    assert_eq!(floats(einsum("ij,ij->i", &[&a, &b])), [0.0; 3]);
    assert_eq!(floats(einsum("ij->i", &[&a])), [0.0; 3]);
    assert_eq!(floats(transposed(0, 3).var_axes(&[0], false, 0)).len(), 3);
}

#[test]
fn reductions_of_more_elements_than_an_int_counts_are_errors() {
    let yes = Array::scalar(true).unwrap();
    // Counted in 32 bits these would be none.
    let many = yes.broadcast_to(&[1 << 16, 1 << 16]).unwrap();
    let sum = many.sum(false).unwrap();
    for _ in 0..2 {
        let error = sum.item::<i32>().unwrap_err().to_string();
        assert!(error.contains("more elements"), "{error}");
    }
    let apart = yes.broadcast_to(&[1 << 12, 1 << 12, 1 << 12]).unwrap();
    assert!(apart.any_axes(&[0, 2], false).unwrap().eval().is_err());
    let fine = Array::ones::<f32>(&[3]).unwrap().sum(false).unwrap();
    assert_eq!(fine.item::<f32>().unwrap(), 3.0);
}

#[test]
fn products_of_more_elements_than_an_int_counts_are_errors() {
    for dtype in [mlx_core::Dtype::Float32, mlx_core::Dtype::Float64] {
        let one = Array::ones_dtype(&[1, 1], dtype).unwrap();
        let many = one.broadcast_to(&[1 << 16, 1 << 16]).unwrap();
        let vector = one.broadcast_to(&[1 << 16, 1]).unwrap();
        let error = many
            .matmul(&vector)
            .unwrap()
            .eval()
            .unwrap_err()
            .to_string();
        assert!(error.contains("more elements"), "{error}");
    }
}

/// Without our kernels, the BLAS that MLX brings multiplies.
#[test]
fn segments_of_nothing_alone() {
    if !is_alone() {
        return;
    }
    let segments = Array::from_slice(&[0u32, 2, 1, 4], &[2, 2]).unwrap();
    for (rows, columns) in [(0, 3), (3, 0), (0, 0)] {
        let a = Array::ones::<f32>(&[rows, 4]).unwrap();
        let b = Array::ones::<f32>(&[4, columns]).unwrap();
        let y = segmented_mm(&a, &b, &segments).unwrap();
        assert_eq!(y.shape(), [2, rows, columns]);
        assert!(y.to_vec::<f32>().unwrap().is_empty());
    }
    println!("survived");
}

#[test]
fn segments_of_nothing_are_nothing() {
    for kernels in ["off", ""] {
        alone("segments_of_nothing_alone", "MLX_CPU_KERNELS", kernels);
    }
}
