//! One test for each way in which MLX itself would crash or read foreign memory.

use mlx_core::ops::conv::ConvOptions;
use mlx_core::ops::fast::{AttentionMask, cross_entropy, scaled_dot_product_attention};
use mlx_core::ops::indexing::{
    diag, gather, put_along_axis, scatter, scatter_add_axis, slice_dynamic, slice_strided,
    slice_update_dynamic, take, take_along_axis, take_flat,
};
use mlx_core::ops::linalg_basic::{gather_mm, segmented_mm};
use mlx_core::ops::shape::{reshape, split, unflatten};
use mlx_core::{Array, Dtype, Error, async_eval, eval};

fn range(n: i32) -> Array {
    Array::arange::<f32>(0.0, f64::from(n), 1.0).unwrap()
}

fn ints(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

/// An index array that is not computed yet.
fn lazy(values: &[i32]) -> Array {
    (&ints(values) + 0).unwrap()
}

#[test]
fn take_refuses_known_indices_outside() {
    for index in [4, -5, i32::MAX, i32::MIN] {
        let error = take(&range(4), &ints(&[0, index]), 0).unwrap_err();
        assert!(
            matches!(error, Error::OutOfBounds { size: 4, .. }),
            "{error}"
        );
        assert!(take_flat(&range(4), &ints(&[index])).is_err());
    }
}

#[test]
fn lazy_indices_outside_give_elements_of_the_array() {
    let y = take(&range(4), &lazy(&[9, -9, 2]), 0).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0, 0.0, 2.0]);
    let unsigned = lazy(&[900]).astype(Dtype::Uint32).unwrap();
    assert_eq!(
        take(&range(4), &unsigned, 0)
            .unwrap()
            .to_vec::<f32>()
            .unwrap(),
        [3.0]
    );
    let narrow = lazy(&[-128, 127]).astype(Dtype::Int8).unwrap();
    let long = range(300);
    assert_eq!(
        take(&long, &narrow, 0).unwrap().to_vec::<f32>().unwrap(),
        [172.0, 127.0]
    );
}

#[test]
fn take_of_an_empty_axis_is_an_error() {
    assert!(take(&Array::zeros::<f32>(&[0]).unwrap(), &ints(&[0]), 0).is_err());
    assert!(take(&range(3), &Array::from_slice(&[0.5f32], &[1]).unwrap(), 0).is_err());
}

#[test]
fn take_and_put_along_axis_stay_inside() {
    let x = reshape(&range(6), &[2, 3]).unwrap();
    let bad = Array::from_slice(&[0, 3], &[2, 1]).unwrap();
    assert!(take_along_axis(&x, &bad, 1).is_err());
    assert!(put_along_axis(&x, &bad, &Array::scalar(1.0f32).unwrap(), 1).is_err());
    assert!(scatter_add_axis(&x, &bad, &Array::ones::<f32>(&[2, 1]).unwrap(), 1).is_err());
    let lazy_bad = (&bad + 1000).unwrap();
    let y = take_along_axis(&x, &lazy_bad, 1).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [2.0, 5.0]);
    let z = put_along_axis(&x, &lazy_bad, &Array::scalar(-1.0f32).unwrap(), 1).unwrap();
    assert_eq!(z.to_vec::<f32>().unwrap(), [0.0, 1.0, -1.0, 3.0, 4.0, -1.0]);
}

#[test]
fn gather_and_scatter_slices_stay_inside() {
    let x = range(5);
    assert!(gather(&x, &[&ints(&[7])], &[0], &[1]).is_err());
    assert!(gather(&x, &[&ints(&[0])], &[0], &[6]).is_err());
    let tail = gather(&x, &[&ints(&[4])], &[0], &[2]).unwrap();
    assert_eq!(tail.to_vec::<f32>().unwrap(), [3.0, 4.0]);
    let updates = Array::ones::<f32>(&[1, 2]).unwrap();
    let y = scatter(&x, &[&ints(&[4])], &updates, &[0]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 1.0, 1.0]);
    assert!(
        scatter(
            &x,
            &[&ints(&[0])],
            &Array::ones::<f32>(&[1, 9]).unwrap(),
            &[0]
        )
        .is_err()
    );
}

#[test]
fn dynamic_slices_stay_inside() {
    let x = range(5);
    let y = slice_dynamic(&x, &lazy(&[100]), &[0], &[2]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0, 4.0]);
    let z = slice_update_dynamic(&x, &Array::zeros::<f32>(&[2]).unwrap(), &lazy(&[-7]), &[0]);
    assert_eq!(
        z.unwrap().to_vec::<f32>().unwrap(),
        [0.0, 0.0, 2.0, 3.0, 4.0]
    );
    assert!(slice_dynamic(&x, &ints(&[0]), &[0], &[6]).is_err());
}

#[test]
fn matrix_products_by_index_and_segment_stay_inside() {
    let a = Array::ones::<f32>(&[2, 2, 2]).unwrap();
    assert!(gather_mm(&a, &a, None, Some(&ints(&[0, 2])), false).is_err());
    let m = Array::ones::<f32>(&[2, 4]).unwrap();
    let n = Array::ones::<f32>(&[4, 3]).unwrap();
    let segments = Array::from_slice(&[0u32, 900, 3, 1], &[2, 2]).unwrap();
    let y = segmented_mm(&m, &n, &segments).unwrap();
    assert_eq!(y.shape(), [2, 2, 3]);
    assert_eq!(y.to_vec::<f32>().unwrap()[..6], [4.0; 6]);
    assert_eq!(y.to_vec::<f32>().unwrap()[6..], [0.0; 6]);
}

#[test]
fn cross_entropy_targets_stay_inside() {
    let logits = Array::zeros::<f32>(&[2, 3]).unwrap();
    assert!(cross_entropy(&logits, &ints(&[0, 3])).is_err());
    let y = cross_entropy(&logits, &lazy(&[0, 99])).unwrap();
    assert!(
        y.to_vec::<f32>()
            .unwrap()
            .iter()
            .all(|loss| (loss - 3f32.ln()).abs() < 1e-6)
    );
}

#[test]
fn strided_views_stay_inside() {
    let x = range(6);
    assert!(x.as_strided(&[3], &[2], 2).is_err());
    assert!(x.as_strided(&[2], &[-1], 0).is_err());
    assert!(x.as_strided(&[2], &[i64::MAX], 0).is_err());
    assert!(x.as_strided(&[2, 3], &[1, 2], 1).is_err());
    let y = x.as_strided(&[2, 3], &[1, 2], 0).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(
        x.as_strided(&[3], &[-2], 5)
            .unwrap()
            .to_vec::<f32>()
            .unwrap(),
        [5.0, 3.0, 1.0]
    );
}

#[test]
fn sizes_that_overflow_are_errors() {
    let big = 1 << 30;
    assert!(Array::zeros::<f32>(&[big, big, 4]).is_err());
    assert!(Array::full(&[big, big, big], 1.0f32).is_err());
    assert!(
        Array::scalar(1.0f32)
            .unwrap()
            .broadcast_to(&[big, big, big])
            .is_err()
    );
    assert!(range(4).tile(&[i32::MAX]).is_err());
    assert!(Array::zeros::<f32>(&[-1]).is_err());
}

#[test]
fn reshape_takes_one_inferred_dimension_and_no_other_negative() {
    assert!(reshape(&range(4), &[-2, -2]).is_err());
    assert!(reshape(&range(4), &[-1, -1]).is_err());
    assert!(reshape(&range(4), &[3]).is_err());
    assert!(unflatten(&range(4), 0, &[0, -1]).is_err());
    assert_eq!(unflatten(&range(4), 0, &[2, -1]).unwrap().shape(), [2, 2]);
}

#[test]
fn zero_steps_groups_and_heads_are_errors() {
    assert!(slice_strided(&range(4), &[0], &[4], &[0]).is_err());
    assert!(split(&range(4), 0, 0).is_err());
    let x = Array::ones::<f32>(&[1, 4, 2]).unwrap();
    let w = Array::ones::<f32>(&[2, 1, 2]).unwrap();
    for options in [
        ConvOptions::default().groups(0),
        ConvOptions::default().stride([0]),
        ConvOptions::default().dilation([-1]),
        ConvOptions::default().input_dilation([0]),
    ] {
        assert!(x.conv1d(&w, options).is_err());
    }
    let q = Array::ones::<f32>(&[1, 2, 3, 4]).unwrap();
    let kv = Array::ones::<f32>(&[1, 0, 3, 4]).unwrap();
    assert!(scaled_dot_product_attention(&q, &kv, &kv, 1.0, AttentionMask::None, None).is_err());
}

#[test]
fn integer_division_never_traps() {
    let (one, zero) = (Array::scalar(1i32).unwrap(), Array::scalar(0i32).unwrap());
    let (low, minus) = (
        Array::scalar(i32::MIN).unwrap(),
        Array::scalar(-1i32).unwrap(),
    );
    for (a, b) in [(&one, &zero), (&low, &minus)] {
        assert!(a.floor_divide(b).is_err());
        assert!(a.remainder(b).is_err());
        assert!(a.divmod(b).is_err());
    }
    assert_eq!(
        low.floor_divide(&one).unwrap().item::<i32>().unwrap(),
        i32::MIN
    );
    assert_eq!(
        one.divide(&zero).unwrap().item::<f32>().unwrap(),
        f32::INFINITY
    );
}

#[test]
fn far_diagonals_are_errors() {
    assert!(diag(&range(4), i32::MAX).is_err());
    assert!(diag(&reshape(&range(4), &[2, 2]).unwrap(), i32::MIN).is_err());
}

#[test]
fn lapack_never_ends_the_process() {
    let empty = Array::zeros::<f32>(&[0, 0]).unwrap();
    assert!(empty.inv().is_err());
    assert!(empty.svd(true).is_err());
    assert!(empty.eigh("L").is_err());
    let square = Array::eye::<f32>(2, 2, 0).unwrap();
    assert!(square.eigh("X").is_err());
    assert!(range(4).qr().is_err());
}

#[test]
fn failed_arrays_keep_their_error() {
    let singular = Array::zeros::<f32>(&[2, 2]).unwrap();
    let inverse = singular.inv().unwrap();
    for _ in 0..3 {
        assert!(inverse.to_vec::<f32>().is_err());
        assert!(eval(&[&inverse]).is_err());
    }
    let sum = inverse.sum(false).unwrap();
    assert!(sum.item::<f32>().is_err());
    assert_eq!(
        Array::scalar(2.0f32)
            .unwrap()
            .square()
            .unwrap()
            .item::<f32>()
            .unwrap(),
        4.0
    );
}

#[test]
fn failed_background_work_reaches_its_own_array() {
    let inverse = Array::zeros::<f32>(&[2, 2]).unwrap().inv().unwrap();
    let doubled = (&inverse * 2.0).unwrap();
    let sum = doubled.sum(false).unwrap();
    assert!(async_eval(&[&sum]).is_err());
    for array in [&inverse, &doubled, &inverse] {
        assert!(array.to_vec::<f32>().is_err());
    }
    assert!(sum.item::<f32>().is_err());
}

#[test]
fn bytes_viewed_as_bool_are_normal() {
    let bytes = Array::from_slice(&[0u8, 1, 7, 255], &[4]).unwrap();
    let view = bytes.view(Dtype::Bool).unwrap();
    assert_eq!(view.to_vec::<bool>().unwrap(), [false, true, true, true]);
    assert!(view.as_slice::<bool>().is_err());
}

#[test]
fn reads_check_the_dtype() {
    let x = range(2);
    assert!(matches!(
        x.to_vec::<i32>(),
        Err(Error::DtypeMismatch { .. })
    ));
    assert!(matches!(
        x.as_slice::<f64>(),
        Err(Error::DtypeMismatch { .. })
    ));
    assert!(x.item::<f32>().is_err());
}

#[test]
fn reads_work_for_any_strides() {
    let x = reshape(&range(6), &[2, 3]).unwrap();
    assert_eq!(
        x.transpose().unwrap().to_vec::<f32>().unwrap(),
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    );
    let broadcast = Array::scalar(7i64).unwrap().broadcast_to(&[2, 2]).unwrap();
    assert_eq!(broadcast.to_vec::<i64>().unwrap(), [7; 4]);
    assert_eq!(
        x.index(mlx_core::Index::slice(None, None, -1))
            .unwrap()
            .to_vec::<f32>()
            .unwrap()[0],
        3.0
    );
}

#[test]
fn empty_lists_are_errors_and_empty_evals_are_not() {
    assert!(matches!(
        mlx_core::ops::shape::concatenate(&[], 0),
        Err(Error::EmptyInput(_))
    ));
    assert!(matches!(
        mlx_core::ops::shape::stack(&[], 0),
        Err(Error::EmptyInput(_))
    ));
    eval(&[]).unwrap();
    async_eval(&[]).unwrap();
}

#[test]
fn affine_weights_without_biases_are_errors() {
    use mlx_core::ops::quantized::{QuantizationLayout, quantize, quantized_matmul};
    let w = Array::ones::<f32>(&[32, 64]).unwrap();
    let q = quantize(&w, QuantizationLayout::affine(64, 4)).unwrap();
    let x = Array::ones::<f32>(&[1, 64]).unwrap();
    let layout = QuantizationLayout::affine(64, 4);
    assert!(quantized_matmul(&x, &q.weight, &q.scales, None, true, layout).is_err());
    assert!(quantize(&w, QuantizationLayout::affine(64, 7)).is_err());
    let y = quantized_matmul(&x, &q.weight, &q.scales, q.biases.as_ref(), true, layout).unwrap();
    assert_eq!(y.shape(), [1, 32]);
}

#[test]
fn reductions_over_empty_transposed_axes_read_nothing() {
    let a = Array::ones::<f32>(&[3, 4]).unwrap();
    assert_eq!(a.trace(9, 0, 1).unwrap().item::<f32>().unwrap(), 0.0);
    let empty = Array::zeros::<f32>(&[0, 3]).unwrap();
    empty.eval().unwrap();
    let sum = empty.transpose().unwrap().sum_axes(&[1], false).unwrap();
    assert_eq!(sum.to_vec::<f32>().unwrap(), [0.0; 3]);
    assert_eq!(empty.prod(false).unwrap().item::<f32>().unwrap(), 1.0);
    assert!(empty.all(false).unwrap().item::<bool>().unwrap());
    let any = empty.any_axes(&[0], false).unwrap();
    assert_eq!(any.to_vec::<bool>().unwrap(), [false; 3]);
}

#[test]
fn scatters_of_nothing_change_nothing() {
    let a = Array::ones::<f32>(&[2, 3]).unwrap();
    let updates = Array::zeros::<f32>(&[1, 1, 0]).unwrap();
    let y = a.scatter(&[&ints(&[1])], &updates, &[0]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0; 6]);
}

#[test]
fn packed_weights_need_their_scales() {
    use mlx_core::ops::quantized::{QqmmScales, QuantizationLayout, QuantizationMode, qqmm};
    let x = Array::ones::<f32>(&[1, 64]).unwrap();
    let packed = Array::zeros::<u32>(&[4, 8]).unwrap();
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    assert!(qqmm(&x, &packed, QqmmScales::default(), layout).is_err());
}

#[test]
fn results_larger_than_memory_are_errors() {
    let long = Array::scalar(1.0f32)
        .unwrap()
        .broadcast_to(&[1 << 30])
        .unwrap();
    // Multiplied in 64 bits, this size would wrap to a small one.
    assert!(
        long.outer(&long)
            .and_then(|y| y.outer(&long))
            .and_then(|y| y.outer(&long))
            .is_err()
    );
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let terabytes = Array::zeros::<f32>(&[1 << 20, 1 << 20]).unwrap();
    for _ in 0..2 {
        assert!(terabytes.exp().unwrap().eval().is_err());
        assert!(terabytes.to_vec::<f32>().is_err());
        assert!(terabytes.to_bytes().is_err());
    }
    let view = Array::scalar(1u8)
        .unwrap()
        .broadcast_to(&[1 << 20, 1 << 20, 1 << 8]);
    assert!(view.unwrap().nonzero().is_err());
    let sound = Array::ones::<f32>(&[3]).unwrap().sum(false).unwrap();
    assert_eq!(sound.item::<f32>().unwrap(), 3.0);
}

#[test]
fn eigenvalues_of_nan_are_nan() {
    let a = Array::from_slice(
        &[1.0f32, 0.0, 0.0, 2.0, f32::NAN, 0.0, 0.0, 1.0],
        &[2, 2, 2],
    )
    .unwrap();
    let values = a
        .eigvals()
        .unwrap()
        .real()
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    assert_eq!(values[..2], [1.0, 2.0]);
    assert!(values[2..].iter().all(|value| value.is_nan()));
    assert!(a.eig().unwrap().1.eval().is_ok());
}

#[test]
fn splits_into_many_parts_stay_small() {
    let a = Array::arange::<i32>(0.0, 4096.0, 1.0).unwrap();
    let parts = a.split(2048, 0).unwrap();
    assert_eq!(parts[2047].to_vec::<i32>().unwrap(), [4094, 4095]);
    assert_eq!(a.unstack(0).unwrap()[77].item::<i32>().unwrap(), 77);
    let cuts: Vec<i32> = (1..300).collect();
    let parts = a.split_at(&cuts, 0).unwrap();
    assert_eq!(parts.len(), 300);
    assert_eq!(parts[299].shape(), [4096 - 299]);
    assert!(a.split(i32::MAX, 0).is_err());
    let long = Array::scalar(1.0f32).unwrap().broadcast_to(&[1 << 30]);
    let long = long.unwrap();
    assert!(long.unstack(0).is_err());
    assert!(long.split(1 << 29, 0).is_err());
}

#[test]
fn recurrences_without_heads_are_errors() {
    let empty = Array::zeros::<f32>(&[1, 2, 0, 2]).unwrap();
    let gates = Array::zeros::<f32>(&[1, 2, 0]).unwrap();
    let fused = mlx_core::ops::fast::gated_delta_update;
    assert!(fused(&empty, &empty, &empty, &gates, &gates, None, None).is_err());
}

#[test]
fn decompositions_of_infinity_are_errors() {
    let a = Array::from_slice(&[1.0f32, f32::INFINITY, -f32::INFINITY, 2.0], &[2, 2]).unwrap();
    assert!(a.svd(true).unwrap()[0].eval().is_err());
    // LAPACK may also answer, but then with nothing that looks like a number.
    if let Ok(values) = a.eigvalsh("L").unwrap().to_vec::<f32>() {
        assert!(values.iter().all(|value| !value.is_finite()), "{values:?}");
    }
    assert!(a.pinv().unwrap().eval().is_err());
    assert!(a.norm_p(2.0, None, false).unwrap().eval().is_err());
}

#[test]
fn padding_values_are_one_number() {
    use mlx_core::ops::shape::{PadMode, pad};
    let x = range(3);
    for value in [Array::zeros::<f32>(&[0]), Array::zeros::<f32>(&[2])] {
        assert!(pad(&x, &[(1, 1)], &value.unwrap(), PadMode::Constant).is_err());
    }
    let lazy = (Array::scalar(2i32).unwrap() + 0).unwrap();
    for value in [lazy.reshape(&[1, 1]).unwrap(), lazy] {
        let padded = pad(&x, &[(1, 2)], &value, PadMode::Constant).unwrap();
        assert_eq!(
            padded.to_vec::<f32>().unwrap(),
            [2.0, 0.0, 1.0, 2.0, 2.0, 2.0]
        );
    }
}

#[test]
fn divisors_from_rust_are_read_and_nothing_is_computed() {
    let two = Array::scalar(2i32).unwrap();
    let dividend = lazy(&[7, 9]);
    let quotient = dividend.floor_divide(&two).unwrap();
    assert!(!dividend.is_available());
    assert_eq!(quotient.to_vec::<i32>().unwrap(), [3, 4]);
    let minus = Array::scalar(-1i32).unwrap();
    assert!(lazy(&[7, i32::MIN]).remainder(&minus).is_err());
    assert!(dividend.remainder(&lazy(&[1, 0])).is_err());
    assert!(dividend.divmod(&Array::scalar(0u8).unwrap()).is_err());
}
