//! One trace for several shapes: right, or an error, but never a read outside an array.

use mlx_core::ops::{fast, linalg_basic, reduction, shape};
use mlx_core::{Array, Dtype, Index, Result};
use mlx_transforms::compile;

type Function = Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>;

fn ramp(dims: &[i32]) -> Array {
    let size: i32 = dims.iter().product();
    Array::arange::<f32>(1.0, f64::from(size) + 1.0, 1.0)
        .unwrap()
        .reshape(&dims)
        .unwrap()
}

fn ones(dims: &[i32]) -> Array {
    Array::ones::<f32>(&dims).unwrap()
}

fn traced(
    f: impl Fn(&[Array]) -> Result<Array> + Clone + 'static,
    first: &[Array],
) -> (Function, Function) {
    let plain = f.clone();
    let compiled = compile(move |xs| Ok(vec![f(xs)?]), true).unwrap();
    let outputs = compiled(first).unwrap();
    assert_eq!(same(&outputs, &[plain(first).unwrap()]), None);
    (Box::new(compiled), Box::new(move |xs| Ok(vec![plain(xs)?])))
}

/// How two lists of arrays differ.
fn same(a: &[Array], b: &[Array]) -> Option<String> {
    for (a, b) in a.iter().zip(b) {
        if a.shape() != b.shape() || a.to_bytes().unwrap() != b.to_bytes().unwrap() {
            return Some(format!("{a} is not {b}"));
        }
    }
    (a.len() != b.len()).then(|| "other numbers of results".to_owned())
}

/// Traces with `first`; then each call in `good` must give what the function itself gives, and each
/// in `bad` must fail, before and after the good ones.
#[track_caller]
fn serves(
    f: impl Fn(&[Array]) -> Result<Array> + Clone + 'static,
    first: &[Array],
    good: &[Vec<Array>],
    bad: &[Vec<Array>],
) {
    let (compiled, plain) = traced(f, first);
    for _ in 0..2 {
        for inputs in bad {
            assert!(compiled(inputs).is_err(), "{inputs:?} was served");
        }
        for inputs in good {
            let (found, wanted) = (compiled(inputs).unwrap(), plain(inputs).unwrap());
            assert_eq!(same(&found, &wanted), None, "{inputs:?}");
        }
        assert_eq!(
            same(&compiled(first).unwrap(), &plain(first).unwrap()),
            None
        );
    }
}

#[test]
fn reductions_over_axes_of_size_one_follow_their_length() {
    let inputs = |dims: &[i32]| vec![ramp(dims)];
    for axes in [&[1][..], &[0], &[0, 1], &[-1]] {
        for keepdims in [false, true] {
            let f = move |xs: &[Array]| reduction::sum_axes(&xs[0], axes, keepdims);
            let good = [[3, 5], [1, 1], [7, 1], [1, 4]].map(|dims| inputs(&dims));
            serves(f, &inputs(&[3, 1]), &good, &[]);
            serves(f, &inputs(&[1, 1]), &good, &[]);
        }
    }
    let f = |xs: &[Array]| reduction::mean(&xs[0], false);
    serves(f, &inputs(&[1, 1]), &[inputs(&[2, 3])], &[]);
    let f = |xs: &[Array]| reduction::max_axes(&xs[0], &[1], false);
    serves(f, &inputs(&[2, 1]), &[inputs(&[2, 3])], &[inputs(&[2, 0])]);
    let f = |xs: &[Array]| reduction::softmax(&xs[0], &[-1]);
    serves(f, &inputs(&[2, 1]), &[inputs(&[4, 3])], &[]);
}

#[test]
fn axes_that_were_squeezed_away_must_stay_one() {
    let f = |xs: &[Array]| shape::squeeze_axes(&xs[0], &[1]);
    serves(
        f,
        &[ramp(&[3, 1])],
        &[vec![ramp(&[7, 1])]],
        &[vec![ramp(&[3, 5])], vec![ramp(&[3, 0])]],
    );
    let f = |xs: &[Array]| (&xs[0] * 2.0)?.squeeze();
    serves(
        f,
        &[ramp(&[1, 4])],
        &[vec![ramp(&[1, 9])]],
        &[vec![ramp(&[2, 4])]],
    );
}

#[test]
fn fixed_shapes_are_kept_or_refused() {
    let f = |xs: &[Array]| xs[0].reshape(&[2, 3]);
    serves(
        f,
        &[ramp(&[6])],
        &[],
        &[vec![ramp(&[7])], vec![ramp(&[600])], vec![ramp(&[0])]],
    );
    let f = |xs: &[Array]| xs[0].reshape(&[-1, 2]);
    serves(f, &[ramp(&[6])], &[vec![ramp(&[10])]], &[vec![ramp(&[7])]]);
    let f = |xs: &[Array]| xs[0].unflatten(0, &[2, 3]);
    serves(
        f,
        &[ramp(&[6])],
        &[],
        &[vec![ramp(&[5])], vec![ramp(&[3000])]],
    );
    let f = |xs: &[Array]| xs[0].flatten(0, 1);
    serves(f, &[ramp(&[2, 3])], &[vec![ramp(&[4, 5])]], &[]);
}

#[test]
fn broadcasts_follow_their_operands() {
    let f = |xs: &[Array]| ((&xs[0] + &xs[1])? * 2.0)?.exp();
    let pair = |a: &[i32], b: &[i32]| vec![ramp(a), ones(b)];
    serves(
        f,
        &pair(&[3], &[3]),
        &[pair(&[5], &[5]), pair(&[1], &[4])],
        &[pair(&[3], &[4]), pair(&[4000], &[3])],
    );
    let f = |xs: &[Array]| &xs[0] + &xs[1];
    serves(
        f,
        &pair(&[3, 1], &[1, 4]),
        &[pair(&[2, 1], &[1, 5]), pair(&[2, 5], &[2, 5])],
        &[pair(&[2, 3], &[3, 3])],
    );
    let f = |xs: &[Array]| xs[0].broadcast_to(&[4, 3]);
    serves(
        f,
        &[ramp(&[1, 3])],
        &[vec![ramp(&[4, 1])]],
        &[vec![ramp(&[2, 3])]],
    );
}

#[test]
fn products_check_their_inner_dimensions() {
    let pair = |a: &[i32], b: &[i32]| vec![ramp(a), ones(b)];
    serves(
        |xs| linalg_basic::matmul(&xs[0], &xs[1]),
        &pair(&[2, 3], &[3, 4]),
        &[pair(&[5, 7], &[7, 2])],
        &[pair(&[2, 3000], &[3, 4]), pair(&[2, 3], &[2, 4])],
    );
    let f = |xs: &[Array]| shape::concatenate(&[&xs[0], &xs[1]], 0);
    serves(
        f,
        &pair(&[2, 3], &[1, 3]),
        &[pair(&[4, 5], &[6, 5])],
        &[pair(&[2, 3], &[1, 3000]), pair(&[2, 3000], &[1, 3])],
    );
}

#[test]
fn vectors_of_fused_norms_must_fit() {
    let weight = ones(&[4]);
    let f = move |xs: &[Array]| fast::rms_norm(&xs[0], Some(&weight), 1e-5);
    serves(
        f,
        &[ramp(&[2, 4])],
        &[vec![ramp(&[7, 4])]],
        &[vec![ramp(&[2, 4000])]],
    );
    let f = |xs: &[Array]| {
        fast::scaled_dot_product_attention(
            &xs[0],
            &xs[1],
            &xs[2],
            1.0,
            fast::AttentionMask::None,
            None,
        )
    };
    let heads = |q: i32, k: i32, v: i32| {
        vec![
            ramp(&[1, 2, q, 4]),
            ones(&[1, 2, k, 4]),
            ones(&[1, 2, v, 4]),
        ]
    };
    let (compiled, _) = traced(f, &heads(3, 3, 3));
    for (q, k, v) in [(3, 3000, 3), (3, 3, 3000)] {
        assert!(compiled(&heads(q, k, v)).is_err());
    }
}

#[test]
fn indices_limited_to_one_length_serve_no_other() {
    let lazy = |xs: &[Array]| xs[0].take(&(&xs[1] + 0)?, 0);
    let call = |n: i32, index: &[i32]| {
        vec![
            ramp(&[n]),
            Array::from_slice(index, &[index.len()]).unwrap(),
        ]
    };
    serves(
        lazy,
        &call(9, &[8, 100]),
        &[call(9, &[1, 2, 3]), call(9, &[-100])],
        &[call(3, &[8]), call(300, &[8])],
    );
    let constant = Array::from_slice(&[8], &[1]).unwrap();
    let f = move |xs: &[Array]| xs[0].take(&constant, 0);
    serves(f, &[ramp(&[9])], &[], &[vec![ramp(&[3])]]);
    let along = |xs: &[Array]| xs[0].take_along_axis(&(&xs[1] + 0)?, 1);
    let call = |rows: i32, n: i32| {
        vec![
            ramp(&[rows, n]),
            Array::full::<i32>(&[rows, 2], 100).unwrap(),
        ]
    };
    serves(along, &call(2, 9), &[call(5, 9)], &[call(2, 3)]);
    let start = |xs: &[Array]| xs[0].slice_dynamic(&xs[1], &[0], &[2]);
    let call = |n: i32| vec![ramp(&[n]), Array::from_slice(&[7], &[1]).unwrap()];
    serves(start, &call(9), &[], &[call(1), call(5)]);
}

#[test]
fn updates_serve_their_own_shape_only() {
    let f = |xs: &[Array]| xs[0].slice_update(&xs[1], &[1], &[3]);
    let call = |n: i32, m: i32| vec![ramp(&[n]), ones(&[m])];
    serves(
        f,
        &call(5, 2),
        &[],
        &[call(2, 2), call(1, 1), call(5, 2000)],
    );
    let f = |xs: &[Array]| xs[0].put_along_axis(&xs[1], &Array::scalar(0.0f32)?, 0);
    let call = |n: i32| vec![ramp(&[n]), Array::from_slice(&[6], &[1]).unwrap()];
    serves(f, &call(9), &[], &[call(3)]);
}

#[test]
fn what_needs_shapes_refuses_from_the_start() {
    let f = compile(
        |xs| Ok(vec![xs[0].index((Index::slice(None, None, 2),))?]),
        true,
    )
    .unwrap();
    for n in [4, 4, 6] {
        assert!(f(&[ramp(&[n])]).is_err());
    }
}

#[test]
fn dtypes_and_ranks_have_traces_of_their_own() {
    let f = |xs: &[Array]| reduction::sum(&xs[0], false);
    let (compiled, _) = traced(f, &[ramp(&[3])]);
    let whole = ramp(&[4]).astype(Dtype::Int32).unwrap();
    assert_eq!(compiled(&[whole]).unwrap()[0].item::<i32>().unwrap(), 10);
    assert_eq!(
        compiled(&[ramp(&[2, 2])]).unwrap()[0]
            .item::<f32>()
            .unwrap(),
        10.0
    );
}
