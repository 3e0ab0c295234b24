//! Scores against values worked out by hand.

use mlx_core::Array;
use mlx_embed::Similarity;

use crate::support::{Outcome, close};

#[test]
fn scores_are_what_their_names_say() -> Outcome {
    let a = Array::from_slice::<f32>(&[3.0, 4.0, 0.0, 0.0], &[2, 2])?;
    let b = Array::from_slice::<f32>(&[4.0, 3.0, -3.0, -4.0, 3.0, 4.0], &[3, 2])?;
    let cases = [
        (Similarity::Cosine, [0.96, -1.0, 1.0, 0.0, 0.0, 0.0]),
        (Similarity::Dot, [24.0, -25.0, 25.0, 0.0, 0.0, 0.0]),
        (
            Similarity::Euclidean,
            [-(2.0_f32.sqrt()), -10.0, 0.0, -5.0, -5.0, -5.0],
        ),
        (Similarity::Manhattan, [-2.0, -14.0, 0.0, -7.0, -7.0, -7.0]),
    ];
    for (score, expected) in cases {
        let scores = score.matrix(&a, &b)?;
        assert_eq!(scores.shape(), [2, 3], "{score}");
        close(&scores.to_vec::<f32>()?, &expected, 1e-5);
        assert_eq!(score.name().parse::<Similarity>()?, score);
    }
    assert!("hamming".parse::<Similarity>().is_err());
    assert!(
        Similarity::Dot
            .matrix(&a, &Array::ones::<f32>(&[1, 3])?)
            .is_err()
    );
    Ok(())
}

#[test]
fn distances_of_many_rows_are_those_of_few() -> Outcome {
    // So many differences that they are computed in slices.
    let (rows, columns) = (70, 512);
    let a = Array::arange::<f32>(0.0, f64::from(rows), 1.0)?.reshape(&[rows, 1])?;
    let a = a.broadcast_to(&[rows, columns])?;
    let b = Array::zeros::<f32>(&[600, columns])?;
    let scores = Similarity::Manhattan.matrix(&a, &b)?;
    assert_eq!(scores.shape(), [rows, 600]);
    let scores = scores.to_vec::<f32>()?;
    for (row, scores) in (0_u16..).zip(scores.chunks(600)) {
        assert!(scores.iter().all(|&score| score == -512.0 * f32::from(row)));
    }
    Ok(())
}
