//! Pooling against values worked out by hand.

use mlx_core::ops::misc::astype;
use mlx_core::{Array, Dtype};
use mlx_embed::{Pooling, PoolingMode};
use serde_json::json;

use crate::support::{Folder, HIDDEN, Outcome, close, modules};

/// Two texts of two features: three tokens and then padding; padding and then two tokens.
fn tokens() -> mlx_core::Result<(Array, Array)> {
    let hidden = [
        1.0_f32, 2.0, 4.0, -2.0, 7.0, 6.0, 100.0, 100.0, // mean 4, 2
        -50.0, 50.0, 80.0, -80.0, 2.0, 8.0, 3.0, 4.0, // mean 2.5, 6
    ];
    let mask = [true, true, true, false, false, false, true, true];
    Ok((
        Array::from_slice(&hidden, &[2, 4, 2])?,
        Array::from_slice(&mask, &[2, 4])?,
    ))
}

#[test]
fn each_mode_computes_what_it_says() -> Outcome {
    let (hidden, mask) = tokens()?;
    let root = |n: f32| n.sqrt();
    let cases = [
        (PoolingMode::Cls, [1.0, 2.0, 2.0, 8.0]),
        (PoolingMode::Max, [7.0, 6.0, 3.0, 8.0]),
        (PoolingMode::Mean, [4.0, 2.0, 2.5, 6.0]),
        (
            PoolingMode::MeanSqrtLen,
            [
                12.0 / root(3.0),
                6.0 / root(3.0),
                5.0 / root(2.0),
                12.0 / root(2.0),
            ],
        ),
        // (1·1 + 2·4 + 3·7) / 6, (1·2 − 2·2 + 3·6) / 6, (3·2 + 4·3) / 7, (3·8 + 4·4) / 7
        (
            PoolingMode::WeightedMean,
            [5.0, 16.0 / 6.0, 18.0 / 7.0, 40.0 / 7.0],
        ),
        (PoolingMode::LastToken, [7.0, 6.0, 3.0, 4.0]),
    ];
    assert_eq!(cases.len(), PoolingMode::ALL.len());
    for (mode, expected) in cases {
        let pooled = Pooling::new([mode])?.forward(&hidden, &mask)?;
        assert_eq!(pooled.shape(), [2, 2], "{mode}");
        close(&pooled.to_vec::<f32>()?, &expected, 1e-5);
    }
    Ok(())
}

#[test]
fn several_modes_are_concatenated_in_order() -> Outcome {
    let (hidden, mask) = tokens()?;
    let pooling = Pooling::new([PoolingMode::Max, PoolingMode::Cls])?;
    assert_eq!(pooling.dimension(2), 4);
    let pooled = pooling.forward(&hidden, &mask)?;
    close(
        &pooled.to_vec::<f32>()?,
        &[7.0, 6.0, 1.0, 2.0, 3.0, 8.0, 2.0, 8.0],
        0.0,
    );
    assert!(Pooling::new([]).is_err());
    Ok(())
}

#[test]
fn a_text_without_tokens_becomes_zeros() -> Outcome {
    let (hidden, _) = tokens()?;
    let mask = Array::zeros::<bool>(&[2, 4])?;
    for mode in PoolingMode::ALL {
        let pooled = Pooling::new([mode])?.forward(&hidden, &mask)?;
        assert_eq!(pooled.to_vec::<f32>()?, [0.0; 4], "{mode}");
    }
    Ok(())
}

#[test]
fn half_precision_is_pooled_in_float32() -> Outcome {
    // In float16 the sum of these overflows.
    let hidden = astype(&Array::full::<f32>(&[1, 8, 1], 60_000.0)?, Dtype::Float16)?;
    let mask = Array::ones::<bool>(&[1, 8])?;
    let pooled = Pooling::default().forward(&hidden, &mask)?;
    assert_eq!(
        (pooled.dtype(), pooled.item::<f32>()?),
        (Dtype::Float32, 60_000.0)
    );
    Ok(())
}

#[test]
fn configurations_of_all_ages_are_read() -> Outcome {
    use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean};
    let folder = Folder::new()?;
    folder.write("modules.json", &modules(&["Pooling"]))?;
    let cases = [
        (
            json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false }),
            vec![Cls],
        ),
        (json!({ "pooling_mode_max_tokens": true }), vec![Max]),
        (
            json!({ "pooling_mode_mean_sqrt_len_tokens": true }),
            vec![MeanSqrtLen],
        ),
        (
            json!({ "pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": true }),
            vec![WeightedMean, LastToken],
        ),
        (
            json!({ "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true, "pooling_mode_cls_token": true }),
            vec![Cls, Max, Mean],
        ),
        (json!({}), vec![Mean]),
        (json!({ "pooling_mode": "lasttoken" }), vec![LastToken]),
        (
            json!({ "pooling_mode": ["mean", "cls"], "embedding_dimension": HIDDEN }),
            vec![Mean, Cls],
        ),
    ];
    for (config, expected) in cases {
        folder.pooling(&config)?;
        let model = folder.load()?;
        assert_eq!(model.pooling().modes(), expected, "{config}");
        let dimension = HIDDEN * i32::try_from(expected.len())?;
        assert_eq!(model.dimension(), dimension);
        let vectors = model.encode(&["a man"], Default::default())?;
        assert_eq!(vectors.shape(), [1, dimension]);
    }
    for (config, part) in [
        (
            json!({ "pooling_mode": "median" }),
            "`median` is not supported",
        ),
        (json!({ "pooling_mode": [] }), "names no mode"),
        (json!({ "pooling_mode": 3 }), "3 is not a name"),
        (
            json!({ "pooling_mode_cls_token": "yes" }),
            "field `pooling_mode_cls_token`",
        ),
        (
            json!({ "word_embedding_dimension": 99 }),
            "99, but the model's hidden_size is 8",
        ),
    ] {
        folder.pooling(&config)?;
        let complaint = folder.complaint();
        assert!(
            complaint.contains("1_Pooling/config.json") && complaint.contains(part),
            "{complaint}"
        );
    }
    Ok(())
}
