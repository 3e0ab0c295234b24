//! GGUF: decoding against the `gguf` Python package, exact repacking, writing.

use std::path::{Path, PathBuf};

use half::f16;
use mlx_core::Error;
use mlx_core::io::gguf::{
    GgmlType, GgufFile, GgufWriter, Limits, Metadata, Repacked, ScaleFormat, Scales, Value,
    ValueArray, dequantize, quantize,
};
use mlx_core::ops::quantized::QuantizationMode;
use safetensors::SafeTensors;

/// Types whose blocks an affine format of MLX holds.
const AFFINE: [(GgmlType, usize, usize); 11] = [
    (GgmlType::Q4_0, 4, 32),
    (GgmlType::Q4_1, 4, 32),
    (GgmlType::Q5_0, 5, 32),
    (GgmlType::Q5_1, 5, 32),
    (GgmlType::Q8_0, 8, 32),
    (GgmlType::Q4_K, 4, 32),
    (GgmlType::Q5_K, 5, 32),
    (GgmlType::IQ4_NL, 8, 32),
    (GgmlType::IQ4_XS, 8, 32),
    (GgmlType::TQ1_0, 2, 128),
    (GgmlType::TQ2_0, 2, 128),
];

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/core/gguf_blocks")
}

fn golden_bytes() -> Vec<u8> {
    std::fs::read(fixture().join("golden.safetensors")).unwrap()
}

fn floats(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let (numbers, rest) = golden.tensor(name).unwrap().data().as_chunks();
    assert!(rest.is_empty());
    numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn open() -> GgufFile {
    GgufFile::open(fixture().join("blocks.gguf")).unwrap()
}

#[test]
fn every_block_type_decodes_like_the_python_package() {
    let bytes = golden_bytes();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let file = open();
    let mut compared = 0;
    for tensor in file.views() {
        let expected = floats(&golden, tensor.name());
        let decoded = tensor.dequantize().unwrap();
        assert_eq!(tensor.name(), tensor.ggml_type().to_string());
        assert_eq!(tensor.size(), expected.len());
        assert_eq!(decoded, expected, "{}", tensor.name());
        compared += 1;
    }
    assert_eq!(compared, 25);
}

#[test]
fn q8_1_decodes_scale_times_code() {
    let bytes = golden_bytes();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let expected = floats(&golden, "Q8_1");
    let mut decoded = vec![0.0; expected.len()];
    let blocks = golden.tensor("Q8_1.blocks").unwrap();
    dequantize(GgmlType::Q8_1, blocks.data(), &mut decoded).unwrap();
    assert_eq!(decoded, expected);
}

#[test]
fn types_with_codebooks_are_an_unsupported_error_that_names_the_type() {
    let bytes = vec![0; 66];
    let error = dequantize(GgmlType::IQ2_XXS, &bytes, &mut [0.0; 256]).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(message) if message.contains("IQ2_XXS")));
}

#[test]
fn decoding_checks_the_sizes() {
    for (bytes, values) in [(18, 31), (17, 32), (19, 32), (0, 32), (18, 0)] {
        let error = dequantize(GgmlType::Q4_0, &vec![0; bytes], &mut vec![0.0; values]);
        assert!(matches!(error, Err(Error::Format { .. })));
    }
}

#[test]
fn metadata_of_every_type_is_read() {
    let file = open();
    let metadata = file.metadata();
    assert_eq!(file.version(), 3);
    assert_eq!(metadata.str("general.architecture").unwrap(), "test");
    assert_eq!(metadata.value("scalar.u8"), Some(&Value::U8(200)));
    assert_eq!(metadata.value("scalar.i8"), Some(&Value::I8(-100)));
    assert_eq!(metadata.value("scalar.u16"), Some(&Value::U16(60_000)));
    assert_eq!(metadata.value("scalar.i16"), Some(&Value::I16(-30_000)));
    assert_eq!(metadata.u32("scalar.u32").unwrap(), 4_000_000_000);
    assert_eq!(
        metadata.require::<i32>("scalar.i32").unwrap(),
        -2_000_000_000
    );
    assert_eq!(metadata.u64("scalar.u64").unwrap(), 1 << 63);
    assert_eq!(metadata.require::<i64>("scalar.i64").unwrap(), -(1 << 62));
    assert_eq!(metadata.f32("scalar.f32").unwrap(), 1e-5);
    assert_eq!(metadata.require::<f64>("scalar.f64").unwrap(), 0.1);
    assert!(metadata.bool("scalar.bool").unwrap());
    assert_eq!(metadata.str("scalar.string").unwrap(), "grüße, 世界");
    assert_eq!(metadata.i64s("array.i32").unwrap(), [3, -1, 2]);
    assert_eq!(metadata.require::<&[i32]>("array.i32").unwrap(), [3, -1, 2]);
    assert_eq!(metadata.f32s("array.f32").unwrap(), [0.5, -1.5]);
    assert_eq!(metadata.strs("array.string").unwrap(), ["a", "", "Ġb"]);
    assert_eq!(
        metadata.value("array.bool"),
        Some(&Value::Array(ValueArray::Bool(vec![true, false, true])))
    );
    assert_eq!(
        metadata.value("array.nested"),
        Some(&Value::Array(ValueArray::Array(vec![
            ValueArray::I32(vec![1, 2]),
            ValueArray::I32(vec![3]),
        ])))
    );
}

#[test]
fn integers_convert_where_they_fit_and_nothing_else_does() {
    let file = open();
    let metadata = file.metadata();
    assert_eq!(metadata.u32("scalar.u8").unwrap(), 200);
    assert_eq!(metadata.get::<usize>("scalar.u16").unwrap(), Some(60_000));
    assert_eq!(metadata.get::<u32>("absent").unwrap(), None);
    for wrong in [
        metadata.u32("scalar.i8").unwrap_err(),
        metadata.u32("scalar.u64").unwrap_err(),
        metadata.u32("scalar.f32").unwrap_err(),
        metadata.f32("scalar.u8").unwrap_err(),
        metadata.str("array.string").unwrap_err(),
        metadata.strs("scalar.string").unwrap_err(),
        metadata.require::<Vec<u32>>("array.i32").unwrap_err(),
        metadata.bool("absent").unwrap_err(),
    ] {
        let Error::Format { what, message } = wrong else {
            panic!("{wrong:?}");
        };
        assert!(what.contains("blocks.gguf"), "{what}");
        assert!(message.starts_with("metadata `"), "{message}");
    }
}

#[test]
fn affine_repacking_is_exact_in_single_precision() {
    let file = open();
    for (ggml_type, bits, group_size) in AFFINE {
        let tensor = file.tensor(&ggml_type.to_string()).unwrap();
        let repacked = tensor.repack(ScaleFormat::F32).unwrap();
        assert_eq!(repacked.mode, QuantizationMode::Affine);
        assert_eq!((repacked.bits, repacked.group_size), (bits, group_size));
        assert!(matches!(repacked.scales, Scales::F32(_)));
        assert_eq!(
            decode_affine(&repacked),
            tensor.dequantize().unwrap(),
            "{ggml_type}"
        );
    }
}

#[test]
fn half_scales_are_used_exactly_where_they_hold_every_scale() {
    let file = open();
    for (ggml_type, ..) in AFFINE {
        let tensor = file.tensor(&ggml_type.to_string()).unwrap();
        let repacked = tensor.repack(ScaleFormat::F16).unwrap();
        let products = [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::IQ4_XS];
        let halves = !products.contains(&ggml_type);
        assert_eq!(
            matches!(repacked.scales, Scales::F16(_)),
            halves,
            "{ggml_type}"
        );
        assert_eq!(
            decode_affine(&repacked),
            tensor.dequantize().unwrap(),
            "{ggml_type}"
        );
    }
}

#[test]
fn a_bias_beyond_half_precision_falls_back_to_single_precision() {
    let mut block = [0x37_u8; 18];
    block[..2].copy_from_slice(&f16::from_f32(9000.0).to_le_bytes());
    let file = one_tensor(GgmlType::Q4_0, &[1, 32], &block);
    let tensor = file.tensor("t").unwrap();
    let repacked = tensor.repack(ScaleFormat::F16).unwrap();
    assert_eq!(repacked.biases, Some(Scales::F32(vec![-72_000.0])));
    assert_eq!(decode_affine(&repacked), tensor.dequantize().unwrap());
}

#[test]
fn four_bit_floats_keep_their_codes_and_scales() {
    let file = open();
    for (name, mode) in [
        ("MXFP4", QuantizationMode::Mxfp4),
        ("NVFP4", QuantizationMode::Nvfp4),
    ] {
        let tensor = file.tensor(name).unwrap();
        let repacked = tensor.repack(ScaleFormat::F16).unwrap();
        assert_eq!(repacked.mode, mode);
        assert_eq!(repacked.biases, None);
        assert_eq!(
            decode_float(&repacked),
            tensor.dequantize().unwrap(),
            "{name}"
        );
    }
}

#[test]
fn what_mlx_cannot_hold_is_not_repacked() {
    let file = open();
    for name in ["F32", "F16", "BF16", "I8", "Q2_K", "Q3_K", "Q6_K", "Q8_K"] {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.repack(ScaleFormat::F32), None, "{name}");
    }
    // A vector: MLX quantises matrices.
    let vector = one_tensor(GgmlType::Q4_0, &[32], &[0; 18]);
    assert_eq!(vector.tensor("t").unwrap().repack(ScaleFormat::F32), None);
    // An infinite scale and the exponents that mean not-a-number.
    let mut block = [0; 18];
    block[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let infinite = one_tensor(GgmlType::Q4_0, &[1, 32], &block);
    assert_eq!(infinite.tensor("t").unwrap().repack(ScaleFormat::F32), None);
    let exponent = one_tensor(GgmlType::MXFP4, &[1, 32], &[0xFF; 17]);
    assert_eq!(exponent.tensor("t").unwrap().repack(ScaleFormat::F32), None);
    let negative = one_tensor(GgmlType::NVFP4, &[1, 64], &[0x80; 36]);
    assert_eq!(negative.tensor("t").unwrap().repack(ScaleFormat::F32), None);
}

#[test]
fn repacked_shapes_follow_the_last_dimension() {
    let file = one_tensor(GgmlType::Q5_0, &[3, 2, 64], &[1; 22 * 12]);
    let repacked = file.tensor("t").unwrap().repack(ScaleFormat::F16).unwrap();
    assert_eq!(repacked.weight_shape(), [3, 2, 10]);
    assert_eq!(repacked.scales_shape(), [3, 2, 2]);
    assert_eq!(repacked.weight.len(), 60);
}

#[test]
fn quantisers_make_the_blocks_of_the_python_package() {
    let bytes = golden_bytes();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let source = floats(&golden, "quantize.source");
    for ggml_type in [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q8_0,
        GgmlType::BF16,
    ] {
        let expected = golden.tensor(&format!("quantize.{ggml_type}")).unwrap();
        assert_eq!(
            quantize(ggml_type, &source).unwrap(),
            expected.data(),
            "{ggml_type}"
        );
    }
    assert!(matches!(
        quantize(GgmlType::Q6_K, &[0.0; 256]),
        Err(Error::Unsupported(_))
    ));
    assert!(matches!(
        quantize(GgmlType::Q8_0, &[0.0; 33]),
        Err(Error::Format { .. })
    ));
}

#[test]
fn written_files_read_back_unchanged() {
    let original = open();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    let mut writer = GgufWriter::new(original.metadata().clone());
    for tensor in original.views() {
        writer
            .blocks(
                tensor.name(),
                tensor.shape(),
                tensor.ggml_type(),
                tensor.bytes(),
            )
            .unwrap();
    }
    writer.save(&path).unwrap();

    let copy = GgufFile::open(&path).unwrap();
    assert!(copy.metadata().iter().eq(original.metadata().iter()));
    assert_eq!(copy.tensors().len(), original.tensors().len());
    for (copy, original) in copy.views().zip(original.views()) {
        assert_eq!(copy.name(), original.name());
        assert_eq!(copy.shape(), original.shape());
        assert_eq!(copy.bytes(), original.bytes());
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "a temporary file is left over: {names:?}");
}

#[test]
fn a_larger_alignment_is_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("aligned.gguf");
    let mut metadata = Metadata::default();
    metadata.insert("general.alignment", 256_u32);
    let mut writer = GgufWriter::new(metadata);
    for name in ["a", "b"] {
        writer
            .floats(name, &[3], GgmlType::F16, &[1.0, 2.0, 3.0])
            .unwrap();
    }
    writer.save(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 768);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(
        file.tensor("b").unwrap().dequantize().unwrap(),
        [1.0, 2.0, 3.0]
    );
}

#[test]
fn the_writer_refuses_what_the_reader_would_refuse() {
    let mut writer = GgufWriter::new(Metadata::default());
    writer.floats("t", &[1], GgmlType::F32, &[0.0]).unwrap();
    for refused in [
        writer.floats("t", &[1], GgmlType::F32, &[0.0]),
        writer.floats("five", &[1; 5], GgmlType::F32, &[0.0]),
        writer.floats("rows", &[2, 16], GgmlType::Q8_0, &[0.0; 32]),
        writer.floats("size", &[2], GgmlType::F32, &[0.0]),
        writer.blocks("huge", &[usize::MAX, 2], GgmlType::I8, vec![0]),
    ] {
        assert!(matches!(refused, Err(Error::Format { .. })));
    }
    let mut metadata = Metadata::default();
    metadata.insert("general.alignment", 3_u32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refused.gguf");
    let refused = GgufWriter::new(metadata).save(&path);
    assert!(matches!(refused, Err(Error::Format { .. })));
    assert!(!path.exists());
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/model.gguf");
    let error = GgufWriter::new(Metadata::default())
        .save(&missing)
        .unwrap_err();
    assert!(matches!(error, Error::Io { path, .. } if path == missing));
}

fn one_tensor(ggml_type: GgmlType, shape: &[usize], bytes: &[u8]) -> GgufFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.gguf");
    let mut writer = GgufWriter::new(Metadata::default());
    writer.blocks("t", shape, ggml_type, bytes).unwrap();
    writer.save(&path).unwrap();
    GgufFile::from_bytes(std::fs::read(&path).unwrap(), &Limits::default()).unwrap()
}

/// MLX's rule for affine weights, element by element.
fn decode_affine(repacked: &Repacked) -> Vec<f32> {
    let group_size = repacked.group_size;
    let (scales, biases) = (
        widen(&repacked.scales),
        widen(repacked.biases.as_ref().unwrap()),
    );
    (0..repacked.shape.iter().product())
        .map(|i| {
            let group = i / group_size;
            scales[group] * code(repacked, i) as f32 + biases[group]
        })
        .collect()
}

/// MLX's rule for four-bit floats, element by element.
fn decode_float(repacked: &Repacked) -> Vec<f32> {
    const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let Scales::U8(scales) = &repacked.scales else {
        panic!("{:?}", repacked.scales);
    };
    (0..repacked.shape.iter().product())
        .map(|i| {
            let code = code(repacked, i);
            let value = VALUES[code as usize % 8] * if code < 8 { 1.0 } else { -1.0 };
            let bits = scales[i / repacked.group_size];
            let scale = match repacked.mode {
                QuantizationMode::Mxfp4 => 2.0_f32.powi(i32::from(bits) - 127),
                _ => {
                    let (exponent, mantissa) = (i32::from(bits >> 3), f32::from(bits & 7));
                    match exponent {
                        0 => mantissa / 8.0 * 2.0_f32.powi(-6),
                        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
                    }
                }
            };
            scale * value
        })
        .collect()
}

fn code(repacked: &Repacked, i: usize) -> u32 {
    let bits = repacked.bits;
    (0..bits).fold(0, |code, bit| {
        let position = i * bits + bit;
        let word = repacked.weight[position / 32];
        code | (word >> (position % 32) & 1) << bit
    })
}

fn widen(scales: &Scales) -> Vec<f32> {
    match scales {
        Scales::F16(halves) => halves.iter().map(|half| half.to_f32()).collect(),
        Scales::F32(singles) => singles.clone(),
        other => panic!("{other:?}"),
    }
}
