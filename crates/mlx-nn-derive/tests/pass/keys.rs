//! Field names become keys; `name` replaces one, `skip` removes one, newtypes are transparent.

use mlx_nn_derive::Module;

#[path = "../support/stub.rs"]
mod stub;
use stub::{Array, KeyPath, Module, Result, Visitor, VisitorMut};

#[derive(Debug)]
struct Settings;

#[derive(Module)]
#[module(crate = "stub")]
struct Inner {
    r#type: Array,
    #[module(skip)]
    _settings: Settings,
}

#[derive(Module)]
#[module(crate = "stub")]
struct Transparent<T>(T);

#[derive(Module)]
#[module(crate = "stub")]
enum Choice {
    One(Inner),
    #[allow(dead_code)]
    Two { left: Array, right: Array },
}

#[derive(Module)]
#[module(crate = "stub")]
struct Outer<'s> {
    #[module(name = "LayerNorm.gamma")]
    gamma: Array,
    wrapped: Transparent<Inner>,
    choice: Choice,
    #[module(skip)]
    _label: &'s str,
}

#[derive(Default)]
struct Keys(Vec<(String, i32)>);

impl<'a> Visitor<'a> for Keys {
    fn parameter(&mut self, path: &KeyPath<'_>, value: &'a Array) {
        self.0.push((path.join(), value.0));
    }
}

struct Increment;

impl VisitorMut for Increment {
    fn parameter(&mut self, _: &KeyPath<'_>, value: &mut Array) -> Result<()> {
        value.0 += 1;
        Ok(())
    }
}

fn main() -> Result<()> {
    let inner = |value| Inner { r#type: Array(value), _settings: Settings };
    let mut outer = Outer {
        gamma: Array(1),
        wrapped: Transparent(inner(2)),
        choice: Choice::One(inner(3)),
        _label: "label",
    };
    outer.visit_mut(&KeyPath(None), &mut Increment)?;
    let mut keys = Keys::default();
    outer.visit(&KeyPath(None), &mut keys);
    let expected = [("LayerNorm.gamma", 2), ("wrapped.type", 3), ("choice.type", 4)];
    assert_eq!(keys.0, expected.map(|(key, value)| (key.to_owned(), value)));
    Ok(())
}
