//! Arguments at their limits, and choices that some operations do not have.

use mlx_core::ops::conv::{ConvOptions, conv_transpose1d, conv_transpose2d, conv_transpose3d};
use mlx_core::ops::fft::{StftOptions, stft};
use mlx_core::ops::misc::{tril, triu};
use mlx_core::ops::shape::{PadMode, pad};
use mlx_core::{Array, Error};

fn range(n: i32, shape: &[i32]) -> Array {
    let numbers = Array::arange::<f32>(0.0, f64::from(n), 1.0).unwrap();
    numbers.reshape(shape).unwrap()
}

fn floats(array: mlx_core::Result<Array>) -> Vec<f32> {
    array.unwrap().to_vec::<f32>().unwrap()
}

#[test]
fn mirrored_padding_repeats_the_edge_or_not() {
    let (x, zero) = (range(3, &[3]), Array::scalar(0.0f32).unwrap());
    let padded = |widths, mode| floats(pad(&x, &[widths], &zero, mode));
    assert_eq!(
        padded((1, 2), PadMode::Reflect),
        [1.0, 0.0, 1.0, 2.0, 1.0, 0.0]
    );
    assert_eq!(
        padded((1, 2), PadMode::Symmetric),
        [0.0, 0.0, 1.0, 2.0, 2.0, 1.0]
    );
    // Wider than the axis: back and forth.
    assert_eq!(
        padded((7, 0), PadMode::Reflect),
        [1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0]
    );
    assert_eq!(
        padded((4, 0), PadMode::Symmetric),
        [2.0, 2.0, 1.0, 0.0, 0.0, 1.0, 2.0]
    );
    let one = range(1, &[1]);
    assert_eq!(
        floats(pad(&one, &[(2, 1)], &zero, PadMode::Reflect)),
        [0.0; 4]
    );
}

#[test]
fn mirrors_of_nothing_and_endless_mirrors_are_errors() {
    let zero = Array::scalar(0.0f32).unwrap();
    let empty = range(0, &[0, 3]);
    for mode in [PadMode::Edge, PadMode::Reflect, PadMode::Symmetric] {
        assert!(pad(&empty, &[(1, 0), (0, 0)], &zero, mode).is_err());
        let wide = pad(&empty, &[(0, 0), (1, 1)], &zero, mode).unwrap();
        assert_eq!(wide.shape(), [0, 5]);
    }
    for mode in [PadMode::Reflect, PadMode::Symmetric] {
        let error = pad(&range(2, &[2]), &[(1 << 30, 0)], &zero, mode).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    for name in ["constant", "edge", "reflect", "symmetric"] {
        assert_eq!(PadMode::from_name(name).unwrap().as_str(), name);
    }
    assert_eq!(PadMode::from_name("wrap"), None);
}

#[test]
fn centred_frames_are_padded_as_asked() {
    // The first frequency is the sum of a frame; frames of eight reach past both ends.
    let (x, window) = (range(3, &[3]), Array::ones::<f32>(&[8]).unwrap());
    for (mode, sums) in [
        (PadMode::Reflect, [8.0, 8.0]),
        (PadMode::Edge, [5.0, 9.0]),
        (PadMode::Constant, [3.0, 3.0]),
        (PadMode::Symmetric, [10.0, 7.0]),
    ] {
        let options = StftOptions::default().window(&window).hop_length(2);
        let frames = stft(&x, 8, options.pad_mode(mode)).unwrap();
        assert_eq!(frames.shape(), [5, 2]);
        let first = frames.real().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(first[..2], sums, "{mode:?}");
    }
    assert!(stft(&range(0, &[0]), 8, StftOptions::default()).is_err());
    assert!(stft(&range(1, &[1]), 1 << 20, StftOptions::default()).is_err());
}

#[test]
fn transposed_convolutions_refuse_what_they_would_ignore() {
    let shape = |axes: usize| [&[1][..], &vec![4; axes], &[2]].concat();
    let (one, two, three) = (shape(1), shape(2), shape(3));
    let ones = |shape: &[i32]| Array::ones::<f32>(shape).unwrap();
    let (x1, x2, x3) = (ones(&one), ones(&two), ones(&three));
    let (w1, w2, w3) = (
        ones(&[2, 3, 2]),
        ones(&[2, 3, 3, 2]),
        ones(&[2, 3, 3, 3, 2]),
    );
    for options in [
        ConvOptions::default().padding_sides([(0, 1)]),
        ConvOptions::default().input_dilation([2]),
        ConvOptions::default().flip(true),
    ] {
        let error = conv_transpose1d(&x1, &w1, options, 0).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let uneven = ConvOptions::default().padding_sides([(1, 1), (1, 0)]);
    assert!(conv_transpose2d(&x2, &w2, uneven, [0; 2]).is_err());
    assert!(conv_transpose3d(&x3, &w3, ConvOptions::default().flip(true), [0; 3]).is_err());
    let even = ConvOptions::default().padding_sides([(1, 1), (1, 1)]);
    let y = conv_transpose2d(&x2, &w2, even, [0; 2]).unwrap();
    assert_eq!(y.shape(), [1, 4, 4, 2]);
}

#[test]
fn diagonals_however_far_bound_a_triangle() {
    let full = |k: i32| {
        let a = Array::ones::<f32>(&[2, 3]).unwrap();
        let tri = Array::tri::<f32>(2, 3, k);
        (floats(tri), floats(tril(&a, k)), floats(triu(&a, k)))
    };
    let (none, all) = (vec![0.0; 6], vec![1.0; 6]);
    for k in [i32::MAX, i32::MAX - 1, 1 << 30, 3] {
        assert_eq!(full(k), (all.clone(), all.clone(), none.clone()), "{k}");
    }
    for k in [i32::MIN, i32::MIN + 1, -(1 << 30), -2] {
        assert_eq!(full(k), (none.clone(), none.clone(), all.clone()), "{k}");
    }
    let near = full(1);
    assert_eq!(near.0, [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(near.1, near.0);
    assert_eq!(near.2, [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    let line = Array::scalar(1.0f32)
        .unwrap()
        .broadcast_to(&[i32::MAX, 1])
        .unwrap();
    assert!(tril(&line, 0).is_err() && triu(&line, 0).is_err());
}
