//! Prompt caches in files.

use std::collections::BTreeMap;

use mlx_core::Array;
use mlx_core::ops::random;
use mlx_lm::cache::{
    self, Cache, CacheList, ChunkedKvCache, KvCache, KvQuantization, LayerCache, RotatingCache,
    StateCache,
};

use crate::support::{Outcome, distance};

fn noise(seed: u64, length: i32) -> mlx_core::Result<Array> {
    random::normal::<f32>(0.0, 1.0, &[1, 2, length, 32], Some(&random::key(seed)?))
}

fn filled(mut layer: Box<dyn LayerCache>, pieces: &[i32]) -> mlx_lm::Result<Box<dyn LayerCache>> {
    for (seed, &length) in (0..).zip(pieces) {
        drop(layer.update(&noise(seed, length)?, &noise(seed + 50, length)?)?);
    }
    Ok(layer)
}

fn every_kind() -> mlx_lm::Result<Cache> {
    let packed = KvQuantization::new(4).group_size(32);
    let mut state: Box<dyn LayerCache> = Box::new(StateCache::new(2));
    let states = cache::as_state(state.as_mut())?;
    states.set(1, noise(9, 3)?)?;
    states.advance(11);
    let list = CacheList::new(vec![filled(Box::new(KvCache::new()), &[4])?, state.clone()]);
    Ok(vec![
        filled(Box::new(KvCache::new()), &[5, 1, 1])?,
        Box::new(KvCache::new()),
        filled(Box::new(KvCache::quantized(packed)), &[7])?,
        filled(
            Box::new(RotatingCache::new(8, 2)),
            &[3, 1, 1, 1, 1, 1, 1, 1],
        )?,
        filled(Box::new(RotatingCache::new(8, 0)), &[12, 4])?,
        filled(
            Box::new(RotatingCache::new(8, 0).quantized(Some(packed))),
            &[12, 1],
        )?,
        filled(Box::new(ChunkedKvCache::new(4)), &[3, 1, 1])?,
        state,
        Box::new(list),
    ])
}

#[test]
fn every_kind_goes_on_after_a_file_as_it_would_without() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("prompt.safetensors");
    let mut original = every_kind()?;
    let notes = BTreeMap::from([("model".to_owned(), "tiny".to_owned())]);
    cache::save(&path, &original, &notes)?;
    let (mut loaded, found) = cache::load(&path)?;
    assert_eq!(found, notes);
    assert_eq!(loaded.len(), original.len());
    for (index, (layer, loaded)) in original.iter_mut().zip(&mut loaded).enumerate() {
        assert_eq!(layer.offset(), loaded.offset(), "layer {index}");
        if let Ok(states) = cache::as_state(loaded.as_mut()) {
            assert!(states.get(0).is_none());
            let state = states.get(1).ok_or("lost")?;
            assert_eq!(distance(state, &noise(9, 3)?)?, 0.0);
            continue;
        }
        for length in [1, 3, 1] {
            let (keys, values) = (noise(70, length)?, noise(71, length)?);
            let (expected, _) = layer.update(&keys, &values)?;
            let (found, _) = loaded.update(&keys, &values)?;
            assert_eq!(distance(&expected, &found)?, 0.0, "layer {index}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_is_saved_row_by_row_only() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("prompt.safetensors");
    let one: Cache = vec![filled(Box::new(KvCache::new()), &[3])?];
    let both = cache::merge(&[&one, &one])?;
    assert!(cache::save(&path, &both, &BTreeMap::new()).is_err());
    cache::save(&path, &cache::row(&both, 1)?, &BTreeMap::new())?;
    assert_eq!(cache::load(&path)?.0[0].offset(), 3);
    Ok(())
}

#[test]
fn damaged_files_are_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("prompt.safetensors");
    cache::save(&path, &every_kind()?, &BTreeMap::new())?;
    let bytes = std::fs::read(&path)?;
    // Any byte of the head may be wrong; nothing may panic or be believed.
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into()?))? + 8;
    for at in (0..length).step_by(7) {
        let mut broken = bytes.clone();
        broken[at] ^= 0x15;
        std::fs::write(&path, &broken)?;
        drop(cache::load(&path));
    }
    std::fs::write(&path, &bytes[..bytes.len() / 2])?;
    assert!(cache::load(&path).is_err());
    std::fs::write(&path, b"")?;
    assert!(cache::load(&path).is_err());
    Ok(())
}
