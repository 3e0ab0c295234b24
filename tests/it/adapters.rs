//! Adapter folders of Python mlx-lm and in PEFT's layout.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mlx_core::Dtype;
use mlx_lm::adapters::{load_adapters, save_adapters};
use mlx_lm::cache::for_training;
use mlx_lm::{LoadedModel, Loader};
use mlx_nn::adapter::fuse_adapters;

use crate::support::{Outcome, arrays, fixture, json, relative_difference, row, tokens, values};

/// Folder, and the number of its adapters.
const CASES: [(&str, usize); 5] = [
    ("dora", 4),
    ("lora", 7),
    ("peft-dora", 2),
    ("peft-lora", 3),
    ("table", 3),
];

fn tiny() -> Result<LoadedModel, mlx_lm::Error> {
    Loader::new(fixture("lm/llama/f32"))
        .dtype(Dtype::Float32)
        .load()
}

fn logits(model: &LoadedModel) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let golden = arrays(fixture("lm/llama/f32/golden.safetensors"));
    let model = model.model();
    let prompt = row(&tokens(&golden["prompt"]));
    Ok(values(&model.forward(&prompt, &mut for_training(model))?))
}

/// The folder's adapters on the tiny model.
fn adapted(folder: &Path, count: usize) -> Result<LoadedModel, Box<dyn std::error::Error>> {
    let mut model = tiny()?;
    assert_eq!(load_adapters(model.model_mut(), folder)?, count);
    Ok(model)
}

#[test]
fn folders_of_python_compute_what_they_do_there() -> Outcome {
    let found: BTreeSet<_> = fs::read_dir(fixture("adapters"))?
        .map(|entry| Ok(entry?.file_name().display().to_string()))
        .collect::<std::io::Result<_>>()?;
    assert!(
        found
            .iter()
            .map(String::as_str)
            .eq(CASES.map(|case| case.0))
    );
    let plain = logits(&tiny()?)?;
    for (name, count) in CASES {
        let folder = fixture("adapters").join(name);
        let tolerance: f32 =
            serde_json::from_value(json(folder.join("note.json"))["tolerance"].clone())?;
        let expected = values(&arrays(folder.join("golden.safetensors"))["logits"]);
        let mut model = adapted(&folder, count)?;
        let gap = relative_difference(&logits(&model)?, &expected);
        assert!(gap <= tolerance, "{name}: {gap:.2e}");
        let change = relative_difference(&expected, &plain);
        println!(
            "{name}: {count} adapters, logits differ by {gap:.1e}, from the plain model's by {change:.2}"
        );
        assert_eq!(fuse_adapters(model.model_mut(), false)?, count);
        let fused = relative_difference(&logits(&model)?, &expected);
        assert!(fused <= tolerance, "{name}, fused: {fused:.2e}");
    }
    Ok(())
}

#[test]
fn folders_of_python_are_written_back_as_they_were() -> Outcome {
    let scratch = tempfile::tempdir()?;
    for (name, count) in CASES
        .into_iter()
        .filter(|(name, _)| !name.starts_with("peft"))
    {
        let (theirs, ours) = (fixture("adapters").join(name), scratch.path().join(name));
        save_adapters(adapted(&theirs, count)?.model(), &ours)?;
        let read = |folder: &Path| arrays(folder.join("adapters.safetensors"));
        let (before, after) = (read(&theirs), read(&ours));
        let names = |arrays: &std::collections::HashMap<String, _>| -> BTreeSet<String> {
            arrays.keys().cloned().collect()
        };
        assert_eq!(names(&before), names(&after), "{name}");
        for (key, array) in &before {
            assert_eq!(values(array), values(&after[key]), "{name}: {key}");
        }
        let [before, after] =
            [&theirs, &ours].map(|folder| json(folder.join("adapter_config.json")));
        for key in ["fine_tune_type", "num_layers"] {
            assert_eq!(before[key], after[key], "{name}: {key}");
        }
        for key in ["rank", "scale", "dropout"] {
            let [before, after] = [&before, &after].map(|config| &config["lora_parameters"][key]);
            assert_eq!(before, after, "{name}: {key}");
        }
    }
    Ok(())
}
