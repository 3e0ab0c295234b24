//! Rotary positions of every kind, built from the configurations that Python read.

use std::collections::BTreeMap;

use mlx_core::Array;
use mlx_nn::{Rope, RopeKind, RopeParameters};
use mlx_transforms::vjp;
use serde::Deserialize;

use crate::golden::{Golden, TestResult, folder, relative_difference};

#[derive(Deserialize)]
struct Configuration {
    dims: i32,
    base: f32,
    traditional: bool,
    rope_scaling: Option<RopeParameters>,
    max_position_embeddings: Option<i32>,
}

type Ropes = BTreeMap<String, Rope>;

fn ropes() -> Result<Ropes, Box<dyn std::error::Error>> {
    let text = std::fs::read(folder("rope").join("configurations.json"))?;
    let configurations: BTreeMap<String, Configuration> = serde_json::from_slice(&text)?;
    let build = |(name, configuration): (String, Configuration)| {
        let scaling = configuration.rope_scaling.as_ref();
        let parameters = RopeParameters::from_config(Some(configuration.base), scaling, None);
        let rope = Rope::from_parameters(
            configuration.dims,
            &parameters,
            configuration.max_position_embeddings,
        )?;
        Ok((name, rope.traditional(configuration.traditional)))
    };
    configurations.into_iter().map(build).collect()
}

#[test]
fn every_kind_equals_python_at_every_offset() -> TestResult {
    let golden = Golden::open("rope")?;
    let ropes = ropes()?;
    assert_eq!(ropes.len(), 11);
    for (case, rope) in &ropes {
        let x = golden.get(case, "x")?;
        for (offset, _) in golden.all(case, "y") {
            let y = rope.forward(&x, offset.parse::<i32>()?)?;
            golden.check(case, &format!("y{offset}"), &y)?;
        }
        let offset = if case == "longrope.long" { 1000 } else { 11 };
        let (rope, cotangent) = (rope.clone(), golden.get(case, "cotangent")?);
        let turned = move |xs: &[Array]| Ok(vec![rope.forward(&xs[0], offset)?]);
        let (_, gradients) = vjp(turned, &[x], &[cotangent])?;
        golden.check(case, "dx", &gradients[0])?;
    }
    Ok(())
}

#[test]
fn longrope_chooses_its_factors_by_sequence_length() -> TestResult {
    let golden = Golden::open("rope")?;
    let ropes = ropes()?;
    let rope = &ropes["longrope.long"];
    let x = golden.get("longrope.short", "x")?; // five positions, 32 in pretraining
    golden.check("longrope.short", "y0", &rope.forward(&x, 0)?)?;
    let last_short = rope.forward(&x, 27)?;
    let offsets = Array::from_slice::<i32>(&[27, 40], &[2])?;
    let both = rope.forward(&x, &offsets)?;
    let row = |array: &Array, index: i32| array.index((index..index + 1, ..));
    assert!(relative_difference(&row(&both, 0)?, &row(&last_short, 0)?)? < 1e-6);
    assert!(
        relative_difference(
            &row(&both, 1)?,
            &row(&golden.get("longrope.long", "y40")?, 1)?
        )? < 1e-5
    );
    Ok(())
}

#[test]
fn an_offset_for_each_sequence_rotates_each_by_its_own() -> TestResult {
    let golden = Golden::open("rope")?;
    let offsets = Array::from_slice::<i32>(&[11, 1000], &[2])?;
    for (case, rope) in ropes()? {
        if case.starts_with("longrope") {
            continue;
        }
        let x = golden.get(&case, "x")?;
        let both = rope.forward(&x, &offsets)?;
        // One base serves the whole batch under dynamic scaling: that of its longest sequence.
        let rows: &[i32] = if case == "dynamic" { &[1] } else { &[0, 1] };
        for &index in rows {
            let shared = rope.forward(&x, [11, 1000][usize::try_from(index)?])?;
            let (found, expected) = (
                both.index((index..index + 1, ..))?,
                shared.index((index..index + 1, ..))?,
            );
            let difference = relative_difference(&found, &expected)?;
            assert!(difference < 2e-4, "{case}, row {index}: {difference:e}");
        }
    }
    Ok(())
}

#[test]
fn the_attention_scale_takes_up_mscale_all_dim() -> TestResult {
    let text = r#"{"type": "deepseek_yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707}"#;
    let parameters: RopeParameters = serde_json::from_str(text)?;
    let amplification = 0.1 * 0.707 * 40.0_f32.ln() + 1.0;
    assert!((parameters.attention_scale(0.5) - 0.5 * amplification * amplification).abs() < 1e-6);
    assert_eq!(RopeParameters::default().attention_scale(0.5), 0.5);
    Ok(())
}

#[test]
fn incomplete_settings_are_refused() -> TestResult {
    for (text, problem) in [
        (
            r#"{"rope_type": "linear"}"#,
            "the configuration lacks `factor`",
        ),
        (
            r#"{"rope_type": "dynamic", "factor": 2.0}"#,
            "the configuration lacks `max_position_embeddings`",
        ),
        (
            r#"{"rope_type": "yarn"}"#,
            "the configuration lacks `factor`",
        ),
        (
            r#"{"rope_type": "longrope"}"#,
            "the configuration lacks `original_max_position_embeddings`",
        ),
        (
            r#"{"rope_type": "longrope", "original_max_position_embeddings": 32, "short_factor": [1.0], "long_factor": 1.0}"#,
            "`short_factor` has 1 values for 16 rotated features",
        ),
        (
            r#"{"type": "mrope"}"#,
            "`mrope_section` must have three entries",
        ),
        (
            r#"{"type": "llama3", "factor": 8, "low_freq_factor": 4.0}"#,
            "must exceed",
        ),
        (r#"{"type": "spiral"}"#, "unsupported rope type `spiral`"),
    ] {
        let parameters: RopeParameters = serde_json::from_str(text)?;
        let error = Rope::from_parameters(16, &parameters, None).map_err(|error| error.to_string());
        assert!(
            error.as_ref().is_err_and(|found| found.contains(problem)),
            "{text}: {error:?}"
        );
    }
    assert!(Rope::new(7, 1e4).is_err());
    assert!(Rope::new(8, 0.0).is_err());
    let kind = serde_json::from_str::<RopeParameters>(r#"{"rope_type": null}"#)?.kind()?;
    assert_eq!(kind, RopeKind::Default);
    Ok(())
}
