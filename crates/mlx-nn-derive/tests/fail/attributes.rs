use mlx_nn_derive::Module;

struct Array;

#[derive(Module)]
struct Unknown {
    #[module(rename = "w")]
    weight: Array,
}

#[derive(Module)]
struct Duplicate {
    weight: Array,
    #[module(name = "weight")]
    other: Array,
}

#[derive(Module)]
struct Unnamed(Array, Array);

fn main() {}
