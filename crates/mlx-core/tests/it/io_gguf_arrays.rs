//! GGUF tensors as arrays: MLX's own reading of the repacked formats, and back into a file.

use std::collections::HashSet;

use mlx_core::io::gguf::{GgufFile, GgufWriter, Metadata, TensorArrays, TensorRead};
use mlx_core::ops::quantized::{QuantizationMode, dequantize, quantized_matmul};
use mlx_core::{Array, Dtype, Error, f16};

use crate::io_gguf::fixture;

fn open() -> GgufFile {
    GgufFile::open(fixture().join("blocks.gguf")).unwrap()
}

fn keep(scale_dtype: Dtype) -> TensorRead {
    TensorRead::KeepQuantized { scale_dtype }
}

#[test]
fn mlx_decodes_repacked_tensors_to_the_same_values() {
    let mut kept = HashSet::new();
    for tensor in open().views() {
        let TensorArrays::Quantized { parts, layout } = tensor.read(keep(Dtype::Float32)).unwrap()
        else {
            continue;
        };
        let dense = dequantize(
            &parts.weight,
            &parts.scales,
            parts.biases.as_ref(),
            layout,
            Some(Dtype::Float32),
        )
        .unwrap();
        let expected = tensor.dequantize().unwrap();
        assert_eq!(
            dense.to_vec::<f32>().unwrap(),
            expected,
            "{}",
            tensor.name()
        );
        kept.insert(tensor.name().to_owned());
    }
    assert_eq!(kept.len(), 13, "{kept:?}");
}

#[test]
fn a_product_with_a_kept_tensor_is_the_product_with_the_dense_one() {
    let file = open();
    for name in ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_XS"] {
        let tensor = file.tensor(name).unwrap();
        let TensorArrays::Quantized { parts, layout } = tensor.read(keep(Dtype::Float32)).unwrap()
        else {
            panic!("{name} was not kept");
        };
        let TensorArrays::Dense(dense) = tensor.read(TensorRead::Dense(Dtype::Float32)).unwrap()
        else {
            panic!("{name} was not decoded");
        };
        let columns = dense.dim(-1).unwrap();
        let x = Array::arange::<f32>(0.0, f64::from(columns), 1.0)
            .and_then(|x| x.sin())
            .and_then(|x| x.reshape(&[1, columns]))
            .unwrap();
        let biases = parts.biases.as_ref();
        let kept = quantized_matmul(&x, &parts.weight, &parts.scales, biases, true, layout)
            .and_then(|y| y.to_vec::<f32>())
            .unwrap();
        let expected = x
            .matmul(&dense.transpose().unwrap())
            .and_then(|y| y.to_vec::<f32>())
            .unwrap();
        for (kept, expected) in kept.iter().zip(&expected) {
            let tolerance = 1e-4 * expected.abs().max(1.0);
            assert!(
                (kept - expected).abs() < tolerance,
                "{name}: {kept} and {expected}"
            );
        }
    }
}

#[test]
fn dense_reading_gives_the_dtype_that_was_asked_for() {
    for tensor in open().views() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let TensorArrays::Dense(array) = tensor.read(TensorRead::Dense(dtype)).unwrap() else {
                panic!("{tensor:?} was not decoded");
            };
            assert_eq!(array.dtype(), dtype);
            let shape: Vec<i32> = tensor.shape().iter().map(|&dim| dim as i32).collect();
            assert_eq!(array.shape(), shape);
            if dtype == Dtype::Float32 {
                let expected = tensor.dequantize().unwrap();
                assert_eq!(
                    array.to_vec::<f32>().unwrap(),
                    expected,
                    "{}",
                    tensor.name()
                );
            }
        }
    }
}

#[test]
fn wide_numbers_are_read_without_loss_on_request() {
    let file = open();
    for (name, dtype) in [
        ("F64", Dtype::Float64),
        ("I64", Dtype::Int64),
        ("I32", Dtype::Int32),
    ] {
        let tensor = file.tensor(name).unwrap();
        let TensorArrays::Dense(array) = tensor.read(TensorRead::Dense(dtype)).unwrap() else {
            panic!("{name} was not decoded");
        };
        assert_eq!(array.to_bytes().unwrap(), tensor.bytes());
    }
}

#[test]
fn scales_have_the_dtype_that_was_asked_for_where_it_is_exact() {
    let file = open();
    for (name, expected) in [
        ("Q4_1", Dtype::Float16),
        ("Q4_K", Dtype::Float32),
        ("MXFP4", Dtype::Uint8),
    ] {
        let tensor = file.tensor(name).unwrap();
        match tensor.read(keep(Dtype::Float16)).unwrap() {
            TensorArrays::Quantized { parts, layout } => {
                assert_eq!(parts.scales.dtype(), expected, "{name}");
                let affine = layout.mode == QuantizationMode::Affine;
                assert_eq!(parts.biases.is_some(), affine, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    match file
        .tensor("Q6_K")
        .unwrap()
        .read(keep(Dtype::Float16))
        .unwrap()
    {
        TensorArrays::Dense(array) => assert_eq!(array.dtype(), Dtype::Float16),
        other => panic!("{other:?}"),
    }
}

#[test]
fn arrays_are_written_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arrays.gguf");
    let halves = Array::from_slice(&[1.0, 2.0, 3.0, 4.0].map(f16::from_f32), &[2, 2]).unwrap();
    // Not contiguous, so that the elements have to be put in order.
    let transposed = halves.transpose().unwrap();
    let mut writer = GgufWriter::new(Metadata::default());
    writer.array("halves", &transposed).unwrap();
    let flags = Array::from_slice(&[true], &[1]).unwrap();
    assert!(matches!(
        writer.array("flags", &flags),
        Err(Error::Unsupported(_))
    ));
    writer.save(&path).unwrap();

    let file = GgufFile::open(&path).unwrap();
    assert_eq!(
        file.tensor("halves").unwrap().dequantize().unwrap(),
        [1.0, 3.0, 2.0, 4.0]
    );
}
