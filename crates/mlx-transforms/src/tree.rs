//! Structures of arrays.

use std::collections::BTreeMap;

use mlx_core::{Array, Error, Result};

/// A part of a structure: an array, or a branch with parts of its own.
#[derive(Debug)]
pub enum Part<'a> {
    /// An array.
    Leaf(&'a Array),
    /// Parts in a fixed order.
    Branch(Vec<&'a dyn Node>),
}

/// What a structure of arrays looks like.
pub trait Node {
    /// This part.
    fn part(&self) -> Part<'_>;
}

impl std::fmt::Debug for dyn Node + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.part().fmt(f)
    }
}

/// A structure of arrays that can be made again from other arrays: [`Array`], tuples of up to six
/// trees, `Vec`, `[T; N]`, `Option`, `Box`, and `BTreeMap` with trees as values.
///
/// A type of your own joins by naming its parts in a fixed order:
///
/// ```
/// use mlx_core::{Array, Result};
/// use mlx_transforms::{Node, Part, Tree};
///
/// struct Line { slope: Array, points: Vec<Array> }
///
/// impl Node for Line {
///     fn part(&self) -> Part<'_> {
///         Part::Branch(vec![&self.slope, &self.points])
///     }
/// }
///
/// impl Tree for Line {
///     fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
///         Ok(Line { slope: self.slope.rebuild(leaves)?, points: self.points.rebuild(leaves)? })
///     }
/// }
/// ```
pub trait Tree: Node + Sized {
    /// The same structure with other arrays, taken in order.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are too few.
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self>;

    /// The arrays in order.
    fn leaves(&self) -> Vec<Array>
    where
        Self: Sized,
    {
        fn walk(node: &dyn Node, out: &mut Vec<Array>) {
            match node.part() {
                Part::Leaf(array) => out.push(array.clone()),
                Part::Branch(parts) => parts.into_iter().for_each(|part| walk(part, out)),
            }
        }
        let mut out = Vec::new();
        walk(self, &mut out);
        out
    }
}

impl Node for Array {
    fn part(&self) -> Part<'_> {
        Part::Leaf(self)
    }
}

impl Tree for Array {
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
        leaves.next().ok_or_else(|| Error::Shape {
            op: "tree",
            message: "there are fewer arrays than the structure has places".to_owned(),
        })
    }
}

impl<T: Node> Node for Vec<T> {
    fn part(&self) -> Part<'_> {
        Part::Branch(self.iter().map(|part| part as &dyn Node).collect())
    }
}

impl<T: Tree> Tree for Vec<T> {
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
        self.iter().map(|part| part.rebuild(leaves)).collect()
    }
}

impl<T: Node, const N: usize> Node for [T; N] {
    fn part(&self) -> Part<'_> {
        Part::Branch(self.iter().map(|part| part as &dyn Node).collect())
    }
}

impl<T: Tree, const N: usize> Tree for [T; N] {
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
        let parts: Vec<T> = self
            .iter()
            .map(|part| part.rebuild(leaves))
            .collect::<Result<_>>()?;
        <[T; N]>::try_from(parts).map_err(|_| Error::Shape {
            op: "tree",
            message: format!("a list of {N} changed its length"),
        })
    }
}

impl<T: Node> Node for Option<T> {
    fn part(&self) -> Part<'_> {
        Part::Branch(self.iter().map(|part| part as &dyn Node).collect())
    }
}

impl<T: Tree> Tree for Option<T> {
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
        self.as_ref().map(|part| part.rebuild(leaves)).transpose()
    }
}

impl<T: Node> Node for Box<T> {
    fn part(&self) -> Part<'_> {
        (**self).part()
    }
}

impl<T: Tree> Tree for Box<T> {
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
        (**self).rebuild(leaves).map(Box::new)
    }
}

impl<K, T: Node> Node for BTreeMap<K, T> {
    fn part(&self) -> Part<'_> {
        Part::Branch(self.values().map(|part| part as &dyn Node).collect())
    }
}

impl<K: Ord + Clone, T: Tree> Tree for BTreeMap<K, T> {
    fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
        self.iter()
            .map(|(key, part)| Ok((key.clone(), part.rebuild(leaves)?)))
            .collect()
    }
}

macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<$($name: Node),*> Node for ($($name,)*) {
            #[allow(non_snake_case)]
            fn part(&self) -> Part<'_> {
                let ($($name,)*) = self;
                Part::Branch(vec![$($name as &dyn Node),*])
            }
        }
        impl<$($name: Tree),*> Tree for ($($name,)*) {
            #[allow(non_snake_case, unused_variables)]
            fn rebuild(&self, leaves: &mut dyn Iterator<Item = Array>) -> Result<Self> {
                let ($($name,)*) = self;
                Ok(($($name.rebuild(leaves)?,)*))
            }
        }
    )*};
}
tuples! { ; A; A B; A B C; A B C D; A B C D E; A B C D E F; }

/// Axes for the arrays of a structure: one for all, or a list with an entry for each child.
///
/// Made from `0`, `Some(0)`, `None`, or lists of axes: `[0, 1].into()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axes {
    /// The same for every array below; `None` for not mapped.
    All(Option<i32>),
    /// An entry for each child.
    Each(Vec<Axes>),
}

impl From<i32> for Axes {
    fn from(axis: i32) -> Self {
        Axes::All(Some(axis))
    }
}

impl From<Option<i32>> for Axes {
    fn from(axis: Option<i32>) -> Self {
        Axes::All(axis)
    }
}

impl<A: Into<Axes>> From<Vec<A>> for Axes {
    fn from(axes: Vec<A>) -> Self {
        Axes::Each(axes.into_iter().map(Into::into).collect())
    }
}

impl<A: Into<Axes>, const N: usize> From<[A; N]> for Axes {
    fn from(axes: [A; N]) -> Self {
        Axes::Each(axes.into_iter().map(Into::into).collect())
    }
}

impl Axes {
    /// An axis for each array of `tree`.
    pub(crate) fn resolve(&self, op: &'static str, tree: &dyn Node) -> Result<Vec<Option<i32>>> {
        let mut out = Vec::new();
        self.walk(op, tree, &mut out)?;
        Ok(out)
    }

    fn walk(&self, op: &'static str, node: &dyn Node, out: &mut Vec<Option<i32>>) -> Result<()> {
        match (self, node.part()) {
            (Axes::All(axis), Part::Leaf(_)) => {
                out.push(*axis);
                Ok(())
            }
            (Axes::All(_), Part::Branch(parts)) => parts
                .into_iter()
                .try_for_each(|part| self.walk(op, part, out)),
            (Axes::Each(axes), Part::Branch(parts)) if axes.len() == parts.len() => axes
                .iter()
                .zip(parts)
                .try_for_each(|(axes, part)| axes.walk(op, part, out)),
            (Axes::Each(axes), part) => Err(Error::Shape {
                op,
                message: match part {
                    Part::Leaf(_) => format!("a list of {} axes for an array", axes.len()),
                    Part::Branch(parts) => {
                        format!("{} axes for a branch of {}", axes.len(), parts.len())
                    }
                },
            }),
        }
    }
}
