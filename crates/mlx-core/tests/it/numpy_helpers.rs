//! The helpers that NumPy's users look for.

use mlx_core::ops::conv::{ConvOptions, ConvolveMode, conv_general, convolve};
use mlx_core::ops::fft::{FftNorm, fft2, ifft2, irfft2, rfft2};
use mlx_core::ops::linalg_basic::einsum_path;
use mlx_core::ops::quantized::{dequantize_with_global_scale, quantize_with_global_scale};
use mlx_core::ops::reduction::{ScanOptions, cumsum};
use mlx_core::{Array, Dtype, Stream, broadcast_shapes, memory, result_type};

fn floats(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

/// The figures are those of `mlx.core.finfo`.
#[test]
fn float_limits_are_those_of_mlx() {
    let info = Dtype::Float16.finfo().unwrap();
    assert_eq!((info.bits, info.min, info.max), (16, -65504.0, 65504.0));
    assert_eq!(
        (info.eps, info.smallest_normal),
        (0.000_976_562_5, 6.103_515_625e-5)
    );
    let info = Dtype::Bfloat16.finfo().unwrap();
    assert_eq!(
        (info.max, info.eps),
        (3.389_531_389_251_535_5e38, 0.007_812_5)
    );
    assert_eq!(Dtype::Complex64.finfo().unwrap().bits, 32);
    assert_eq!(Dtype::Float64.finfo().unwrap().max, f64::MAX);
    assert!(Dtype::Int8.finfo().is_none());
}

#[test]
fn integer_limits_and_promotion() {
    let info = Dtype::Int8.iinfo().unwrap();
    assert_eq!((info.bits, info.min, info.max), (8, -128, 127));
    assert_eq!(Dtype::Uint64.iinfo().unwrap().max, u64::MAX);
    assert!(Dtype::Bool.iinfo().is_none());
    assert_eq!(Dtype::Uint64.promote(Dtype::Int8), Dtype::Float32);
    assert_eq!(Dtype::Float16.promote(Dtype::Bfloat16), Dtype::Float32);
    assert!(Dtype::Int8.can_cast(Dtype::Int16) && !Dtype::Float32.can_cast(Dtype::Int64));
    let (a, b) = (Array::scalar(1u8).unwrap(), Array::scalar(1i8).unwrap());
    assert_eq!(result_type(&[&a, &b]).unwrap(), Dtype::Int16);
    assert!(result_type(&[]).is_err());
}

/// `mlx.core.convolve` gives these.
#[test]
fn convolve_matches_mlx() {
    let (a, two, one_two) = (
        floats(&[1.0, 2.0, 3.0, 4.0]),
        floats(&[1.0, 1.0]),
        floats(&[1.0, 2.0]),
    );
    let values =
        |a: &Array, v: &Array, mode| convolve(a, v, mode).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values(&a, &two, ConvolveMode::Same), [1.0, 3.0, 5.0, 7.0]);
    assert_eq!(values(&a, &one_two, ConvolveMode::Valid), [4.0, 7.0, 10.0]);
    assert_eq!(
        values(&one_two, &a, ConvolveMode::Same),
        [1.0, 4.0, 7.0, 10.0]
    );
    assert!(convolve(&a, &floats(&[]), ConvolveMode::Full).is_err());
    let x = a.reshape(&[1, 4, 1]).unwrap();
    let w = two.reshape(&[1, 2, 1]).unwrap();
    let y = conv_general(&x, &w, ConvOptions::<1>::default()).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0, 5.0, 7.0]);
}

#[test]
fn two_dimensional_transforms_invert_each_other() {
    let x = Array::arange::<f32>(0.0, 12.0, 1.0)
        .unwrap()
        .reshape(&[3, 4])
        .unwrap();
    let forward = rfft2(&x, None, None, FftNorm::Ortho).unwrap();
    assert_eq!(forward.shape(), [3, 3]);
    let back = irfft2(&forward, None, None, FftNorm::Ortho).unwrap();
    assert!(
        back.allclose(&x, 1e-5, 1e-5)
            .unwrap()
            .item::<bool>()
            .unwrap()
    );
    let forward = fft2(&x, Some([2, 2]), Some([0, 1]), FftNorm::Backward).unwrap();
    assert_eq!(forward.shape(), [2, 2]);
    let back = ifft2(&forward, None, None, FftNorm::Backward)
        .unwrap()
        .real()
        .unwrap();
    let corner = floats(&[0.0, 1.0, 4.0, 5.0]).reshape(&[2, 2]).unwrap();
    assert!(
        back.allclose(&corner, 1e-5, 1e-5)
            .unwrap()
            .item::<bool>()
            .unwrap()
    );
}

#[test]
fn contraction_order_is_reported() {
    let a = Array::ones::<f32>(&[2, 3]).unwrap();
    let b = Array::ones::<f32>(&[3, 50]).unwrap();
    let c = Array::ones::<f32>(&[50, 4]).unwrap();
    let path = einsum_path("ij,jk,kl->il", &[&a, &b, &c]).unwrap();
    assert_eq!(path.steps.len(), 2);
    assert!(path.report.contains("il"), "{}", path.report);
    assert!(einsum_path("ij,jk", &[]).is_err());
    assert!(einsum_path("ij,jk->ik", &[&a]).is_err());
}

#[test]
fn scans_take_a_dtype_and_shapes_broadcast() {
    let x = Array::from_slice(&[100i8, 100], &[2]).unwrap();
    let wide = cumsum(&x, 0, ScanOptions::default().dtype(Dtype::Int32)).unwrap();
    assert_eq!(wide.to_vec::<i32>().unwrap(), [100, 200]);
    assert_eq!(broadcast_shapes(&[0, 3], &[1]).unwrap(), [0, 3]);
    assert!(broadcast_shapes(&[0, 3], &[2, 3]).is_err());
    let half = Array::linspace_with(0.0, 1.0, 4, false, Dtype::Float64).unwrap();
    assert_eq!(half.to_vec::<f64>().unwrap(), [0.0, 0.25, 0.5, 0.75]);
}

#[test]
fn global_scales_survive_a_round_trip() {
    let w = Array::ones::<f32>(&[2, 32]).unwrap();
    let scale = Array::scalar(1.0f32).unwrap();
    let packed = quantize_with_global_scale(&w, &scale).unwrap();
    let back =
        dequantize_with_global_scale(&packed.weight, &packed.scales, &scale, Some(Dtype::Float32))
            .unwrap();
    assert!(back.allclose(&w, 0.1, 0.1).unwrap().item::<bool>().unwrap());
    assert!(quantize_with_global_scale(&w, &w).is_err());
}

#[test]
fn nan_is_close_to_nan_on_request() {
    use mlx_core::ops::comparison::CloseOptions;
    let x = floats(&[f32::NAN, 1.0]);
    let close = |options| {
        x.isclose_with(&x, options)
            .unwrap()
            .to_vec::<bool>()
            .unwrap()
    };
    assert_eq!(close(CloseOptions::default()), [false, true]);
    assert_eq!(close(CloseOptions::default().equal_nan(true)), [true, true]);
}

#[test]
fn buffers_and_streams_are_counted() {
    let x = Array::ones::<f32>(&[1024]).unwrap().copy().unwrap();
    assert!(memory::array_buffer_size(&[&x, &x]).unwrap() >= 4096);
    assert!(Stream::all().unwrap().contains(&Stream::current()));
}
