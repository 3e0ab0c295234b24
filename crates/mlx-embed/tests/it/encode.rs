//! Texts to vectors.

use mlx_core::io::save_safetensors;
use mlx_core::{Array, Dtype};
use mlx_embed::{CancelFlag, EncodeOptions, Error};
use serde_json::json;

use crate::support::{Folder, HIDDEN, Outcome, close, length, modules, rows};

/// From no word to more than the model takes.
const TEXTS: [&str; 7] = [
    "",
    "a man is eating food",
    "girl",
    "the girl is carrying the baby who is eating the food a man is carrying",
    "who eats",
    "  ",
    "the man",
];

#[test]
fn batches_give_what_single_texts_give_in_the_order_of_the_input() -> Outcome {
    let model = Folder::new()?.load()?;
    let mut alone = Vec::new();
    for text in TEXTS {
        alone.extend(rows(&model.encode(&[text], EncodeOptions::default())?)?);
    }
    for batch_size in [1, 2, 3, 32] {
        let together = model.encode(&TEXTS, EncodeOptions::default().batch_size(batch_size))?;
        assert_eq!(
            (together.shape(), together.dtype()),
            (&[7, HIDDEN][..], Dtype::Float32)
        );
        for (together, alone) in rows(&together)?.iter().zip(&alone) {
            close(together, alone, 1e-5);
            assert!((length(together) - 1.0).abs() < 1e-5);
        }
    }
    Ok(())
}

#[test]
fn no_texts_give_no_rows() -> Outcome {
    let model = Folder::new()?.load()?;
    assert_eq!(
        model.encode::<&str>(&[], EncodeOptions::default())?.shape(),
        [0, HIDDEN]
    );
    Ok(())
}

#[test]
fn long_texts_are_cut_off_and_short_ones_are_not() -> Outcome {
    let model = Folder::new()?.load()?;
    let ids = model.token_ids(TEXTS[3])?;
    assert_eq!(
        (ids.len(), ids.first(), ids.last()),
        (12, Some(&2), Some(&3))
    );
    assert_eq!(
        model.token_ids(TEXTS[1])?.len(),
        7,
        "the tokenizer's own limit of 4 is not the model's"
    );
    assert_eq!(model.token_ids("")?, [2, 3]);
    let cut = "the girl is carrying the baby who is eating the";
    let long = model.encode(&[TEXTS[3], cut], EncodeOptions::default())?;
    let long = rows(&long)?;
    close(&long[0], &long[1], 1e-6);
    Ok(())
}

#[test]
fn truncated_vectors_are_normalised_again() -> Outcome {
    let model = Folder::new()?.load()?;
    let options = EncodeOptions::default();
    let whole = rows(&model.encode(&TEXTS, options.clone())?)?;
    let cut = rows(&model.encode(&TEXTS, options.clone().truncate_dim(3))?)?;
    for (whole, cut) in whole.iter().zip(&cut) {
        let first = &whole[..3];
        let expected: Vec<f32> = first.iter().map(|x| x / length(first)).collect();
        close(cut, &expected, 1e-5);
    }
    for dim in [0, -1, HIDDEN + 1] {
        let error = model
            .encode(&TEXTS, options.clone().truncate_dim(dim))
            .err();
        assert!(
            matches!(
                error,
                Some(Error::Option {
                    option: "truncate_dim",
                    ..
                })
            ),
            "{error:?}"
        );
    }
    let error = model.encode(&TEXTS, options.batch_size(0)).err();
    assert!(
        matches!(
            error,
            Some(Error::Option {
                option: "batch_size",
                ..
            })
        ),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn normalisation_can_be_chosen() -> Outcome {
    let model = Folder::new()?.load()?;
    let raw = rows(&model.encode(&["a man"], EncodeOptions::default().normalize(false))?)?;
    let unit = rows(&model.encode(&["a man"], EncodeOptions::default())?)?;
    assert!((length(&raw[0]) - 1.0).abs() > 0.1);
    let scaled: Vec<f32> = raw[0].iter().map(|x| x / length(&raw[0])).collect();
    close(&scaled, &unit[0], 1e-5);
    Ok(())
}

#[test]
fn prompts_precede_texts() -> Outcome {
    let folder = Folder::new()?;
    let settings = json!({ "prompts": { "query": "query ", "passage": "food " } });
    folder.write("config_sentence_transformers.json", &settings)?;
    let model = folder.load()?;
    let options = EncodeOptions::default();
    let vector =
        |text: &str, options: EncodeOptions| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
            Ok(model.encode(&[text], options)?.to_vec::<f32>()?)
        };
    let query = vector("query a man", options.clone())?;
    let document = vector("food a man", options.clone())?;
    close(
        &vector("a man", options.clone().prompt_name("query"))?,
        &query,
        0.0,
    );
    close(
        &vector(
            "a man",
            options.clone().prompt("query ").prompt_name("passage"),
        )?,
        &query,
        0.0,
    );
    close(
        &model
            .encode_query(&["a man"], options.clone())?
            .to_vec::<f32>()?,
        &query,
        0.0,
    );
    close(
        &model
            .encode_document(&["a man"], options.clone())?
            .to_vec::<f32>()?,
        &document,
        0.0,
    );
    assert_ne!(vector("a man", options.clone())?, query);
    let error = model
        .encode(&["a man"], options.clone().prompt_name("poem"))
        .err();
    let hint = error.and_then(|error| error.hint());
    assert_eq!(hint.as_deref(), Some("it has passage, query"));

    let settings = json!({ "prompts": { "query": "query " }, "default_prompt_name": "query" });
    folder.write("config_sentence_transformers.json", &settings)?;
    let model = folder.load()?;
    close(
        &model.encode(&["a man"], options.clone())?.to_vec::<f32>()?,
        &query,
        0.0,
    );
    assert_ne!(
        model
            .encode(&["a man"], options.prompt(""))?
            .to_vec::<f32>()?,
        query
    );
    Ok(())
}

#[test]
fn prompts_can_be_left_out_of_pooling() -> Outcome {
    let folder = Folder::new()?;
    folder.write("modules.json", &modules(&["Pooling"]))?;
    let options = EncodeOptions::default().prompt("query ");
    let vector = |mode: &str, include: bool| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        folder.pooling(&json!({ "pooling_mode": mode, "include_prompt": include }))?;
        // The longer text brings padding into the batch.
        let vectors = folder
            .load()?
            .encode(&["man", "a man is eating"], options.clone())?;
        Ok(rows(&vectors)?.swap_remove(0))
    };
    // [CLS] query man [SEP]: without the prompt's tokens, `man` and [SEP] remain.
    let mean = vector("mean", false)?;
    let (first, last) = (vector("cls", false)?, vector("lasttoken", false)?);
    let expected: Vec<f32> = first
        .iter()
        .zip(&last)
        .map(|(a, b)| (a + b) / 2.0)
        .collect();
    close(&mean, &expected, 1e-5);
    assert_ne!(mean, vector("mean", true)?);
    assert_ne!(first, vector("cls", true)?);
    assert_eq!(last, vector("lasttoken", true)?);
    Ok(())
}

#[test]
fn texts_are_lower_cased_where_the_folder_says_so() -> Outcome {
    let folder = Folder::new()?;
    let ids = folder.load()?.token_ids("the man")?;
    assert_ne!(folder.load()?.token_ids("The MAN")?, ids);
    folder.write(
        "sentence_bert_config.json",
        &json!({ "do_lower_case": true }),
    )?;
    assert_eq!(folder.load()?.token_ids("The MAN")?, ids);
    Ok(())
}

#[test]
fn projections_follow_pooling() -> Outcome {
    let folder = Folder::new()?;
    let raw = folder
        .load()?
        .encode(&["a man"], EncodeOptions::default().normalize(false))?;
    let raw = raw.to_vec::<f32>()?;
    folder.write("modules.json", &modules(&["Pooling", "Dense"]))?;
    let (a, b) = (
        [0.5_f32, -1.0, 2.0, 0.0, 0.25, 1.0, -0.5, 1.5],
        [1.0_f32; 8],
    );
    let weight = Array::from_slice(&[a, b].concat(), &[2, HIDDEN])?;
    let bias = Array::from_slice(&[0.25_f32, -0.5], &[2])?;
    let linear =
        |row: [f32; 8], bias: f32| raw.iter().zip(row).map(|(x, w)| x * w).sum::<f32>() + bias;
    let linear = [linear(a, 0.25), linear(b, -0.5)];
    for (class, expected) in [
        ("torch.nn.modules.linear.Identity", linear),
        ("torch.nn.modules.activation.Tanh", linear.map(f32::tanh)),
        (
            "torch.nn.modules.activation.ReLU",
            linear.map(|x| x.max(0.0)),
        ),
    ] {
        let config = json!({ "in_features": HIDDEN, "out_features": 2, "bias": true, "activation_function": class });
        folder.write("2_Dense/config.json", &config)?;
        save_safetensors(
            folder.path().join("2_Dense/model.safetensors"),
            [("linear.weight", &weight), ("linear.bias", &bias)],
            &Default::default(),
        )?;
        let model = folder.load()?;
        assert_eq!(model.dimension(), 2);
        close(
            &model
                .encode(&["a man"], EncodeOptions::default())?
                .to_vec::<f32>()?,
            &expected,
            1e-4,
        );
    }
    Ok(())
}

#[test]
fn a_raised_flag_ends_the_work() -> Outcome {
    let model = Folder::new()?.load()?;
    let flag = CancelFlag::new();
    flag.cancel();
    let error = model
        .encode(&TEXTS, EncodeOptions::default().cancel(flag))
        .err();
    assert!(matches!(error, Some(Error::Cancelled)), "{error:?}");
    Ok(())
}

#[test]
fn threads_share_a_model() -> Outcome {
    let model = Folder::new()?.load()?;
    let expected = model
        .encode(&TEXTS, EncodeOptions::default())?
        .to_vec::<f32>()?;
    std::thread::scope(|scope| {
        let work = || -> mlx_embed::Result<Vec<f32>> {
            Ok(model
                .encode(&TEXTS, EncodeOptions::default())?
                .to_vec::<f32>()?)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            assert_eq!(thread.join().map_err(|_| "a thread panicked")??, expected);
        }
        Ok(())
    })
}
