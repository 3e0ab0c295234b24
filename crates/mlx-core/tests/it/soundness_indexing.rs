//! Masks, index arrays of every dtype, and none at all: what MLX would read or write elsewhere.

use mlx_core::ops::indexing::{
    checked_indices, gather, masked_scatter, scatter, scatter_add, scatter_max, scatter_min,
    scatter_prod,
};
use mlx_core::ops::linalg_basic::gather_mm;
use mlx_core::ops::quantized::{GatherIndices, QuantizationLayout, gather_qmm, quantize};
use mlx_core::{Array, Dtype, Error};

fn range(n: i32, shape: &[i32]) -> Array {
    let numbers = Array::arange::<f32>(0.0, f64::from(n), 1.0).unwrap();
    numbers.reshape(shape).unwrap()
}

fn ints(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

fn mask(values: &[bool]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

/// The same, not computed yet.
fn lazy(array: &Array) -> Array {
    array.flip().unwrap().flip().unwrap()
}

fn floats(array: mlx_core::Result<Array>) -> Vec<f32> {
    array.unwrap().to_vec::<f32>().unwrap()
}

#[test]
fn masks_take_the_elements_in_order() {
    let a = range(6, &[2, 3]);
    let wide = Array::from_slice(&[true, false, true, false, true, false], &[2, 3]).unwrap();
    let src = Array::from_slice(&[-1i32, -2, -3, -4], &[4]).unwrap();
    let wanted = [-1.0, 1.0, -2.0, 3.0, -3.0, 5.0];
    assert_eq!(floats(masked_scatter(&a, &wide, &src)), wanted);
    assert_eq!(floats(masked_scatter(&a, &lazy(&wide), &src)), wanted);
    // Whole rows, of which a source may be one for each place, a column of them, or one for all.
    let rows = mask(&[true, true]);
    let scatter = |src: &Array| floats(masked_scatter(&a, &rows, src));
    assert_eq!(scatter(&range(6, &[2, 3])), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(scatter(&range(2, &[2, 1])), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(scatter(&range(3, &[3])), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
    assert_eq!(scatter(&range(1, &[])), [0.0; 6]);
    let one = Array::scalar(3.0f32).unwrap();
    let yes = Array::scalar(true).unwrap();
    assert_eq!(floats(masked_scatter(&one, &yes, &range(2, &[2]))), [0.0]);
}

#[test]
fn masks_that_ask_for_more_than_there_is_are_errors() {
    let a = range(4, &[4]);
    let on = mask(&[true, false, true, true]);
    let two = Array::from_slice(&[8.0f32, 9.0], &[2]).unwrap();
    let none = range(0, &[0]);
    for src in [&two, &none] {
        let error = masked_scatter(&a, &on, src).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let mine = masked_scatter(&a, &lazy(&on), &two);
    assert_eq!(floats(mine), [8.0, 1.0, 9.0, 9.0]);
    assert_eq!(
        floats(masked_scatter(&a, &lazy(&on), &none)),
        [0.0, 1.0, 2.0, 3.0]
    );
    let off = mask(&[false; 4]);
    assert_eq!(
        floats(masked_scatter(&a, &off, &none)),
        [0.0, 1.0, 2.0, 3.0]
    );
    let empty = range(0, &[4, 0]);
    let few = range(0, &[1, 0]);
    assert_eq!(masked_scatter(&empty, &on, &few).unwrap().shape(), [4, 0]);
}

#[test]
fn masks_and_sources_of_other_shapes_are_errors() {
    let a = range(6, &[2, 3]);
    for (mask_shape, src_shape) in [
        (&[3][..], &[3][..]),
        (&[2, 3, 1], &[6]),
        (&[2, 3], &[6, 1]),
        (&[2], &[2, 2]),
        (&[2], &[4]),
    ] {
        let mask = Array::ones::<bool>(mask_shape).unwrap();
        let src = Array::ones::<f32>(src_shape).unwrap();
        let result = masked_scatter(&a, &mask, &src);
        assert!(result.is_err(), "{mask_shape:?} {src_shape:?}");
    }
    assert!(masked_scatter(&a, &ints(&[1, 0]), &a).is_err());
}

#[test]
fn negative_positions_of_matrices_count_from_the_end() {
    let a = range(12, &[3, 2, 2]);
    let b = Array::eye::<f32>(2, 2, 0)
        .unwrap()
        .reshape(&[1, 2, 2])
        .unwrap();
    let b = b.broadcast_to(&[3, 2, 2]).unwrap();
    let wanted = [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0];
    let first = ints(&[0, 0]);
    let back = ints(&[-1, -3]);
    for indices in [&back, &lazy(&back), &back.astype(Dtype::Int8).unwrap()] {
        assert_eq!(
            floats(gather_mm(&a, &b, Some(indices), Some(&first), false)),
            wanted
        );
        let chosen = gather_mm(&b, &a, Some(&first), Some(indices), false);
        assert_eq!(floats(chosen), wanted);
    }
    let far = ints(&[-100, 100]);
    let limited = floats(gather_mm(&a, &b, Some(&lazy(&far)), Some(&first), false));
    assert_eq!(limited[..], [0.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]);
    assert!(gather_mm(&a, &b, Some(&far), Some(&first), false).is_err());
}

#[test]
fn negative_positions_of_packed_matrices_count_from_the_end() {
    let layout = QuantizationLayout::affine(64, 8);
    let levels = range(3, &[3, 1, 1]).broadcast_to(&[3, 4, 64]).unwrap();
    let packed = quantize(&levels, layout).unwrap();
    let x = Array::ones::<f32>(&[1, 1, 64]).unwrap();
    for indices in [ints(&[-1, -2]), lazy(&ints(&[-1, -2]))] {
        let indices = GatherIndices {
            rhs: Some(&indices),
            ..GatherIndices::default()
        };
        let biases = packed.biases.as_ref();
        let y = gather_qmm(
            &x,
            &packed.weight,
            &packed.scales,
            biases,
            indices,
            true,
            layout,
        );
        let y = floats(y);
        assert!(
            (y[0] - 128.0).abs() < 1e-2 && (y[4] - 64.0).abs() < 1e-2,
            "{y:?}"
        );
    }
}

#[test]
fn indices_of_every_dtype_choose_slices() {
    let x = range(5, &[5]);
    let dtypes = [
        Dtype::Uint8,
        Dtype::Uint16,
        Dtype::Uint32,
        Dtype::Uint64,
        Dtype::Int64,
    ];
    for dtype in dtypes {
        let starts = ints(&[1, 4]).astype(dtype).unwrap();
        for starts in [lazy(&starts), {
            starts.eval().unwrap();
            starts
        }] {
            let y = gather(&x, &[&starts], &[0], &[2]);
            assert_eq!(floats(y), [1.0, 2.0, 3.0, 4.0], "{dtype}");
        }
    }
}

#[test]
fn checked_indices_have_room_to_count_a_batch() {
    for (narrow, wide) in [
        (Dtype::Uint8, Dtype::Uint32),
        (Dtype::Uint16, Dtype::Uint32),
        (Dtype::Int8, Dtype::Int32),
        (Dtype::Int16, Dtype::Int32),
        (Dtype::Uint64, Dtype::Int64),
        (Dtype::Uint32, Dtype::Uint32),
    ] {
        let indices = ints(&[3, 0]).astype(narrow).unwrap();
        for size in [4, 400] {
            let checked = checked_indices(&indices, size).unwrap();
            assert_eq!(checked.dtype(), wide);
            assert_eq!(
                checked
                    .astype(Dtype::Int32)
                    .unwrap()
                    .to_vec::<i32>()
                    .unwrap(),
                [3, 0]
            );
        }
    }
    let huge = Array::from_slice(&[u64::MAX, 1 << 63], &[2]).unwrap();
    assert!(checked_indices(&huge, 4).is_err());
    let limited = checked_indices(&lazy(&huge), 4).unwrap();
    assert_eq!(limited.to_vec::<i64>().unwrap(), [3, 3]);
}

#[test]
fn without_indices_the_first_slice_is_meant() {
    let a = range(6, &[2, 3]);
    assert_eq!(floats(gather(&a, &[], &[], &[2, 1])), [0.0, 3.0]);
    let two = Array::full::<f32>(&[1, 2], 2.0).unwrap();
    assert_eq!(
        floats(scatter(&a, &[], &two, &[])),
        [2.0, 2.0, 2.0, 3.0, 4.0, 5.0]
    );
    assert_eq!(
        floats(scatter_add(&a, &[], &two, &[])),
        [2.0, 3.0, 2.0, 3.0, 4.0, 5.0]
    );
    assert_eq!(
        floats(scatter_prod(&a, &[], &two, &[])),
        [0.0, 2.0, 2.0, 3.0, 4.0, 5.0]
    );
    assert_eq!(
        floats(scatter_max(&a, &[], &two, &[])),
        [2.0, 2.0, 2.0, 3.0, 4.0, 5.0]
    );
    assert_eq!(
        floats(scatter_min(&a, &[], &two, &[])),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    );
    let one = Array::scalar(3.0f32).unwrap();
    assert_eq!(
        floats(scatter_add(&one, &[], &Array::scalar(4).unwrap(), &[])),
        [7.0]
    );
    assert!(scatter(&a, &[], &two.reshape(&[1, 1, 2]).unwrap(), &[]).is_err());
}
