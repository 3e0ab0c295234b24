//! Attention and its masks.

use mlx_core::Array;
use mlx_nn::{Mask, create_causal_mask, scaled_dot_product_attention};

use crate::golden::{Golden, TestResult};

#[test]
fn attention_equals_python_under_every_mask() -> TestResult {
    let golden = Golden::open("attention")?;
    for (case, mask) in [
        ("attention.none", Mask::None),
        ("attention.causal", Mask::Causal),
        ("attention.window", Mask::causal(3, 4, Some(2))?),
        (
            "attention.additive",
            Mask::Array(golden.get("masks", "additive")?),
        ),
    ] {
        golden.check_function(case, &["queries", "keys", "values"], move |xs| {
            scaled_dot_product_attention(&xs[0], &xs[1], &xs[2], 0.35, &mask)
        })?;
    }
    Ok(())
}

#[test]
fn causal_masks_equal_python() -> TestResult {
    let golden = Golden::open("attention")?;
    golden.check("masks", "window", &create_causal_mask(3, 4, Some(2))?)?;
    golden.check("masks", "causal", &create_causal_mask(4, 3, None)?)?;
    golden.check("masks", "plain", &create_causal_mask(3, 0, None)?)
}

#[test]
fn an_array_is_built_only_where_a_window_cuts_something_off() -> TestResult {
    assert!(matches!(Mask::causal(1, 10, None)?, Mask::None));
    assert!(matches!(Mask::causal(5, 10, None)?, Mask::Causal));
    assert!(matches!(Mask::causal(5, 0, Some(5))?, Mask::Causal));
    assert!(matches!(Mask::causal(1, 4, Some(5))?, Mask::None));
    assert!(matches!(Mask::causal(1, 5, Some(5))?, Mask::Array(_)));
    assert!(create_causal_mask(-1, 0, None).is_err());
    assert!(create_causal_mask(2, i32::MAX, None).is_err());
    assert!(create_causal_mask(2, 0, Some(0)).is_err());
    Ok(())
}

#[test]
fn heads_that_do_not_fit_are_an_error() -> TestResult {
    let queries = Array::ones::<f32>(&[1, 3, 2, 8])?;
    let keys = Array::ones::<f32>(&[1, 2, 2, 8])?;
    assert!(scaled_dot_product_attention(&queries, &keys, &keys, 1.0, &Mask::None).is_err());
    Ok(())
}
