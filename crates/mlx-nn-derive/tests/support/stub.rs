// The part of `mlx_nn` that the expansion names, so that these cases build in no time.
#![allow(dead_code)]

#[derive(Debug)]
pub struct Error;
pub type Result<T> = std::result::Result<T, Error>;

pub struct KeyPath<'p>(pub Option<(&'p KeyPath<'p>, &'p str)>);

impl KeyPath<'_> {
    pub fn child<'c>(&'c self, segment: &'c str) -> KeyPath<'c> {
        KeyPath(Some((self, segment)))
    }

    pub fn join(&self) -> String {
        match self.0 {
            None => String::new(),
            Some((parent, segment)) => match parent.join() {
                root if root.is_empty() => segment.to_owned(),
                root => format!("{root}.{segment}"),
            },
        }
    }
}

pub trait Visitor<'a> {
    fn parameter(&mut self, path: &KeyPath<'_>, value: &'a Array);
}

pub trait VisitorMut {
    fn parameter(&mut self, path: &KeyPath<'_>, value: &mut Array) -> Result<()>;
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a module nor a parameter",
    note = "mark the field with `#[module(skip)]` if it holds no weights"
)]
pub trait Module {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>);
    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()>;
}

pub struct Array(pub i32);

impl Module for Array {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        visitor.parameter(path, self);
    }
    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        visitor.parameter(path, self)
    }
}
