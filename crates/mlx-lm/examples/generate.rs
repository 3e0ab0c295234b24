//! Continues a text: `cargo run --example generate -- MODEL PROMPT`.

use std::io::{Write, stdout};

use mlx_lm::{GenerateOptions, load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate MODEL PROMPT".into());
    };
    let model = load(model)?;
    for segment in model.generate(&prompt, &GenerateOptions::default())? {
        write!(stdout(), "{}", segment?.text)?;
    }
    Ok(writeln!(stdout())?)
}
