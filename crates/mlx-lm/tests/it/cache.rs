//! Caches against the plain history.

use mlx_core::Array;
use mlx_core::ops::indexing::slice;
use mlx_core::ops::random;
use mlx_core::ops::shape::concatenate;
use mlx_lm::cache::{
    Attend, CacheOptions, KvCache, LayerCache, RotatingCache, attention_cache, trim,
};
use mlx_nn::{Mask, scaled_dot_product_attention};

use crate::support::{Outcome, distance};

/// Keys or values of `length` positions, `[1, 2, length, 4]`.
pub(crate) fn noise(seed: u64, length: i32) -> mlx_core::Result<Array> {
    random::normal::<f32>(0.0, 1.0, &[1, 2, length, 4], Some(&random::key(seed)?))
}

fn span(array: &Array, start: i32, stop: i32) -> mlx_core::Result<Array> {
    slice(array, &[0, 0, start, 0], &[1, 2, stop, 4])
}

/// Feeds `history` in pieces and compares each output with attention over the
/// positions that `visible` says a query may see.
pub(crate) fn compare(
    cache: &mut dyn LayerCache,
    pieces: &[i32],
    visible: impl Fn(i32, i32) -> bool,
) -> Outcome {
    let total: i32 = pieces.iter().sum();
    let (queries, keys, values) = (noise(1, total)?, noise(2, total)?, noise(3, total)?);
    let mut allowed = Vec::new();
    for query in 0..total {
        allowed.extend((0..total).map(|key| key <= query && visible(query, key)));
    }
    let mask = Mask::Array(Array::from_slice::<bool>(&allowed, &[total, total])?);
    let expected = scaled_dot_product_attention(&queries, &keys, &values, 0.5, &mask)?;
    let mut outputs = Vec::new();
    let mut start = 0;
    for &length in pieces {
        let stop = start + length;
        let mask = cache.mask(length)?;
        let output = cache.attend(
            &span(&queries, start, stop)?,
            &span(&keys, start, stop)?,
            &span(&values, start, stop)?,
            Attend::new(0.5, &mask),
        )?;
        outputs.push(output);
        start = stop;
        assert_eq!(cache.offset(), start);
    }
    let error = distance(
        &expected,
        &concatenate(&outputs.iter().collect::<Vec<_>>(), 2)?,
    )?;
    assert!(error < 1e-5, "{pieces:?}: {error}");
    Ok(())
}

#[test]
fn a_growing_cache_keeps_everything() -> Outcome {
    for pieces in [
        &[5, 1, 1, 7, 1][..],
        &[255, 1, 1, 1],
        &[256, 300, 1],
        &[1, 600],
    ] {
        compare(&mut KvCache::new(), pieces, |_, _| true)?;
    }
    Ok(())
}

#[test]
fn a_growing_cache_grows_by_256_positions() -> Outcome {
    let mut cache = KvCache::new();
    assert_eq!(cache.nbytes(), 0);
    drop(cache.update(&noise(1, 3)?, &noise(2, 3)?)?);
    let step = 2 * 256 * 2 * 4 * 4;
    assert_eq!(cache.nbytes(), step);
    drop(cache.update(&noise(1, 253)?, &noise(2, 253)?)?);
    assert_eq!(cache.nbytes(), step);
    drop(cache.update(&noise(1, 1)?, &noise(2, 1)?)?);
    assert_eq!(cache.nbytes(), 2 * step);
    Ok(())
}

#[test]
fn a_rotating_cache_is_a_sliding_window() -> Outcome {
    for pieces in [
        &[3, 1, 1, 1, 1, 1, 1][..],
        &[20, 1, 1, 1],
        &[4, 9, 1, 1, 6, 1],
        &[1; 30],
        &[12, 12, 12],
        &[8, 1, 2, 1],
    ] {
        compare(&mut RotatingCache::new(8, 0), pieces, |query, key| {
            query - key < 8
        })?;
    }
    compare(
        &mut RotatingCache::new(300, 0),
        &[290, 1, 1, 200, 1, 1],
        |query, key| query - key < 300,
    )
}

#[test]
fn sinks_stay_visible() -> Outcome {
    // With two sinks in eight places, single tokens see six others.
    let mut cache = RotatingCache::new(8, 2);
    compare(&mut cache, &[1; 25], |query, key| {
        key < 2 || query - key < if query < 8 { 8 } else { 6 }
    })
}

#[test]
fn a_full_rotating_cache_is_of_constant_size() -> Outcome {
    let mut cache = RotatingCache::new(8, 4);
    for _ in 0..40 {
        drop(cache.update(&noise(1, 1)?, &noise(2, 1)?)?);
    }
    assert_eq!(cache.nbytes(), 2 * 8 * 2 * 4 * 4);
    assert_eq!(cache.offset(), 40);
    Ok(())
}

#[test]
fn trimming_forgets_the_newest() -> Outcome {
    let mut cache = KvCache::new();
    let (keys, values) = (noise(1, 10)?, noise(2, 10)?);
    drop(cache.update(&span(&keys, 0, 6)?, &span(&values, 0, 6)?)?);
    assert_eq!(cache.trim(4), 4);
    let (kept, _) = cache.update(&span(&keys, 7, 9)?, &span(&values, 7, 9)?)?;
    let expected = concatenate(&[&span(&keys, 0, 2)?, &span(&keys, 7, 9)?], 2)?;
    assert_eq!(distance(&kept, &expected)?, 0.0);
    assert_eq!(cache.trim(99), 4);
    assert_eq!(cache.offset(), 0);
    Ok(())
}

#[test]
fn a_wrapped_cache_cannot_be_trimmed_and_then_none_is() -> Outcome {
    let mut cache = vec![
        attention_cache(None, &CacheOptions::default()),
        attention_cache(Some(4), &CacheOptions::default()),
    ];
    for layer in &mut cache {
        drop(layer.update(&noise(1, 3)?, &noise(2, 3)?)?);
    }
    assert!(trim(&mut cache, 1));
    assert_eq!(cache[0].offset(), 2);
    for layer in &mut cache {
        for _ in 0..5 {
            drop(layer.update(&noise(1, 1)?, &noise(2, 1)?)?);
        }
    }
    assert!(!trim(&mut cache, 1));
    assert_eq!((cache[0].offset(), cache[1].offset()), (7, 7));
    Ok(())
}

#[test]
fn a_copy_evolves_on_its_own() -> Outcome {
    let mut original: Box<dyn LayerCache> = Box::new(KvCache::new());
    drop(original.update(&noise(1, 3)?, &noise(2, 3)?)?);
    let mut copy = original.clone();
    drop(copy.update(&noise(3, 1)?, &noise(4, 1)?)?);
    let (kept, _) = original.update(&noise(5, 1)?, &noise(6, 1)?)?;
    let expected = concatenate(&[&noise(1, 3)?, &noise(5, 1)?], 2)?;
    assert_eq!(distance(&kept, &expected)?, 0.0);
    assert_eq!(copy.offset(), 4);
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_leave_the_cache_usable() -> Outcome {
    let mut cache = KvCache::new();
    drop(cache.update(&noise(1, 3)?, &noise(2, 3)?)?);
    let other = Array::zeros::<f32>(&[1, 3, 1, 4])?;
    assert!(cache.update(&other, &other).is_err());
    assert_eq!(cache.offset(), 3);
    let (kept, _) = cache.update(&noise(5, 1)?, &noise(6, 1)?)?;
    assert_eq!(
        distance(&kept, &concatenate(&[&noise(1, 3)?, &noise(5, 1)?], 2)?)?,
        0.0
    );
    Ok(())
}

/// The softcap path against the formula, spelled out with plain operations.
#[test]
fn capped_scores_equal_the_formula() -> Outcome {
    let array = |shape: &[i32], seed: u64| {
        let key = mlx_core::ops::random::key(seed)?;
        mlx_core::ops::random::normal::<f32>(0.0, 1.0, shape, Some(&key))
    };
    let (queries, keys, values) = (
        array(&[2, 4, 3, 8], 0)?,
        array(&[2, 2, 5, 8], 1)?,
        array(&[2, 2, 5, 8], 2)?,
    );
    let causal = mlx_nn::create_causal_mask(3, 2, None)?;
    let repeat = |x: &Array| mlx_core::ops::shape::repeat_axis(x, 2, 1);
    let scores = queries.matmul(&repeat(&keys)?.swapaxes(-1, -2)?)?;
    let scores = ((scores * 0.5)?.divide(&Array::scalar(2.0_f32)?)?.tanh()? * 2.0)?;
    let hidden = Array::scalar(f32::NEG_INFINITY)?;
    let scores = mlx_core::ops::indexing::r#where(&causal, &scores, &hidden)?;
    let expected = scores.softmax(&[-1])?.matmul(&repeat(&values)?)?;
    let expected = expected.to_vec::<f32>()?;
    let per_head = mlx_core::ops::shape::broadcast_to(&causal, &[2, 4, 3, 5])?;
    for mask in [
        Mask::Causal,
        Mask::Array(causal.clone()),
        Mask::Array(per_head),
    ] {
        let attend = Attend::new(0.5, &mask).softcap(Some(2.0));
        let output = attend.compute(&queries, &keys, &values)?;
        for (found, expected) in output.to_vec::<f32>()?.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }
    Ok(())
}
