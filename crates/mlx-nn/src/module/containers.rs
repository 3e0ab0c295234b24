//! Parameters, collections and parameter-free primitives as modules.

use std::{collections::BTreeMap, marker::PhantomData};

use mlx_core::{Array, Dtype};

use crate::{KeyPath, Module, Result, Visitor, VisitorMut};

impl Module for Array {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        visitor.parameter(path, self);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        visitor.parameter(path, self)
    }
}

/// `None` yields nothing: the key must then be absent from a checkpoint as well.
impl<M: Module> Module for Option<M> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        if let Some(module) = self {
            module.visit(path, visitor);
        }
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.as_mut()
            .map_or(Ok(()), |module| module.visit_mut(path, visitor))
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.as_ref().visit(path, visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.as_mut().visit_mut(path, visitor)
    }
}

/// Elements are keyed by their position: `layers.0`, `layers.1`, …
impl<M: Module> Module for [M] {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        for (index, module) in self.iter().enumerate() {
            module.visit(&path.index(index), visitor);
        }
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        for (index, module) in self.iter_mut().enumerate() {
            module.visit_mut(&path.index(index), visitor)?;
        }
        Ok(())
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.as_slice().visit(path, visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.as_mut_slice().visit_mut(path, visitor)
    }
}

impl<M: Module, const N: usize> Module for [M; N] {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.as_slice().visit(path, visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.as_mut_slice().visit_mut(path, visitor)
    }
}

/// Values are keyed by their map key.
impl<M: Module> Module for BTreeMap<String, M> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        for (key, module) in self {
            module.visit(&path.child(key), visitor);
        }
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        for (key, module) in self {
            module.visit_mut(&path.child(key), visitor)?;
        }
        Ok(())
    }
}

/// Makes types that hold no arrays modules without parameters.
macro_rules! parameter_free {
    ($($(#[$attribute:meta])* $ty:ty),* $(,)?) => {$(
        $(#[$attribute])*
        impl $crate::Module for $ty {
            fn visit<'a>(&'a self, _: &$crate::KeyPath<'_>, _: &mut dyn $crate::Visitor<'a>) {}

            fn visit_mut(
                &mut self,
                _: &$crate::KeyPath<'_>,
                _: &mut dyn $crate::VisitorMut,
            ) -> $crate::Result<()> {
                Ok(())
            }
        }
    )*};
}
pub(crate) use parameter_free;

parameter_free!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    usize,
    i8,
    i16,
    i32,
    i64,
    isize,
    f32,
    f64,
    String,
    &'static str,
    Dtype,
);

impl<T: ?Sized> Module for PhantomData<T> {
    fn visit<'a>(&'a self, _: &KeyPath<'_>, _: &mut dyn Visitor<'a>) {}

    fn visit_mut(&mut self, _: &KeyPath<'_>, _: &mut dyn VisitorMut) -> Result<()> {
        Ok(())
    }
}
