//! Caches of layers that do not, or not only, attend to everything.

use mlx_core::ops::random;
use mlx_core::{Array, Dtype};
use mlx_lm::Error;
use mlx_lm::cache::{
    self, CacheList, ChunkedKvCache, KindMasks, KvCache, KvQuantization, LayerCache, LayerKind,
    RotatingCache, StateCache, trim,
};

use crate::cache::{compare, noise};
use crate::support::Outcome;

#[test]
fn a_chunked_cache_sees_its_chunk_only() -> Outcome {
    for pieces in [
        &[3, 1, 1, 1, 1, 1, 1][..],
        &[20, 1, 1, 1],
        &[4, 9, 1, 1, 6, 1],
        &[1; 30],
        &[8, 8, 1, 7],
    ] {
        compare(&mut ChunkedKvCache::new(8), pieces, |query, key| {
            query / 8 == key / 8
        })?;
    }
    Ok(())
}

#[test]
fn states_skip_padding_and_count_tokens() -> Outcome {
    let mut layer = StateCache::left_padded(1, &[2, 0]);
    let mask = layer.token_mask(3)?.ok_or("no mask")?;
    assert_eq!(
        mask.to_vec::<bool>()?,
        [false, false, true, true, true, true]
    );
    layer.advance(1);
    let mask = layer.token_mask(2)?.ok_or("no mask")?;
    assert_eq!(mask.to_vec::<bool>()?, [false, true, true, true]);
    layer.advance(2);
    assert!(layer.token_mask(1)?.is_none());
    assert_eq!(layer.offset(), 3);
    assert!(!layer.is_trimmable());
    assert!(layer.set(1, Array::scalar(0.0_f32)?).is_err());
    Ok(())
}

#[test]
fn a_copy_of_states_evolves_on_its_own() -> Outcome {
    let mut original: Box<dyn LayerCache> = Box::new(StateCache::new(1));
    cache::as_state(original.as_mut())?.set(0, Array::scalar(1.0_f32)?)?;
    let mut copy = original.clone();
    cache::as_state(copy.as_mut())?.set(0, Array::scalar(2.0_f32)?)?;
    let first = cache::as_state(original.as_mut())?.get(0).ok_or("empty")?;
    assert_eq!(first.item::<f32>()?, 1.0);
    Ok(())
}

#[test]
fn a_foreign_cache_is_a_typed_error() {
    let mut layer: Box<dyn LayerCache> = Box::new(KvCache::new());
    for error in [
        cache::as_state(layer.as_mut()).err(),
        cache::as_list(layer.as_mut()).err(),
        CacheList::new(Vec::new()).mask(1).err(),
        StateCache::new(1)
            .update(
                &Array::scalar(0_f32).unwrap(),
                &Array::scalar(0_f32).unwrap(),
            )
            .err(),
    ] {
        assert!(matches!(
            error,
            Some(Error::Option {
                option: "cache",
                ..
            })
        ));
    }
}

#[test]
fn a_list_trims_only_if_every_part_can() -> Outcome {
    let parts = |state: bool| -> Vec<Box<dyn LayerCache>> {
        let mut parts: Vec<Box<dyn LayerCache>> = vec![Box::new(KvCache::new())];
        if state {
            parts.push(Box::new(StateCache::new(1)));
        }
        parts
    };
    for hybrid in [false, true] {
        let mut cache: cache::Cache = vec![Box::new(CacheList::new(parts(hybrid)))];
        let list = cache::as_list(cache[0].as_mut())?;
        drop(list.part(0)?.update(&noise(1, 5)?, &noise(2, 5)?)?);
        assert_eq!(trim(&mut cache, 2), !hybrid);
        assert_eq!(cache[0].offset(), if hybrid { 5 } else { 3 });
    }
    Ok(())
}

#[test]
fn kinds_share_their_masks() -> Outcome {
    let kinds = [
        LayerKind::Recurrent,
        LayerKind::Full,
        LayerKind::Chunked(4),
        LayerKind::Stateless,
    ];
    let cache: cache::Cache = vec![
        Box::new(StateCache::left_padded(1, &[1, 0])),
        Box::new(KvCache::new()),
        Box::new(ChunkedKvCache::new(4)),
        Box::new(StateCache::new(0)),
    ];
    let masks = KindMasks::new(&cache, kinds.into_iter(), 6)?;
    assert!(matches!(masks.of(LayerKind::Full), mlx_nn::Mask::Causal));
    assert!(matches!(
        masks.of(LayerKind::Chunked(4)),
        mlx_nn::Mask::Array(_)
    ));
    assert_eq!(masks.tokens().ok_or("no tokens")?.shape(), [2, 6]);
    assert!(
        KindMasks::new(
            &cache,
            kinds.into_iter().take(2).collect::<Vec<_>>().into_iter(),
            6
        )
        .is_err()
    );
    Ok(())
}

#[test]
fn every_kind_of_keys_and_values_can_be_packed_later() -> Outcome {
    let format = KvQuantization::new(8).group_size(32);
    let attention = || -> Vec<Box<dyn LayerCache>> {
        vec![
            Box::new(KvCache::new()),
            Box::new(RotatingCache::new(16, 0)),
            Box::new(ChunkedKvCache::new(16)),
        ]
    };
    let mut layers = attention();
    for part in attention() {
        let states = Box::new(StateCache::new(1));
        layers.push(Box::new(CacheList::new(vec![part, states])));
    }
    let numbers = |seed| {
        let key = random::key(seed)?;
        random::normal::<f32>(0.0, 1.0, &[1, 2, 5, 32], Some(&key))
    };
    let (keys, values) = (numbers(1)?, numbers(2)?);
    for layer in &mut layers {
        drop(layer.update(&keys, &values)?);
    }
    cache::quantize(&mut layers, format)?;
    for layer in &mut layers {
        drop(layer.update(&keys, &values)?);
        assert_eq!(layer.offset(), 10);
        let codes = layer
            .state()
            .iter()
            .filter(|array| array.dtype() == Dtype::Uint32)
            .count();
        assert_eq!(codes, 2, "{layer:?}");
    }
    let other = cache::quantize(&mut layers, KvQuantization::new(4).group_size(32));
    assert!(matches!(
        other,
        Err(Error::Option {
            option: "kv_bits",
            ..
        })
    ));
    Ok(())
}
