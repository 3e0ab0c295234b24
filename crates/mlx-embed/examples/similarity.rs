//! Compares two texts: `cargo run --example similarity -- MODEL TEXT TEXT`.

use std::io::{Write, stdout};

use mlx_embed::{Embedder, EncodeOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, first, second] = arguments.as_slice() else {
        return Err("usage: similarity MODEL TEXT TEXT".into());
    };
    let model = Embedder::load(path)?;
    let a = model.encode(&[first], EncodeOptions::default())?;
    let b = model.encode(&[second], EncodeOptions::default())?;
    let score = model.similarity().matrix(&a, &b)?.item::<f32>()?;
    Ok(writeln!(stdout(), "{score:.4}")?)
}
