//! Samplers against the formulae of their papers, computed on the host.

use mlx_core::Array;
use mlx_lm::sample::{Dry, Mirostat, Sampler, SamplingOptions};

use crate::support::Outcome;

const LOGITS: [f32; 8] = [2.0, 1.2, 0.7, 0.1, -0.4, -1.0, -2.5, -6.0];
const DRAWS: u32 = 1500;

fn probabilities() -> [f64; 8] {
    let total: f64 = LOGITS.iter().map(|&x| f64::from(x).exp()).sum();
    LOGITS.map(|x| f64::from(x).exp() / total)
}

/// How often each token is drawn by samplers of independent seeds.
fn frequencies(options: &SamplingOptions) -> Result<[f64; 8], Box<dyn std::error::Error>> {
    let logits = Array::from_slice::<f32>(&LOGITS, &[1, 8])?;
    let mut sampler = Sampler::new(&options.clone().seed(Some(5)), &[])?;
    let mut found = [0.0; 8];
    for _ in 0..DRAWS {
        let token = sampler.sample(&logits)?.item::<u32>()?;
        found[usize::try_from(token)?] += 1.0 / f64::from(DRAWS);
    }
    Ok(found)
}

/// Compares with the distribution that keeps these tokens only.
fn expect(options: &SamplingOptions, kept: &[usize], temperature: f64) -> Outcome {
    let weight = |token: usize| match kept.contains(&token) {
        true => probabilities()[token].powf(1.0 / temperature),
        false => 0.0,
    };
    let total: f64 = (0..8).map(weight).sum();
    for (token, found) in frequencies(options)?.into_iter().enumerate() {
        let expected = weight(token) / total;
        let spread = 5.0 * (expected * (1.0 - expected) / f64::from(DRAWS)).sqrt();
        assert!(
            (found - expected).abs() <= spread + 1e-9,
            "{token}: {found} for {expected}, {options:?}"
        );
    }
    Ok(())
}

fn warm() -> SamplingOptions {
    SamplingOptions::default().temperature(1.0)
}

#[test]
fn typical_p_keeps_what_is_nearest_to_the_entropy() -> Outcome {
    let p = probabilities();
    let entropy: f64 = -p.iter().map(|p| p * p.ln()).sum::<f64>();
    let mut order: Vec<usize> = (0..8).collect();
    order.sort_by(|&a, &b| {
        let distance = |token: usize| (-p[token].ln() - entropy).abs();
        distance(a).total_cmp(&distance(b))
    });
    for share in [0.2, 0.5, 0.9] {
        let mut kept = Vec::new();
        let mut mass = 0.0;
        for &token in &order {
            kept.push(token);
            mass += p[token];
            if mass >= f64::from(share) {
                break;
            }
        }
        expect(&warm().typical_p(share), &kept, 1.0)?;
    }
    Ok(())
}

#[test]
fn top_n_sigma_measures_in_deviations() -> Outcome {
    let mean = LOGITS.iter().map(|&x| f64::from(x)).sum::<f64>() / 8.0;
    let square = |x: f32| (f64::from(x) - mean).powi(2);
    let sigma = (LOGITS.iter().map(|&x| square(x)).sum::<f64>() / 8.0).sqrt();
    for count in [0.5, 1.0, 1.5] {
        let kept: Vec<usize> = (0..8)
            .filter(|&token| f64::from(LOGITS[token]) >= 2.0 - count * sigma)
            .collect();
        #[allow(clippy::cast_possible_truncation, reason = "the values are exact")]
        let options = warm().top_n_sigma(count as f32).temperature(1.5);
        expect(&options, &kept, 1.5)?;
    }
    Ok(())
}

#[test]
fn xtc_excludes_all_likely_tokens_but_the_last() -> Outcome {
    // Likelier than 0.1 are the first three or four.
    let likely = probabilities().iter().filter(|&&p| p > 0.1).count();
    assert!(likely >= 3);
    let rest: Vec<usize> = (likely - 1..8).collect();
    let options = warm().xtc_probability(1.0).xtc_threshold(0.1);
    expect(&options, &rest, 1.0)?;
    let with_first: Vec<usize> = std::iter::once(0).chain(likely - 1..8).collect();
    expect(&options.clone().xtc_spared(vec![0]), &with_first, 1.0)?;
    let all: Vec<usize> = (0..8).collect();
    expect(&options.clone().xtc_threshold(0.5), &all, 1.0)?;
    expect(&options.xtc_probability(0.0), &all, 1.0)
}

#[test]
fn min_p_and_typical_p_leave_the_least_number() -> Outcome {
    expect(&warm().min_p(1.0).min_tokens_to_keep(3), &[0, 1, 2], 1.0)?;
    expect(&warm().min_p(1.0), &[0], 1.0)
}

#[test]
fn mirostat_v2_cuts_at_the_surprise_and_follows_its_target() -> Outcome {
    // A limit of 2·tau bits at the start: what is more surprising never comes first.
    let logits = Array::from_slice::<f32>(&LOGITS, &[1, 8])?;
    let p = probabilities();
    let options = warm().mirostat(Some(Mirostat::v2(0.8, 0.0)));
    let kept: Vec<usize> = (0..8).filter(|&token| -p[token].log2() <= 1.6).collect();
    expect(&options, &kept, 1.0)?;
    // With feedback, the mean surprise settles at the target.
    let tau = 1.2;
    let feedback = warm().mirostat(Some(Mirostat::v2(tau, 0.1))).seed(Some(3));
    let mut sampler = Sampler::new(&feedback, &[])?;
    let mut mu = 2.0 * f64::from(tau);
    let mut total = 0.0;
    for _ in 0..600 {
        let token = usize::try_from(sampler.sample(&logits)?.item::<u32>()?)?;
        let surprise = |token: usize| -p[token].log2();
        assert!(
            surprise(token) <= mu + 1e-3 || token == 0,
            "{token} at {mu}"
        );
        let mass: f64 = (0..8)
            .filter(|&t| surprise(t) <= mu || t == 0)
            .map(|t| p[t])
            .sum();
        let observed = -(p[token] / mass).log2();
        mu -= 0.1 * (observed - f64::from(tau));
        total += observed;
    }
    assert!(
        (total / 600.0 - f64::from(tau)).abs() < 0.15,
        "{}",
        total / 600.0
    );
    Ok(())
}

#[test]
fn mirostat_v1_estimates_its_k() -> Outcome {
    let p = probabilities();
    let (tau, count) = (1.0_f64, 7);
    let t: Vec<f64> = (0..count)
        .map(|i| ((i + 2) as f64 / (i + 1) as f64).ln())
        .collect();
    let b: Vec<f64> = (0..count).map(|i| (p[i] / p[i + 1]).ln()).collect();
    let s =
        t.iter().zip(&b).map(|(t, b)| t * b).sum::<f64>() / t.iter().map(|t| t * t).sum::<f64>();
    let epsilon = s - 1.0;
    let k = (epsilon * 2_f64.powf(2.0 * tau) / (1.0 - 8_f64.powf(-epsilon))).powf(1.0 / s);
    let kept: Vec<usize> = (0..8)
        .filter(|&rank| (rank as f64) < k.floor().max(1.0))
        .collect();
    expect(&warm().mirostat(Some(Mirostat::v1(1.0, 0.0))), &kept, 1.0)
}

#[test]
fn penalties_and_biases_move_logits_by_what_they_say() -> Outcome {
    let logits = Array::from_slice::<f32>(&[2.0, 1.5, 1.2], &[1, 3])?;
    let choose =
        |options: &SamplingOptions, prompt: &[u32]| -> Result<u32, Box<dyn std::error::Error>> {
            Ok(Sampler::new(options, prompt)?
                .sample(&logits)?
                .item::<u32>()?)
        };
    let greedy = SamplingOptions::default;
    // Presence counts once, frequency each time, within its window.
    assert_eq!(choose(&greedy().presence_penalty(0.4), &[0, 0, 0])?, 0);
    assert_eq!(choose(&greedy().presence_penalty(0.6), &[0])?, 1);
    assert_eq!(choose(&greedy().frequency_penalty(0.2), &[0, 0])?, 0);
    assert_eq!(choose(&greedy().frequency_penalty(0.2), &[0, 0, 0])?, 1);
    let window = greedy().frequency_penalty(0.2).frequency_context(2);
    assert_eq!(choose(&window, &[0, 0, 0])?, 0);
    assert_eq!(choose(&greedy().logit_bias(vec![(2, 1.0)]), &[])?, 2);
    assert_eq!(
        choose(&greedy().logit_bias(vec![(0, f32::NEG_INFINITY)]), &[])?,
        1
    );
    assert!(choose(&greedy().logit_bias(vec![(3, 1.0)]), &[]).is_err());
    // The text ends as `1 2`, which was followed by 0 before.
    let dry = greedy().dry(Some(Dry::new(0.9)));
    assert_eq!(choose(&dry, &[1, 2, 0, 1, 2])?, 1);
    assert_eq!(
        choose(&greedy().dry(Some(Dry::new(0.4))), &[1, 2, 0, 1, 2])?,
        0
    );
    Ok(())
}
