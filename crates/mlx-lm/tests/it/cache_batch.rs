//! Batched and packed caches against single and plain ones.

use mlx_core::Array;
use mlx_core::ops::indexing::slice;
use mlx_core::ops::random;
use mlx_core::ops::shape::concatenate;
use mlx_lm::Error;
use mlx_lm::cache::{
    self, Attend, Cache, CacheList, CacheOptions, ChunkedKvCache, KvCache, KvQuantization,
    LayerCache, RotatingCache, StateCache, attention_cache,
};
use mlx_nn::Mask;

use crate::support::{Outcome, distance};

const DIM: i32 = 32;

fn noise(seed: u64, rows: i32, heads: i32, length: i32) -> mlx_core::Result<Array> {
    let key = random::key(seed)?;
    random::normal::<f32>(0.0, 1.0, &[rows, heads, length, DIM], Some(&key))
}

fn row_of(array: &Array, row: i32) -> mlx_core::Result<Array> {
    let (heads, length) = (array.dim(1)?, array.dim(2)?);
    slice(array, &[row, 0, 0, 0], &[row + 1, heads, length, DIM])
}

type Step = (Array, Array, Array);

fn step(seed: u64, rows: i32, length: i32) -> mlx_core::Result<Step> {
    Ok((
        noise(seed, rows, 4, length)?,
        noise(seed + 1000, rows, 2, length)?,
        noise(seed + 2000, rows, 2, length)?,
    ))
}

fn run(layer: &mut dyn LayerCache, (queries, keys, values): &Step) -> mlx_lm::Result<Array> {
    let mask = layer.mask(queries.dim(2)?)?;
    layer.attend(queries, keys, values, Attend::new(0.3, &mask))
}

/// Feeds both and compares each row.
fn compare(
    batch: &mut dyn LayerCache,
    singles: &mut [Box<dyn LayerCache>],
    seed: u64,
    length: i32,
) -> Outcome {
    let rows = i32::try_from(singles.len())?;
    let (queries, keys, values) = step(seed, rows, length)?;
    let positions = match batch.positions() {
        mlx_nn::Offset::Each(each) => each.to_vec::<i32>()?,
        mlx_nn::Offset::Shared(all) => vec![all; singles.len()],
    };
    let together = run(batch, &(queries.clone(), keys.clone(), values.clone()))?;
    for (index, single) in singles.iter_mut().enumerate() {
        assert_eq!(positions[index], single.offset(), "row {index}");
        let row = i32::try_from(index)?;
        let own = (
            row_of(&queries, row)?,
            row_of(&keys, row)?,
            row_of(&values, row)?,
        );
        let alone = run(single.as_mut(), &own)?;
        let error = distance(&row_of(&together, row)?, &alone)?;
        assert!(error < 2e-5, "row {index}, seed {seed}: {error}");
    }
    Ok(())
}

fn started(
    make: &dyn Fn() -> Box<dyn LayerCache>,
    seed: u64,
    length: i32,
) -> Result<Box<dyn LayerCache>, Box<dyn std::error::Error>> {
    let mut layer = make();
    if length > 0 {
        drop(run(layer.as_mut(), &step(seed, 1, length)?)?);
    }
    Ok(layer)
}

/// Joins, leaves, trims and steps of one and of several tokens.
fn scenario(make: &dyn Fn() -> Box<dyn LayerCache>) -> Outcome {
    let mut singles = Vec::new();
    for (seed, length) in [(1, 5), (2, 1), (3, 21)] {
        singles.push(started(make, seed, length)?);
    }
    let others = [singles[1].as_ref(), singles[2].as_ref()];
    let mut batch = singles[0].merge(&others)?;
    for (seed, length) in [(10, 1), (11, 1), (12, 3), (13, 1)] {
        compare(batch.as_mut(), &mut singles, seed, length)?;
    }
    // Several at once, of which some are taken back.
    compare(batch.as_mut(), &mut singles, 20, 4)?;
    let counts = [3, 0, 1];
    if batch.can_trim(3) && singles.iter().all(|single| single.can_trim(3)) {
        batch.trim_rows(&counts)?;
        for (single, count) in singles.iter_mut().zip(counts) {
            assert_eq!(single.trim(count), count);
        }
    }
    compare(batch.as_mut(), &mut singles, 21, 1)?;
    // One leaves, two join, one of them new and one with a history.
    batch = batch.select(&[2, 0])?;
    singles = vec![singles[2].clone(), singles[0].clone()];
    let joining = [started(make, 30, 2)?, started(make, 31, 40)?];
    batch = batch.merge(&[joining[0].as_ref(), joining[1].as_ref()])?;
    singles.extend(joining);
    assert_eq!(batch.rows(), 4);
    for seed in 40..60 {
        compare(batch.as_mut(), &mut singles, seed, 1)?;
    }
    // Each row goes on by itself.
    for (index, single) in (0..).zip(&mut singles) {
        let mut own = batch.row(index)?;
        assert_eq!(own.offset(), single.offset());
        for (seed, length) in [(70, 1), (71, 5), (72, 1)] {
            let step = step(seed, 1, length)?;
            let error = distance(&run(own.as_mut(), &step)?, &run(single.as_mut(), &step)?)?;
            assert!(error < 2e-5, "row {index} alone: {error}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_equals_its_sequences_in_every_kind_of_cache() -> Outcome {
    let packed = Some(KvQuantization::new(8).group_size(32));
    for quantization in [None, packed] {
        scenario(&|| attention_cache(None, &CacheOptions::default().quantization(quantization)))?;
        for (size, keep) in [(8, 0), (8, 3), (30, 4), (100, 0)] {
            scenario(&|| Box::new(RotatingCache::new(size, keep).quantized(quantization)))?;
        }
        scenario(&|| Box::new(ChunkedKvCache::new(8).quantized(quantization)))?;
    }
    // Packed from some length on: each row when it has that length itself.
    let later = |start| KvQuantization::new(2).group_size(32).start(start);
    for start in [3, 8, 12, 30] {
        scenario(&|| Box::new(KvCache::quantized(later(start))))?;
    }
    scenario(&|| Box::new(ChunkedKvCache::new(8).quantized(Some(later(4)))))?;
    scenario(&|| Box::new(CacheList::new(vec![Box::new(KvCache::new())])))
}

#[test]
fn left_padded_prompts_equal_single_ones() -> Outcome {
    let later = KvQuantization::new(2).group_size(32).start(8);
    let kinds: [&dyn Fn() -> Box<dyn LayerCache>; 5] = [
        &|| Box::new(KvCache::new()),
        &|| Box::new(KvCache::quantized(later)),
        &|| Box::new(RotatingCache::new(6, 2)),
        &|| Box::new(RotatingCache::new(64, 0)),
        &|| Box::new(ChunkedKvCache::new(4)),
    ];
    for make in kinds {
        let lengths = [3, 9, 7];
        let padding = lengths.map(|length| 9 - length);
        let mut batch = make().left_padded(&padding)?;
        let (queries, keys, values) = step(5, 3, 9)?;
        let together = run(
            batch.as_mut(),
            &(queries.clone(), keys.clone(), values.clone()),
        )?;
        let mut singles = Vec::new();
        for (row, pad) in (0..).zip(padding) {
            let cut =
                |array: &Array| slice(array, &[row, 0, pad, 0], &[row + 1, array.dim(1)?, 9, DIM]);
            let mut single = make();
            let alone = run(
                single.as_mut(),
                &(cut(&queries)?, cut(&keys)?, cut(&values)?),
            )?;
            assert!(distance(&cut(&together)?, &alone)? < 2e-5);
            singles.push(single);
        }
        for seed in 50..56 {
            compare(batch.as_mut(), &mut singles, seed, 1)?;
        }
    }
    Ok(())
}

#[test]
fn states_are_batched_row_by_row() -> Outcome {
    let state = |value: f32, tokens: i32| -> Result<Box<dyn LayerCache>, Error> {
        let mut layer: Box<dyn LayerCache> = Box::new(StateCache::new(2));
        let states = cache::as_state(layer.as_mut())?;
        states.set(0, Array::full::<f32>(&[1, 2], value)?)?;
        states.advance(tokens);
        Ok(layer)
    };
    let (one, two, fresh) = (state(1.0, 4)?, state(2.0, 7)?, StateCache::new(2));
    let mut batch = one.merge(&[two.as_ref(), &fresh])?;
    assert_eq!((batch.rows(), batch.offset()), (3, 7));
    let held = cache::as_state(batch.as_mut())?.get(0).cloned();
    assert_eq!(
        held.ok_or("empty")?.to_vec::<f32>()?,
        [1.0, 1.0, 2.0, 2.0, 0.0, 0.0]
    );
    let mut last = batch.select(&[1, 0])?.row(1)?;
    assert_eq!(last.offset(), 4);
    let held = cache::as_state(last.as_mut())?.get(0).cloned();
    assert_eq!(held.ok_or("empty")?.to_vec::<f32>()?, [1.0, 1.0]);
    assert!(batch.select(&[3]).is_err());
    assert!(batch.trim_rows(&[1, 0, 0]).is_err());
    Ok(())
}

#[test]
fn packed_attention_equals_attention_to_the_unpacked() -> Outcome {
    let sinks = random::normal::<f32>(0.0, 1.0, &[4], Some(&random::key(8)?))?;
    let format = KvQuantization::new(4).group_size(32);
    for (sinks, softcap) in [
        (None, None),
        (Some(&sinks), None),
        (None, Some(3.0)),
        (Some(&sinks), Some(3.0)),
    ] {
        for length in [1, 6] {
            let history = step(1, 2, 10)?;
            let new = step(2, 2, length)?;
            let (mut packed, mut reference) =
                (KvCache::quantized(format), KvCache::quantized(format));
            drop(run(&mut packed, &history)?);
            drop(run(&mut reference, &history)?);
            let mask = packed.mask(length)?;
            let attend = Attend::new(0.3, &mask).sinks(sinks).softcap(softcap);
            let output = packed.attend(&new.0, &new.1, &new.2, attend)?;
            let (keys, values) = reference.update(&new.1, &new.2)?;
            let error = distance(&output, &attend.compute(&new.0, &keys, &values)?)?;
            assert!(error < 1e-5, "{length} tokens: {error}");
        }
    }
    Ok(())
}

#[test]
fn sinks_with_a_cap_equal_one_more_key_of_no_value() -> Outcome {
    let (queries, keys, values) = step(3, 1, 5)?;
    let cap = 50.0;
    let attend = Attend::new(0.3, &Mask::Causal).softcap(Some(cap));
    let without = attend.compute(&queries, &keys, &values)?;
    let sinks = Array::full::<f32>(&[4], -40.0_f32)?;
    let with = attend
        .sinks(Some(&sinks))
        .compute(&queries, &keys, &values)?;
    assert!(distance(&with, &without)? < 1e-6);
    let sinks = Array::full::<f32>(&[4], 40.0_f32)?;
    let with = attend
        .sinks(Some(&sinks))
        .compute(&queries, &keys, &values)?;
    assert!(with.abs()?.max(false)?.item::<f32>()? < 1e-6);
    Ok(())
}

#[test]
fn packing_starts_where_it_is_told_and_takes_less_room() -> Outcome {
    let format = KvQuantization::new(4).group_size(32).start(300);
    let mut layer = KvCache::quantized(format);
    drop(run(&mut layer, &step(1, 1, 300)?)?);
    let dense = layer.nbytes();
    drop(run(&mut layer, &step(2, 1, 1)?)?);
    // Codes of 4 bits and a float32 scale and bias for every 32 of them.
    assert_eq!(layer.nbytes() * 32, dense * 6);
    let error = KvCache::quantized(KvQuantization::new(4))
        .update(&noise(1, 1, 2, 3)?, &noise(2, 1, 2, 3)?)
        .err()
        .ok_or("accepted")?;
    assert!(error.to_string().contains("does not divide"), "{error}");
    assert!(KvQuantization::new(7).validate().is_err());
    Ok(())
}

#[test]
fn a_window_trims_what_its_last_chunk_brought() -> Outcome {
    let mut layer = RotatingCache::new(8, 0);
    drop(run(&mut layer, &step(1, 1, 20)?)?);
    drop(run(&mut layer, &step(2, 1, 4)?)?);
    let mut reference: Box<dyn LayerCache> = Box::new(RotatingCache::new(8, 0));
    drop(run(reference.as_mut(), &step(1, 1, 20)?)?);
    assert!(layer.can_trim(4) && !layer.can_trim(5));
    assert_eq!(layer.trim(4), 4);
    for seed in 3..20 {
        let new = step(seed, 1, 1)?;
        let error = distance(&run(&mut layer, &new)?, &run(reference.as_mut(), &new)?)?;
        assert!(error < 1e-6, "{error}");
    }
    assert!(!layer.can_trim(2));
    Ok(())
}

#[test]
fn whole_caches_join_and_part() -> Outcome {
    let make = || -> Cache { vec![Box::new(KvCache::new()), Box::new(RotatingCache::new(4, 0))] };
    let (mut one, mut two) = (make(), make());
    for (layer, seed) in one.iter_mut().zip(1..) {
        drop(run(layer.as_mut(), &step(seed, 1, 3)?)?);
    }
    for (layer, seed) in two.iter_mut().zip(5..) {
        drop(run(layer.as_mut(), &step(seed, 1, 2)?)?);
    }
    let mut both = cache::merge(&[&one, &two])?;
    assert!(cache::can_trim(&both, 2) && !cache::can_trim(&both, 3));
    cache::trim_rows(&mut both, &[1, 0])?;
    assert_eq!(cache::row(&both, 0)?[1].offset(), 2);
    let mut foreign = make();
    foreign.swap(0, 1);
    assert!(cache::merge(&[&one, &foreign]).is_err());
    assert!(concatenate(&cache::row(&both, 1)?[0].state(), 0).is_ok());
    Ok(())
}
