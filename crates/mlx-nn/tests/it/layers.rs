//! Layers: outputs and gradients with respect to inputs and parameters.

use mlx_core::{Array, Dtype, ops::random, ops::shape::concatenate};
use mlx_nn::{
    Activation, Alibi, BatchNorm, Bilinear, Conv1d, Conv2d, Conv3d, ConvTranspose1d,
    ConvTranspose2d, ConvTranspose3d, Dropout, GroupNorm, Gru, InstanceNorm, LayerNorm, Lstm, Mask,
    Mode, Module, MultiHeadAttention, MultiHeadAttentionDims, Pool1d, Pool2d, Pool3d, RmsNorm, Rnn,
    SinusoidalPositionalEncoding, Transformer, TransformerDecoder, TransformerEncoder,
    TransformerOptions, UnaryLayer, Upsample, UpsampleMode, trainable_parameters,
};

use crate::golden::{Golden, TestResult};

/// Checks a layer of one input.
fn check<L: UnaryLayer + Clone + 'static>(golden: &Golden, case: &str, layer: &L) -> TestResult {
    golden.check_layer(case, layer, &["x"], |layer, xs| {
        UnaryLayer::forward(layer, &xs[0])
    })
}

#[test]
fn normalisations_equal_python() -> TestResult {
    let golden = Golden::open("norm")?;
    check(&golden, "rms_norm", &RmsNorm::new(16, 1e-5)?)?;
    check(&golden, "layer_norm", &LayerNorm::new(16, 1e-5)?)?;
    check(
        &golden,
        "layer_norm.without_bias",
        &LayerNorm::without_bias(16, 1e-3)?,
    )?;
    check(
        &golden,
        "layer_norm.without_parameters",
        &LayerNorm::without_parameters(1e-5)?,
    )?;
    let golden = Golden::open("layers")?;
    check(&golden, "group_norm", &GroupNorm::new(2, 4)?)?;
    check(
        &golden,
        "group_norm.pytorch",
        &GroupNorm::new(2, 4)?.pytorch_compatible(true),
    )?;
    check(
        &golden,
        "group_norm.plain",
        &GroupNorm::new(4, 4)?.eps(1e-3)?.without_parameters(),
    )?;
    check(&golden, "instance_norm", &InstanceNorm::new(1e-5)?)?;
    check(
        &golden,
        "instance_norm.affine",
        &InstanceNorm::affine(4, 1e-5)?,
    )
}

#[test]
fn an_eps_that_is_not_positive_is_refused() {
    for eps in [0.0, -1e-5, f32::NAN] {
        assert!(RmsNorm::new(4, eps).is_err());
        assert!(LayerNorm::new(4, eps).is_err());
        assert!(InstanceNorm::new(eps).is_err());
        assert!(GroupNorm::new(2, 4).is_ok_and(|norm| norm.eps(eps).is_err()));
        assert!(BatchNorm::new(4).is_ok_and(|norm| norm.eps(eps).is_err()));
    }
    assert!(GroupNorm::new(3, 4).is_err());
}

#[test]
fn batch_normalisation_learns_its_statistics_like_python() -> TestResult {
    let golden = Golden::open("layers")?;
    let untracked = BatchNorm::new(4)?.without_running_statistics();
    golden.check_layer("batch_norm.untracked", &untracked, &["x"], |norm, xs| {
        norm.forward(&xs[0])
    })?;
    let mut norm = BatchNorm::new(4)?.momentum(0.3);
    let trainable: Vec<String> = trainable_parameters(&norm).into_keys().collect();
    assert_eq!(trainable, ["bias", "weight"]);
    let x = golden.get("batch_norm", "x")?;
    golden.check("batch_norm", "first", &norm.forward_train(&x)?)?;
    golden.check(
        "batch_norm",
        "second",
        &norm.forward_train(&((&x * 2.0)? + 1.0)?)?,
    )?;
    golden.check("batch_norm", "evaluated", &norm.forward(&x)?)?;
    golden.check_layer("batch_norm.evaluated", &norm, &["x"], |norm, xs| {
        norm.forward(&xs[0])
    })?;
    golden.check_layer(
        "batch_norm.trained",
        &BatchNorm::new(4)?,
        &["x"],
        |norm, xs| norm.clone().forward_train(&xs[0]),
    )?;
    for (name, statistics) in [
        ("running_mean", norm.running_mean),
        ("running_var", norm.running_var),
    ] {
        golden.check("batch_norm", name, &statistics.ok_or("tracked")?.0)?;
    }
    let single = Array::ones::<f32>(&[1, 1, 4])?;
    assert!(BatchNorm::new(4)?.forward_train(&single).is_err());
    assert!(
        BatchNorm::new(4)?
            .forward(&Array::ones::<f32>(&[4])?)
            .is_err()
    );
    Ok(())
}

#[test]
fn dropout_draws_what_python_draws() -> TestResult {
    let golden = Golden::open("layers")?;
    for (case, dropout) in [
        ("dropout", Dropout::new(0.3)?),
        ("dropout2d", Dropout::new_2d(0.3)?),
        ("dropout3d", Dropout::new_3d(0.3)?),
    ] {
        golden.check_function(case, &["x"], move |xs| {
            // Python splits the key that belongs to the seed before each draw.
            let (_, key) = random::split(&random::key(9)?)?;
            dropout.forward(&xs[0], Mode::Train(&key))
        })?;
    }
    Ok(())
}

#[test]
fn convolutions_equal_python() -> TestResult {
    let golden = Golden::open("layers")?;
    let conv1d = Conv1d::new(4, 6, [3])?
        .stride([2])?
        .padding([1])?
        .dilation([2])?;
    check(&golden, "conv1d", &conv1d)?;
    check(
        &golden,
        "conv1d.grouped",
        &Conv1d::grouped(4, 6, [3], 2)?.without_bias(),
    )?;
    check(
        &golden,
        "conv2d",
        &Conv2d::new(4, 6, [3, 2])?.stride([2, 1])?.padding([1, 0])?,
    )?;
    check(
        &golden,
        "conv2d.depthwise",
        &Conv2d::grouped(4, 4, [3, 3], 4)?.padding([1, 1])?,
    )?;
    let conv3d = Conv3d::new(2, 3, [2, 2, 2])?
        .stride([1, 2, 1])?
        .padding([1, 1, 1])?;
    check(&golden, "conv3d", &conv3d)?;
    let transposed = ConvTranspose1d::new(4, 3, [3])?.stride([2])?.padding([1])?;
    check(
        &golden,
        "conv_transpose1d",
        &transposed.output_padding([1])?,
    )?;
    let transposed = ConvTranspose2d::new(4, 3, [3, 2])?
        .stride([2, 2])?
        .padding([1, 0])?;
    check(&golden, "conv_transpose2d", &transposed)?;
    let transposed = ConvTranspose3d::new(2, 3, [2, 2, 2])?
        .stride([2, 2, 2])?
        .without_bias();
    check(&golden, "conv_transpose3d", &transposed)?;

    assert!(Conv1d::grouped(4, 6, [3], 3).is_err());
    assert!(Conv2d::new(4, 6, [0, 3]).is_err());
    assert!(Conv1d::new(4, 6, [3])?.stride([0]).is_err());
    assert!(Conv1d::new(4, 6, [3])?.padding([-1]).is_err());
    assert!(
        Conv1d::new(4, 6, [3])?
            .forward(&Array::ones::<f32>(&[1, 5, 3])?)
            .is_err()
    );
    Ok(())
}

#[test]
fn pooling_equals_python() -> TestResult {
    let golden = Golden::open("layers")?;
    check(
        &golden,
        "max_pool1d",
        &Pool1d::max([3])?.stride([2])?.padding([1])?,
    )?;
    check(&golden, "avg_pool1d", &Pool1d::mean([3])?)?;
    check(&golden, "max_pool2d", &Pool2d::max([3, 2])?.stride([2, 1])?)?;
    check(
        &golden,
        "avg_pool2d",
        &Pool2d::mean([2, 2])?.padding([1, 1])?,
    )?;
    check(&golden, "max_pool3d", &Pool3d::max([2, 2, 2])?)?;
    check(
        &golden,
        "avg_pool3d",
        &Pool3d::mean([2, 3, 2])?.stride([1, 1, 1])?,
    )?;

    assert!(Pool1d::max([0]).is_err());
    assert!(
        Pool1d::max([4])?
            .forward(&Array::ones::<f32>(&[1, 3, 2])?)
            .is_err()
    );
    assert!(
        Pool2d::max([1, 1])?
            .forward(&Array::ones::<f32>(&[1, 3, 2])?)
            .is_err()
    );
    Ok(())
}

#[test]
fn bilinear_and_recurrent_layers_equal_python() -> TestResult {
    let golden = Golden::open("layers")?;
    let bilinear = Bilinear::new(4, 3, 5, true)?;
    golden.check_layer("bilinear", &bilinear, &["x1", "x2"], |m, xs| {
        m.forward(&xs[0], &xs[1])
    })?;
    let rnn = Rnn::new(4, 5, true)?;
    golden.check_layer("rnn", &rnn, &["x"], |m, xs| m.forward(&xs[0], None))?;
    let relu = Rnn::new(4, 5, false)?.nonlinearity(Activation::Relu);
    golden.check_layer("rnn.relu", &relu, &["x"], |m, xs| m.forward(&xs[0], None))?;
    let started = ["x", "hidden"];
    golden.check_layer("rnn.started", &rnn, &started, |m, xs| {
        m.forward(&xs[0], Some(&xs[1]))
    })?;
    let gru = Gru::new(4, 5, true)?;
    golden.check_layer("gru", &gru, &["x"], |m, xs| m.forward(&xs[0], None))?;
    let gru = Gru::new(4, 5, false)?;
    golden.check_layer("gru.started", &gru, &started, |m, xs| {
        m.forward(&xs[0], Some(&xs[1]))
    })?;
    let lstm = Lstm::new(4, 5, true)?;
    golden.check_layer("lstm.hidden", &lstm, &["x"], |m, xs| {
        Ok(m.forward(&xs[0], None, None)?.hidden)
    })?;
    golden.check_layer("lstm.cell", &lstm, &["x"], |m, xs| {
        Ok(m.forward(&xs[0], None, None)?.cell)
    })?;
    let lstm = Lstm::new(4, 5, false)?;
    golden.check_layer("lstm.started", &lstm, &["x", "hidden", "cell"], |m, xs| {
        let steps = m.forward(&xs[0], Some(&xs[1]), Some(&xs[2]))?;
        Ok(concatenate(&[&steps.hidden, &steps.cell], -1)?)
    })?;
    assert!(rnn.forward(&Array::ones::<f32>(&[2, 0, 4])?, None).is_err());
    assert!(
        bilinear
            .forward(&Array::ones::<f32>(&[2, 4])?, &Array::ones::<f32>(&[3, 3])?)
            .is_err()
    );
    Ok(())
}

#[test]
fn the_transformer_family_equals_python() -> TestResult {
    let golden = Golden::open("layers")?;
    let mut dims = MultiHeadAttentionDims::new(8);
    (dims.query_input, dims.key_input, dims.value_input) = (6, 5, 4);
    (dims.value, dims.output, dims.bias) = (10, 7, true);
    let attention = MultiHeadAttention::with_dims(2, dims)?;
    golden.check_layer(
        "attention",
        &attention,
        &["queries", "keys", "values"],
        |m, xs| m.forward(&xs[0], &xs[1], &xs[2], &Mask::None),
    )?;
    let mask = MultiHeadAttention::create_additive_causal_mask(4, Dtype::Float32)?;
    golden.check("additive_mask", "mask", &mask)?;
    assert!(MultiHeadAttention::new(8, 3).is_err());

    for (name, norm_first) in [("first", true), ("last", false)] {
        let options = TransformerOptions::new(8, 2).norm_first(norm_first);
        let encoder = TransformerEncoder::new(
            2,
            &options.clone().mlp_dims(12).activation(Activation::Gelu),
        )?;
        golden.check_layer(
            &format!("encoder.norm_{name}"),
            &encoder,
            &["x"],
            |m, xs| m.forward(&xs[0], &Mask::Causal, Mode::Evaluate),
        )?;
        let decoder = TransformerDecoder::new(1, &options)?;
        golden.check_layer(
            &format!("decoder.norm_{name}"),
            &decoder,
            &["x", "memory"],
            |m, xs| m.forward(&xs[0], &xs[1], &Mask::Causal, &Mask::None, Mode::Evaluate),
        )?;
    }
    let model = Transformer::new(1, 1, &TransformerOptions::new(8, 2).mlp_dims(12))?;
    golden.check_layer("transformer", &model, &["source", "target"], |m, xs| {
        m.forward(
            &xs[0],
            &xs[1],
            &Mask::None,
            &Mask::Causal,
            &Mask::None,
            Mode::Evaluate,
        )
    })
}

#[test]
fn positional_encodings_equal_python() -> TestResult {
    let golden = Golden::open("layers")?;
    let x = golden.get("sinusoidal", "x")?;
    golden.check(
        "sinusoidal",
        "y",
        &SinusoidalPositionalEncoding::new(8)?.forward(&x)?,
    )?;
    golden.check(
        "sinusoidal",
        "two",
        &SinusoidalPositionalEncoding::new(2)?.forward(&x)?,
    )?;
    let turned = SinusoidalPositionalEncoding::with_frequencies(6, 1e-2, 2.0)?;
    let turned = turned.scale(1.0).cos_first(true).full_turns()?;
    golden.check("sinusoidal", "turned", &turned.forward(&x)?)?;
    assert!(SinusoidalPositionalEncoding::new(7).is_err());
    let encoding = SinusoidalPositionalEncoding::new(8)?;
    golden.check_function("sinusoidal.gradient", &["x"], move |xs| {
        encoding.forward(&xs[0])
    })?;
    golden.check_function("alibi.gradient", &["x"], |xs| {
        Alibi.forward(&xs[0], 0, None)
    })?;
    for case in ["alibi.4", "alibi.6"] {
        let scores = golden.get(case, "x")?;
        golden.check(case, "y", &Alibi.forward(&scores, 0, None)?)?;
        let mask = scores.index((0, 0))?;
        golden.check(case, "later", &Alibi.forward(&scores, 2, Some(&mask))?)?;
    }
    Ok(())
}

#[test]
fn upsampling_equals_python_in_every_mode() -> TestResult {
    let golden = Golden::open("layers")?;
    let mut cases = 0;
    for case in golden
        .cases()
        .into_iter()
        .filter(|case| case.starts_with("upsample."))
    {
        cases += 1;
        let mode = match case.split('.').nth(1) {
            Some("nearest") => UpsampleMode::Nearest,
            Some("linear") => UpsampleMode::Linear,
            _ => UpsampleMode::Cubic,
        };
        let factors = match case {
            case if case.contains(".2.0.") => vec![2.0],
            case if case.contains(".1.5.") => vec![1.5],
            case if case.contains(".0.5x3.") => vec![0.5, 3.0],
            _ => vec![3.0],
        };
        let layer = Upsample::new(factors, mode)?;
        let layer = match case.rsplit('.').next() {
            Some("corners") => layer.align_corners()?,
            Some("antialias") => layer.antialias()?,
            _ => layer,
        };
        check(&golden, case, &layer)?;
    }
    assert_eq!(cases, 3 * (1 + 3 + 3) + 1);
    assert!(Upsample::new(vec![], UpsampleMode::Linear).is_err());
    assert!(Upsample::new(vec![-1.0], UpsampleMode::Linear).is_err());
    assert!(
        Upsample::new(vec![2.0], UpsampleMode::Nearest)?
            .antialias()
            .is_err()
    );
    assert!(
        Upsample::new(vec![2.0], UpsampleMode::Cubic)?
            .antialias()?
            .align_corners()
            .is_err()
    );
    Ok(())
}

#[test]
fn dropout_drops_what_its_key_says_and_whole_channels() -> TestResult {
    let key = random::key(3)?;
    let x = Array::ones::<f32>(&[2, 8, 8, 16])?;
    let drop = |layer: Dropout| {
        layer
            .forward(&x, Mode::Train(&key))?
            .to_vec::<f32>()
            .map_err(mlx_nn::Error::from)
    };
    let values = drop(Dropout::new(0.25)?)?;
    assert_eq!(
        values,
        drop(Dropout::new(0.25)?)?,
        "the same key drops the same"
    );
    let kept = values.iter().filter(|v| **v > 0.0).count();
    assert!(
        (1400..1680).contains(&kept),
        "{kept} of 2048 kept at p = 0.25"
    );
    assert!(
        values
            .iter()
            .all(|v| *v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6)
    );
    let channels = drop(Dropout::new_2d(0.5)?)?;
    for (index, value) in channels.iter().enumerate() {
        let same = channels[index / 1024 * 1024 + index % 16];
        assert_eq!(*value, same, "channel {}", index % 16);
    }
    assert!(channels.contains(&0.0) && channels.contains(&2.0));
    assert!(Dropout::new(1.0).is_err() && Dropout::new(-0.1).is_err());
    assert!(
        Dropout::new_3d(0.5)?
            .forward(&Array::ones::<f32>(&[2, 3])?, Mode::Train(&key))
            .is_err()
    );
    assert_eq!(
        trainable_parameters(&Dropout::new(0.5)? as &dyn Module).len(),
        0
    );
    Ok(())
}

#[test]
fn dropout_in_a_transformer_differs_between_layers_and_repeats_with_the_key() -> TestResult {
    let options = TransformerOptions::new(8, 2).dropout(0.5);
    let encoder = TransformerEncoder::new(2, &options)?;
    let x = random::normal::<f32>(0.0, 1.0, &[1, 4, 8], Some(&random::key(1)?))?;
    let run = |seed| {
        let key = random::key(seed)?;
        encoder
            .forward(&x, &Mask::None, Mode::Train(&key))?
            .to_vec::<f32>()
            .map_err(mlx_nn::Error::from)
    };
    assert_eq!(run(5)?, run(5)?);
    assert_ne!(run(5)?, run(6)?);
    assert_ne!(
        run(5)?,
        encoder
            .forward(&x, &Mask::None, Mode::Evaluate)?
            .to_vec::<f32>()?
    );
    Ok(())
}
