//! Sampling, filter by filter.

use std::collections::BTreeSet;

use mlx_core::{Array, Dtype};
use mlx_lm::{Error, Sampler, SamplingOptions};

use crate::support::Outcome;

/// Logits of the probabilities 0.4, 0.3, 0.2, 0.06, 0.04, not in this order.
fn logits() -> mlx_core::Result<Array> {
    let probabilities = [0.06_f32, 0.4, 0.04, 0.3, 0.2];
    Array::from_slice::<f32>(&probabilities.map(|p| p.ln() + 3.0), &[1, 5])
}

/// The tokens that 300 draws give.
fn drawn(options: &SamplingOptions) -> Result<BTreeSet<u32>, Box<dyn std::error::Error>> {
    let mut sampler = Sampler::new(&options.clone().seed(Some(11)), &[])?;
    let mut tokens = BTreeSet::new();
    for _ in 0..300 {
        tokens.insert(sampler.sample(&logits()?)?.item::<u32>()?);
    }
    Ok(tokens)
}

fn warm() -> SamplingOptions {
    SamplingOptions::default().temperature(1.0)
}

#[test]
fn temperature_zero_takes_the_most_likely() -> Outcome {
    let token = Sampler::new(&SamplingOptions::default(), &[])?.sample(&logits()?)?;
    assert_eq!((token.dtype(), token.shape()), (Dtype::Uint32, &[1][..]));
    assert_eq!(token.item::<u32>()?, 1);
    Ok(())
}

#[test]
fn without_filters_every_token_comes() -> Outcome {
    assert_eq!(drawn(&warm())?, BTreeSet::from([0, 1, 2, 3, 4]));
    Ok(())
}

#[test]
fn draws_follow_the_distribution() -> Outcome {
    let mut sampler = Sampler::new(&warm().seed(Some(1)), &[])?;
    let mut counts = [0_u32; 5];
    for _ in 0..4000 {
        let token = sampler.sample(&logits()?)?.item::<u32>()?;
        counts[usize::try_from(token)?] += 1;
    }
    for (count, expected) in counts
        .into_iter()
        .zip([240.0, 1600.0, 160.0, 1200.0, 800.0])
    {
        // Five standard deviations of a binomial count.
        let spread = 5.0 * f64::sqrt(expected * (1.0 - expected / 4000.0));
        assert!((f64::from(count) - expected).abs() < spread, "{counts:?}");
    }
    Ok(())
}

#[test]
fn top_p_keeps_the_smallest_sufficient_set() -> Outcome {
    assert_eq!(drawn(&warm().top_p(0.65))?, BTreeSet::from([1, 3]));
    assert_eq!(drawn(&warm().top_p(0.75))?, BTreeSet::from([1, 3, 4]));
    assert_eq!(drawn(&warm().top_p(1e-9))?, BTreeSet::from([1]));
    Ok(())
}

#[test]
fn top_k_keeps_k() -> Outcome {
    assert_eq!(drawn(&warm().top_k(1))?, BTreeSet::from([1]));
    assert_eq!(drawn(&warm().top_k(3))?, BTreeSet::from([1, 3, 4]));
    assert_eq!(drawn(&warm().top_k(50))?.len(), 5);
    Ok(())
}

#[test]
fn min_p_is_relative_to_the_most_likely() -> Outcome {
    assert_eq!(drawn(&warm().min_p(0.6))?, BTreeSet::from([1, 3]));
    assert_eq!(drawn(&warm().min_p(0.14))?, BTreeSet::from([0, 1, 3, 4]));
    Ok(())
}

#[test]
fn filters_see_the_untempered_distribution() -> Outcome {
    // Tempered by 10 the distribution is nearly flat, and 0.65 would need four.
    assert_eq!(
        drawn(&warm().temperature(10.0).top_p(0.65))?,
        BTreeSet::from([1, 3])
    );
    Ok(())
}

#[test]
fn filters_combine() -> Outcome {
    assert_eq!(drawn(&warm().top_p(0.95).top_k(2))?, BTreeSet::from([1, 3]));
    assert_eq!(
        drawn(&warm().top_p(0.95).min_p(0.6).top_k(4))?,
        BTreeSet::from([1, 3])
    );
    Ok(())
}

#[test]
fn the_penalty_lowers_recent_tokens_of_either_sign() -> Outcome {
    let logits = Array::from_slice::<f32>(&[2.0, 1.5, -1.0], &[1, 3])?;
    let options = SamplingOptions::default().repetition_penalty(2.0);
    assert_eq!(
        Sampler::new(&options, &[0])?
            .sample(&logits)?
            .item::<u32>()?,
        1
    );
    assert_eq!(
        Sampler::new(&options, &[0, 0, 1])?
            .sample(&logits)?
            .item::<u32>()?,
        0
    );
    let negative = Array::from_slice::<f32>(&[-1.0, -1.5, -9.0], &[1, 3])?;
    assert_eq!(
        Sampler::new(&options, &[0])?
            .sample(&negative)?
            .item::<u32>()?,
        1
    );
    Ok(())
}

#[test]
fn the_penalty_looks_at_its_window_and_at_its_own_tokens() -> Outcome {
    let logits = Array::from_slice::<f32>(&[2.0, 1.5, 1.2], &[1, 3])?;
    let options = SamplingOptions::default()
        .repetition_penalty(4.0)
        .repetition_context(2);
    let mut sampler = Sampler::new(&options, &[])?;
    let mut tokens = Vec::new();
    for _ in 0..6 {
        tokens.push(sampler.sample(&logits)?.item::<u32>()?);
    }
    assert_eq!(tokens, [0, 1, 2, 0, 1, 2]);
    // The prompt's older tokens are out of the window.
    assert_eq!(
        Sampler::new(&options, &[0, 1, 2])?
            .sample(&logits)?
            .item::<u32>()?,
        0
    );
    Ok(())
}

#[test]
fn half_precision_logits_are_sampled_too() -> Outcome {
    let half = mlx_core::ops::misc::astype(&logits()?, Dtype::Bfloat16)?;
    let mut sampler = Sampler::new(&warm().top_p(0.5).seed(Some(2)), &[])?;
    for _ in 0..50 {
        assert!([1, 3].contains(&sampler.sample(&half)?.item::<u32>()?));
    }
    Ok(())
}

#[test]
fn values_out_of_range_are_named() {
    let named = |options: SamplingOptions| match options.validate() {
        Err(Error::Option { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        named(SamplingOptions::default().temperature(-1.0)),
        "temperature"
    );
    assert_eq!(
        named(SamplingOptions::default().temperature(f32::NAN)),
        "temperature"
    );
    assert_eq!(named(SamplingOptions::default().top_p(1.5)), "top_p");
    assert_eq!(named(SamplingOptions::default().min_p(-0.1)), "min_p");
    assert_eq!(
        named(SamplingOptions::default().repetition_penalty(0.0)),
        "repetition_penalty"
    );
}
