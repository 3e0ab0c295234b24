//! Talks with a model: `cargo run --example chat -- MODEL`, and a message on each line.

use std::io::Write;

use mlx_lm::{GenerateOptions, chat::Message, load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = load(std::env::args().nth(1).ok_or("usage: chat MODEL")?)?;
    let mut messages = Vec::new();
    for line in std::io::stdin().lines() {
        messages.push(Message::user(line?));
        let answer = model.chat(&messages, &GenerateOptions::default())?.text()?;
        writeln!(std::io::stdout(), "{answer}")?;
        messages.push(Message::assistant(answer));
    }
    Ok(())
}
