//! Talks with a model: `cargo run --example chat -- MODEL`, and a message on each line.

use std::io::{Write, stdin, stdout};

use mlx_lm::{GenerateOptions, generate::ChatSession, load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = load(std::env::args().nth(1).ok_or("usage: chat MODEL")?)?;
    let mut chat = ChatSession::new(&model, &GenerateOptions::default());
    for line in stdin().lines() {
        // Only what is new of the conversation is processed.
        let (answer, stats) = chat.send(&line?, |_| {})?;
        let speed = stats.generation_tps();
        writeln!(stdout(), "{answer}\n({speed:.1} tokens per second)")?;
    }
    Ok(())
}
