//! Arrays from one-line descriptions: the Rust side of tests/parity/core_spec.py.

use mlx_core::{Array, Complex32, Dtype, Element, Index, Result, bf16, f16};

use crate::calls::with_element;

pub(super) fn dtype(name: &str) -> Dtype {
    match name {
        "bool" => Dtype::Bool,
        "u8" => Dtype::Uint8,
        "u16" => Dtype::Uint16,
        "u32" => Dtype::Uint32,
        "u64" => Dtype::Uint64,
        "i8" => Dtype::Int8,
        "i16" => Dtype::Int16,
        "i32" => Dtype::Int32,
        "i64" => Dtype::Int64,
        "f16" => Dtype::Float16,
        "bf16" => Dtype::Bfloat16,
        "f32" => Dtype::Float32,
        "f64" => Dtype::Float64,
        "c64" => Dtype::Complex64,
        other => panic!("no dtype is called {other}"),
    }
}

pub(super) fn dims(text: &str) -> Vec<i32> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split('x').map(|dim| dim.parse().unwrap()).collect()
}

/// Elements as numbers; complex ones as two. Integers of 64 bits keep their order, not all digits.
pub(super) fn numbers(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    macro_rules! read {
        ($type:ty, $wide:expr) => {
            bytes
                .chunks_exact(size_of::<$type>())
                .map(|chunk| $wide(<$type>::from_le_bytes(chunk.try_into().unwrap())))
                .collect()
        };
    }
    match dtype {
        Dtype::Bool | Dtype::Uint8 => bytes.iter().map(|&v| f64::from(v)).collect(),
        Dtype::Uint16 => read!(u16, f64::from),
        Dtype::Uint32 => read!(u32, f64::from),
        Dtype::Uint64 => read!(u64, |v| v as f64),
        Dtype::Int8 => read!(i8, f64::from),
        Dtype::Int16 => read!(i16, f64::from),
        Dtype::Int32 => read!(i32, f64::from),
        Dtype::Int64 => read!(i64, |v| v as f64),
        Dtype::Float16 => read!(f16, f64::from),
        Dtype::Bfloat16 => read!(bf16, f64::from),
        Dtype::Float32 | Dtype::Complex64 => read!(f32, f64::from),
        Dtype::Float64 => read!(f64, |v| v),
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn words(seed: u64, count: usize) -> Vec<u64> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
        .collect()
}

const WILD: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    1e30,
    -1e30,
    1e-30,
    3.5,
    -2.5,
    60000.0,
    1e-8,
    -7.0,
];

fn small(z: u64, modulus: u64) -> i64 {
    i64::try_from(z % modulus).unwrap()
}

fn integer(rule: &str, low: i128, high: i128, i: usize, z: u64) -> i128 {
    let i = i64::try_from(i).unwrap();
    let below_zero = low < 0;
    match rule {
        "wild" => [0, 1, low, high, high - 1, 7, low.max(-8), low.max(-1)]
            [usize::try_from(z % 8).unwrap()],
        "pos" => i128::from(1 + small(z, 9)),
        "unit" => i128::from(small(z, 2)),
        "dist" => i128::from(i * 37 % 101) - if below_zero { 50 } else { 0 },
        _ => i128::from(small(z, 11)) - if below_zero { 5 } else { 0 },
    }
}

fn real(rule: &str, i: usize, z: u64) -> f64 {
    let whole = |value: i64| value as f64;
    match rule {
        "wild" => WILD[usize::try_from(z % 16).unwrap()],
        "pos" => whole(small(z, 80) + 1) / 8.0,
        "unit" => whole(small(z, 15) + 1) / 16.0,
        "dist" => whole(i64::try_from(i * 37 % 101).unwrap()) / 8.0 - 6.0,
        _ => whole(small(z, 81) - 40) / 8.0,
    }
}

/// A real number in a dtype; Python's go through float32.
fn floats(values: &[f64], shape: &[i32], dtype: Dtype) -> Result<Array> {
    let narrow = |v: f64| {
        if dtype == Dtype::Float64 {
            v
        } else {
            f64::from(v as f32)
        }
    };
    with_element!(dtype, T => {
        let data: Vec<T> = values.iter().map(|&v| <T as Element>::from_f64(narrow(v))).collect();
        Array::from_slice(&data, shape)
    })
}

fn filled(dtype: Dtype, shape: &[i32], rule: &str, seed: u64) -> Result<Array> {
    let count: i32 = shape.iter().product();
    let random = words(seed, usize::try_from(count).unwrap());
    macro_rules! integers {
        ($type:ty) => {{
            let (low, high) = (i128::from(<$type>::MIN), i128::from(<$type>::MAX));
            let data: Vec<$type> = random
                .iter()
                .enumerate()
                .map(|(i, &z)| <$type>::try_from(integer(rule, low, high, i, z)).unwrap())
                .collect();
            Array::from_slice(&data, shape)
        }};
    }
    match dtype {
        Dtype::Bool => {
            let data: Vec<bool> = random.iter().map(|z| z & 1 == 1).collect();
            Array::from_slice(&data, shape)
        }
        Dtype::Uint8 => integers!(u8),
        Dtype::Uint16 => integers!(u16),
        Dtype::Uint32 => integers!(u32),
        Dtype::Uint64 => integers!(u64),
        Dtype::Int8 => integers!(i8),
        Dtype::Int16 => integers!(i16),
        Dtype::Int32 => integers!(i32),
        Dtype::Int64 => integers!(i64),
        Dtype::Complex64 => {
            let part = |i: usize, z: u64| real(rule, i, z) as f32;
            let data: Vec<Complex32> = random
                .iter()
                .enumerate()
                .map(|(i, &z)| Complex32::new(part(i, z), part(i + 1, z >> 16)))
                .collect();
            Array::from_slice(&data, shape)
        }
        _ => {
            let values: Vec<f64> = random
                .iter()
                .enumerate()
                .map(|(i, &z)| real(rule, i, z))
                .collect();
            floats(&values, shape, dtype)
        }
    }
}

/// The array that a description after `@` names.
pub(super) fn make(text: &str) -> Result<Array> {
    let text = text.strip_prefix('@').unwrap_or(text);
    let (head, listed) = text.split_once('=').unwrap_or((text, ""));
    let mut parts = head.split(':');
    let dtype = dtype(parts.next().unwrap());
    let shape = dims(parts.next().unwrap_or(""));
    if !listed.is_empty() {
        let values: Vec<f64> = listed.split(',').map(|v| v.parse().unwrap()).collect();
        return floats(&values, &shape, dtype);
    }
    let rule = parts.next().unwrap_or("small");
    let seed = parts.next().map_or(1, |seed| seed.parse().unwrap());
    match (parts.next().unwrap_or(""), shape.as_slice()) {
        ("S", [outer @ .., last]) => {
            let wide = filled(dtype, &[outer, &[2 * last]].concat(), rule, seed)?;
            let mut index = vec![Index::slice(None, None, 1); outer.len()];
            index.push(Index::slice(None, None, 2));
            wide.index(index)
        }
        ("T", _) => {
            let reversed: Vec<i32> = shape.iter().rev().copied().collect();
            filled(dtype, &reversed, rule, seed)?.transpose()
        }
        ("B", [_, inner @ ..]) => {
            filled(dtype, &[&[1], inner].concat(), rule, seed)?.broadcast_to(&shape)
        }
        ("R", [_, ..]) => filled(dtype, &shape, rule, seed)?.flip(),
        ("L", _) if dtype == Dtype::Bool => filled(dtype, &shape, rule, seed)?
            .logical_not()?
            .logical_not(),
        ("L", _) => {
            let array = filled(dtype, &shape, rule, seed)?;
            array.maximum(&array)
        }
        _ => filled(dtype, &shape, rule, seed),
    }
}
