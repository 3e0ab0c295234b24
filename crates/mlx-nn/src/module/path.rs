//! Where a visitor stands in the module tree.

use std::fmt;

/// The dotted path of a module or parameter, for example `model.layers.0.mlp.gate_proj.weight`.
///
/// A path is a chain of borrowed segments, so that walking a model allocates nothing; a name is
/// only built where one is needed, with [`to_string`](ToString::to_string).
///
/// ```
/// use mlx_nn::KeyPath;
///
/// let root = KeyPath::root();
/// let layers = root.child("layers");
/// assert_eq!(layers.index(3).child("weight").to_string(), "layers.3.weight");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct KeyPath<'p> {
    parent: Option<&'p KeyPath<'p>>,
    segment: Segment<'p>,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'p> {
    Root,
    Name(&'p str),
    Index(usize),
}

impl KeyPath<'static> {
    /// The empty path, of the module that is being walked itself.
    #[must_use]
    pub const fn root() -> Self {
        Self {
            parent: None,
            segment: Segment::Root,
        }
    }
}

impl KeyPath<'_> {
    /// The path of the field or key `name` below this one.
    #[must_use]
    pub const fn child<'c>(&'c self, name: &'c str) -> KeyPath<'c> {
        KeyPath {
            parent: Some(self),
            segment: Segment::Name(name),
        }
    }

    /// The path of the element `index` below this one.
    #[must_use]
    pub const fn index(&self, index: usize) -> KeyPath<'_> {
        KeyPath {
            parent: Some(self),
            segment: Segment::Index(index),
        }
    }

    /// The last name of the path, if it ends in a name.
    #[must_use]
    pub const fn name(&self) -> Option<&str> {
        match self.segment {
            Segment::Name(name) => Some(name),
            Segment::Root | Segment::Index(_) => None,
        }
    }
}

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !matches!(parent.segment, Segment::Root) {
                f.write_str(".")?;
            }
        }
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Name(name) => f.write_str(name),
            Segment::Index(index) => write!(f, "{index}"),
        }
    }
}
