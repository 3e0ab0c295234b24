use mlx_nn_derive::Module;

#[path = "../support/stub.rs"]
mod stub;
use stub::Array;

struct Settings;

#[derive(Module)]
#[module(crate = "stub")]
struct Layer {
    weight: Array,
    settings: Settings,
}

fn main() {}
