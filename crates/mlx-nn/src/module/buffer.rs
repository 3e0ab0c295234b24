//! Arrays that belong to a checkpoint but not to training.

use std::ops::{Deref, DerefMut};

use mlx_core::Array;

use crate::{KeyPath, Module, Result, Visitor, VisitorMut};

/// An array that is saved and loaded under its key, but is no trainable parameter: running
/// statistics, for example.
#[derive(Debug, Clone)]
pub struct Buffer(pub Array);

impl Deref for Buffer {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Array {
        &mut self.0
    }
}

impl From<Array> for Buffer {
    fn from(array: Array) -> Self {
        Self(array)
    }
}

impl Module for Buffer {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        visitor.buffer(path, &self.0);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        visitor.buffer(path, &mut self.0)
    }
}
