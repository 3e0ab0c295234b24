//! Packed weights whose parts do not fit would be read past their end by MLX's kernels.

use mlx_core::ops::quantized::{
    GatherIndices, QqmmScales, QuantizationLayout, QuantizationMode, Quantized, dequantize,
    dequantize_with_global_scale, from_fp8, gather_qmm, qqmm, quantize, quantized_matmul, to_fp8,
};
use mlx_core::{Array, Dtype, Error};

const LAYOUT: QuantizationLayout = QuantizationLayout {
    group_size: Some(64),
    bits: Some(4),
    mode: QuantizationMode::Affine,
};

fn ones(shape: &[i32]) -> Array {
    Array::ones::<f32>(shape).unwrap()
}

fn packed(shape: &[i32]) -> Quantized {
    quantize(&ones(shape), LAYOUT).unwrap()
}

fn is_shape<T>(result: &mlx_core::Result<T>) -> bool {
    matches!(result, Err(Error::Shape { .. }))
}

#[test]
fn scales_of_other_rows_than_the_weights_are_errors() {
    let x = ones(&[1, 64]);
    let Quantized { weight: w, .. } = packed(&[512, 64]);
    for shape in [&[1, 1][..], &[511, 1], &[512, 2], &[512], &[1, 512, 1], &[]] {
        let part = ones(shape);
        let product = quantized_matmul(&x, &w, &part, Some(&part), true, LAYOUT);
        assert!(is_shape(&product), "{shape:?}");
        let numbers = dequantize(&w, &part, Some(&part), LAYOUT, None);
        assert!(is_shape(&numbers), "{shape:?}");
    }
    let (scales, biases) = (ones(&[512, 1]), ones(&[1, 1]));
    assert!(is_shape(&quantized_matmul(
        &x,
        &w,
        &scales,
        Some(&biases),
        true,
        LAYOUT
    )));
    let y = quantized_matmul(&x, &w, &scales, Some(&scales), true, LAYOUT).unwrap();
    assert_eq!(y.shape(), [1, 512]);
}

#[test]
fn weights_without_rows_are_errors() {
    let w = Array::zeros::<u32>(&[8]).unwrap();
    let part = ones(&[1]);
    assert!(is_shape(&quantized_matmul(
        &ones(&[1, 64]),
        &w,
        &part,
        Some(&part),
        true,
        LAYOUT
    )));
}

#[test]
fn scales_of_other_rows_than_chosen_weights_are_errors() {
    let Quantized { weight: w, .. } = packed(&[3, 32, 64]);
    let x = ones(&[3, 1, 64]);
    let chosen = Array::from_slice(&[2u32], &[1]).unwrap();
    let indices = GatherIndices {
        rhs: Some(&chosen),
        ..GatherIndices::default()
    };
    for shape in [[3, 1, 1], [1, 32, 1], [3, 32, 2]] {
        let part = ones(&shape);
        let product = gather_qmm(&x, &w, &part, Some(&part), indices, true, LAYOUT);
        assert!(is_shape(&product), "{shape:?}");
    }
}

#[test]
fn both_sides_quantised_need_scales_for_each_group() {
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    let x = ones(&[1, 64]);
    let Quantized { weight, scales, .. } = quantize(&ones(&[32, 64]), layout).unwrap();
    let product = |scales: &Array| {
        let scales = QqmmScales {
            w: Some(scales),
            ..QqmmScales::default()
        };
        qqmm(&x, &weight, scales, layout)
    };
    assert!(is_shape(&product(&Array::zeros::<u8>(&[1, 4]).unwrap())));
    assert!(is_shape(&product(&ones(&[32, 4]))));
    assert_eq!(product(&scales).unwrap().shape(), [1, 32]);
    let global = Array::scalar(1.0f32).unwrap();
    let few = Array::zeros::<u8>(&[1, 4]).unwrap();
    assert!(is_shape(&dequantize_with_global_scale(
        &weight, &few, &global, None
    )));
}

#[test]
fn layouts_that_no_kernel_knows_are_errors() {
    use QuantizationMode::{Affine, Mxfp4, Mxfp8, Nvfp4};
    let w = ones(&[32, 128]);
    let layout = |mode, group, bits| QuantizationLayout {
        group_size: Some(group),
        bits: Some(bits),
        mode,
    };
    for wrong in [
        layout(Affine, 16, 4),
        layout(Affine, 64, 7),
        layout(Mxfp4, 64, 4),
        layout(Mxfp4, 32, 8),
        layout(Mxfp8, 32, 4),
        layout(Mxfp8, 128, 8),
        layout(Nvfp4, 32, 4),
        layout(Nvfp4, 16, 8),
    ] {
        assert!(is_shape(&quantize(&w, wrong)), "{wrong:?}");
        // Parts that would fit such a layout.
        let bits = wrong.bits.unwrap();
        let words = Array::zeros::<u32>(&[32, 4 * bits]).unwrap();
        let groups = 128 / wrong.group_size.unwrap();
        let (scales, biases) = if wrong.mode == Affine {
            let part = ones(&[32, groups]);
            (part.clone(), Some(part))
        } else {
            (Array::zeros::<u8>(&[32, groups]).unwrap(), None)
        };
        let product = quantized_matmul(
            &ones(&[1, 128]),
            &words,
            &scales,
            biases.as_ref(),
            true,
            wrong,
        );
        assert!(is_shape(&product), "{wrong:?}");
    }
    for right in [
        layout(Affine, 32, 3),
        layout(Mxfp8, 32, 8),
        layout(Nvfp4, 16, 4),
    ] {
        assert!(quantize(&w, right).is_ok(), "{right:?}");
    }
}

#[test]
fn rows_whose_bits_no_int_counts_are_errors() {
    let long = Array::scalar(1.0f32)
        .unwrap()
        .broadcast_to(&[1, 1 << 29])
        .unwrap();
    assert!(is_shape(&quantize(
        &long,
        QuantizationLayout::affine(64, 8)
    )));
    let words = Array::scalar(0u32)
        .unwrap()
        .broadcast_to(&[1, 1 << 27])
        .unwrap();
    let none = ones(&[1, 0]);
    assert!(is_shape(&dequantize(
        &words,
        &none,
        Some(&none),
        LAYOUT,
        None
    )));
}

#[test]
fn float64_is_refused_before_a_worker_finds_out() {
    let wide = Array::ones::<f64>(&[1, 64]).unwrap();
    let unsupported = |result: mlx_core::Result<Array>| {
        assert!(matches!(result, Err(Error::Unsupported(_))), "{result:?}");
    };
    unsupported(quantize(&wide, LAYOUT).map(|parts| parts.weight));
    let Quantized {
        weight,
        scales,
        biases,
    } = packed(&[32, 64]);
    let (x, biases) = (ones(&[1, 64]), biases.unwrap());
    let double = |part: &Array| part.astype(Dtype::Float64).unwrap();
    let product = |x: &Array, scales: &Array, biases: &Array| {
        quantized_matmul(x, &weight, scales, Some(biases), true, LAYOUT)
    };
    unsupported(product(&wide, &scales, &biases));
    unsupported(product(&x, &double(&scales), &biases));
    unsupported(product(&x, &scales, &double(&biases)));
    let indices = GatherIndices::default();
    unsupported(gather_qmm(
        &wide,
        &weight,
        &scales,
        Some(&biases),
        indices,
        true,
        LAYOUT,
    ));
    let mode = QuantizationLayout::of(QuantizationMode::Mxfp8);
    unsupported(qqmm(&wide, &wide, QqmmScales::default(), mode));
    // Only numbers for themselves may be wide.
    let numbers = dequantize(
        &weight,
        &double(&scales),
        Some(&double(&biases)),
        LAYOUT,
        None,
    );
    assert_eq!(numbers.unwrap().to_vec::<f64>().unwrap()[..2], [1.0, 1.0]);
}

#[test]
fn fp8_of_float64_reads_and_writes_whole_numbers() {
    let numbers = [1.0f64, -2.0, 0.5, 448.0, 0.0, 3.5, -0.25];
    let wide = Array::from_slice(&numbers, &[7]).unwrap();
    let narrow = wide.astype(Dtype::Float32).unwrap();
    let bytes = to_fp8(&wide).unwrap();
    assert_eq!(
        bytes.to_vec::<u8>().unwrap(),
        to_fp8(&narrow).unwrap().to_vec::<u8>().unwrap()
    );
    let back = from_fp8(&bytes, Dtype::Float64).unwrap();
    assert_eq!(back.dtype(), Dtype::Float64);
    assert_eq!(back.to_vec::<f64>().unwrap(), numbers);
}
