//! Losses and their gradients.

use mlx_core::Array;
use mlx_nn::loss::{
    CrossEntropyOptions, Reduction, TripletOptions, binary_cross_entropy, cosine_similarity_loss,
    cross_entropy, gaussian_nll_loss, hinge_loss, huber_loss, kl_div_loss, l1_loss, log_cosh_loss,
    margin_ranking_loss, mse_loss, nll_loss, smooth_l1_loss, triplet_loss,
};

use crate::golden::{Golden, TestResult};

#[test]
fn losses_over_classes_equal_python() -> TestResult {
    let golden = Golden::open("loss")?;
    let shared = |name| golden.get("shared", name);
    let (ids, chances, weights, signs) = (
        shared("ids")?,
        shared("chances")?,
        shared("weights")?,
        shared("signs")?,
    );
    let options = CrossEntropyOptions::default();

    let (targets, plain) = (ids.clone(), options.clone());
    golden.check_function("cross_entropy", &["x"], move |xs| {
        cross_entropy(&xs[0], &targets, plain.clone())
    })?;
    let targets = ids.clone();
    let smooth = options
        .clone()
        .weights(weights)
        .label_smoothing(0.1)
        .reduction(Reduction::Mean);
    golden.check_function("cross_entropy.smooth", &["x"], move |xs| {
        cross_entropy(&xs[0], &targets, smooth.clone())
    })?;
    let (targets, total) = (chances.clone(), options.clone().reduction(Reduction::Sum));
    golden.check_function("cross_entropy.chances", &["x"], move |xs| {
        cross_entropy(&xs[0], &targets, total.clone())
    })?;
    let (targets, first) = ((&ids % 4)?, options.axis(0));
    golden.check_function("cross_entropy.axis", &["x"], move |xs| {
        cross_entropy(&xs[0], &targets, first.clone())
    })?;
    for (case, with_logits) in [
        ("binary_cross_entropy", true),
        ("binary_cross_entropy.chances", false),
    ] {
        let targets = chances.clone();
        golden.check_function(case, &["x"], move |xs| {
            binary_cross_entropy(&xs[0], &targets, None, with_logits, Reduction::Mean)
        })?;
    }
    let each = shared("each")?;
    for (case, with_logits, reduction) in [
        ("binary_cross_entropy.weights", true, Reduction::None),
        (
            "binary_cross_entropy.chances.weights",
            false,
            Reduction::Mean,
        ),
    ] {
        let (targets, each) = (chances.clone(), each.clone());
        golden.check_function(case, &["x"], move |xs| {
            binary_cross_entropy(&xs[0], &targets, Some(&each), with_logits, reduction)
        })?;
    }
    golden.check_function("nll", &["x"], move |xs| {
        nll_loss(&xs[0], &ids, -1, Reduction::None)
    })?;
    golden.check_function("kl_div", &["x", "t"], |xs| {
        kl_div_loss(&xs[0], &xs[1], -1, Reduction::None)
    })?;
    golden.check_function("hinge", &["x"], move |xs| {
        hinge_loss(&xs[0], &signs, Reduction::None)
    })
}

#[test]
fn losses_over_numbers_equal_python() -> TestResult {
    let golden = Golden::open("loss")?;
    let (none, mean) = (Reduction::None, Reduction::Mean);
    let names = &["x", "t"];
    golden.check_function("l1", names, move |xs| l1_loss(&xs[0], &xs[1], mean))?;
    golden.check_function("mse", names, move |xs| mse_loss(&xs[0], &xs[1], mean))?;
    golden.check_function("smooth_l1", names, move |xs| {
        smooth_l1_loss(&xs[0], &xs[1], 0.7, mean)
    })?;
    golden.check_function("huber", names, move |xs| {
        huber_loss(&xs[0], &xs[1], 0.8, none)
    })?;
    golden.check_function("log_cosh", names, move |xs| {
        log_cosh_loss(&xs[0], &xs[1], none)
    })?;
    golden.check_function("gaussian_nll", &["x", "t", "variances"], move |xs| {
        gaussian_nll_loss(&xs[0], &xs[1], &xs[2], true, 1e-6, mean)
    })?;
    golden.check_function("gaussian_nll.short", &["x", "t", "variances"], move |xs| {
        gaussian_nll_loss(&xs[0], &xs[1], &xs[2], false, 1e-6, none)
    })?;
    golden.check_function("cosine_similarity", names, move |xs| {
        cosine_similarity_loss(&xs[0], &xs[1], 1, 1e-8, none)
    })?;
    golden.check_function("triplet", &["x", "t", "negatives"], |xs| {
        triplet_loss(&xs[0], &xs[1], &xs[2], TripletOptions::default())
    })?;
    let signs = golden.get("shared", "signs")?;
    golden.check_function("margin_ranking", names, move |xs| {
        margin_ranking_loss(&xs[0], &xs[1], &signs, 0.2, none)
    })
}

#[test]
fn operands_that_do_not_fit_are_refused() -> TestResult {
    let (x, y) = (Array::ones::<f32>(&[2, 3])?, Array::ones::<f32>(&[3])?);
    let error = mse_loss(&x, &y, Reduction::Mean).map_err(|error| error.to_string());
    assert_eq!(
        error.err().as_deref(),
        Some("mse_loss: the shapes [2, 3] and [3] differ")
    );
    let ids = Array::from_slice::<i32>(&[0, 1, 2], &[3])?;
    assert!(cross_entropy(&x, &ids, CrossEntropyOptions::default()).is_err());
    let outside = Array::from_slice::<i32>(&[0, 3], &[2])?;
    let error = cross_entropy(&x, &outside, CrossEntropyOptions::default());
    assert!(matches!(
        error,
        Err(mlx_nn::Error::Core(mlx_core::Error::OutOfBounds {
            index: 3,
            size: 3,
            ..
        }))
    ));
    assert!(nll_loss(&x, &outside, 1, Reduction::None).is_err());
    let ids = Array::from_slice::<i32>(&[0, 1], &[2])?;
    let smoothing = CrossEntropyOptions::default().label_smoothing(1.0);
    assert!(cross_entropy(&x, &x, smoothing).is_err());
    assert!(nll_loss(&x, &ids, 2, Reduction::None).is_err());
    assert!(smooth_l1_loss(&x, &x, 0.0, Reduction::None).is_err());
    Ok(())
}
