//! Converting what is quantised already, and measuring what can be quantised.

use std::fs;
use std::process::{Command, Output};

use mlx_lm::CancelFlag;
use mlx_lm::load::sensitivities;
use mlx_nn::LayerQuantization;
use serde_json::{Value, json};

use crate::support::{Outcome, config, prose, shapes, weights, with, write};

fn convert(arguments: &[&str]) -> Result<Output, std::io::Error> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-lm"));
    command.arg("convert").args(arguments);
    command.env_clear().env("MLX_SYS_OFFLINE", "1").output()
}

#[test]
fn what_is_quantised_is_quantised_anew_only_when_asked() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (source, eight, four) = (prose().display().to_string(), path("eight"), path("four"));
    let first = convert(&[
        "--model",
        &source,
        "-q",
        "--q-bits",
        "8",
        "--mlx-path",
        &eight,
    ])?;
    assert!(first.status.success());
    let again = [
        "--model",
        &eight,
        "-q",
        "--q-bits",
        "4",
        "--mlx-path",
        &four,
    ];
    let refused = convert(&again)?;
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8(refused.stderr)?;
    assert!(
        told.contains("are quantised already") && told.contains("--dequantize"),
        "{told}"
    );
    assert!(!fs::exists(&four)?);
    let anew = convert(&[&again[..], &["--dequantize"]].concat())?;
    assert!(
        anew.status.success(),
        "{}",
        String::from_utf8_lossy(&anew.stderr)
    );
    let config: Value = serde_json::from_slice(&fs::read(format!("{four}/config.json"))?)?;
    assert_eq!(config["quantization"]["bits"], 4);
    Ok(())
}

#[test]
fn experts_are_measured_too() -> Outcome {
    let config = with(
        config("mixtral"),
        json!({ "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1,
                "intermediate_size": 64, "hidden_size": 64 }),
    );
    let mut shapes = shapes(&config);
    shapes.retain(|(key, _)| !key.contains(".mlp."));
    let moe = "model.layers.0.block_sparse_moe";
    shapes.push((format!("{moe}.gate.weight"), vec![4, 64]));
    for part in ["gate_proj", "up_proj", "down_proj"] {
        shapes.push((format!("{moe}.switch_mlp.{part}.weight"), vec![4, 64, 64]));
    }
    let mut model = mlx_lm::load(write(&config, &weights(&shapes)?)?.path())?;
    let layer = LayerQuantization::default();
    let measured = sensitivities(
        model.model_mut(),
        &[5, 6, 7],
        layer,
        &CancelFlag::new(),
        |_, _| {},
    )?;
    let experts: Vec<_> = measured
        .iter()
        .filter(|entry| entry.path.contains("switch_mlp"))
        .collect();
    assert_eq!(experts.len(), 3);
    assert!(
        experts
            .iter()
            .all(|entry| entry.size == 4 * 64 * 64 && entry.divergence > 0.0)
    );
    Ok(())
}
