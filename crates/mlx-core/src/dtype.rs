//! Element types of arrays.

mod info;

pub use info::{FloatInfo, IntInfo, result_type};

use std::fmt;

/// The type of an array's elements.
///
/// MLX has these fourteen; there is no complex128, and 8- and 4-bit floats live packed in
/// unsigned integers (see [`quantized`](crate::ops::quantized)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Float16,
    Bfloat16,
    Float32,
    /// CPU only: MLX has no float64 on any GPU.
    Float64,
    Complex64,
}

/// A group of dtypes, for [`Dtype::is_subtype`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DtypeCategory {
    ComplexFloating,
    Floating,
    Inexact,
    SignedInteger,
    UnsignedInteger,
    Integer,
    Number,
    Generic,
}

impl Dtype {
    /// All dtypes, in the order in which their codes cross the boundary to the shim.
    pub const ALL: [Dtype; 14] = [
        Dtype::Bool,
        Dtype::Uint8,
        Dtype::Uint16,
        Dtype::Uint32,
        Dtype::Uint64,
        Dtype::Int8,
        Dtype::Int16,
        Dtype::Int32,
        Dtype::Int64,
        Dtype::Float16,
        Dtype::Bfloat16,
        Dtype::Float32,
        Dtype::Float64,
        Dtype::Complex64,
    ];

    #[inline]
    pub(crate) fn code(self) -> i32 {
        self as i32
    }

    #[inline]
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        usize::try_from(code)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
            Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
            Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
            Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
        }
    }

    /// MLX's name: `"float32"`, `"bool"`, ….
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "bool",
            Dtype::Uint8 => "uint8",
            Dtype::Uint16 => "uint16",
            Dtype::Uint32 => "uint32",
            Dtype::Uint64 => "uint64",
            Dtype::Int8 => "int8",
            Dtype::Int16 => "int16",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
            Dtype::Float16 => "float16",
            Dtype::Bfloat16 => "bfloat16",
            Dtype::Float32 => "float32",
            Dtype::Float64 => "float64",
            Dtype::Complex64 => "complex64",
        }
    }

    /// The dtype of this [`name`](Dtype::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The narrowest category.
    pub fn category(self) -> DtypeCategory {
        match self {
            Dtype::Bool => DtypeCategory::Generic,
            Dtype::Uint8 | Dtype::Uint16 | Dtype::Uint32 | Dtype::Uint64 => {
                DtypeCategory::UnsignedInteger
            }
            Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Int64 => {
                DtypeCategory::SignedInteger
            }
            Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64 => {
                DtypeCategory::Floating
            }
            Dtype::Complex64 => DtypeCategory::ComplexFloating,
        }
    }

    /// Whether the dtype belongs to `category` (NumPy's `issubdtype`).
    pub fn is_subtype(self, category: DtypeCategory) -> bool {
        use DtypeCategory as C;
        let own = self.category();
        match category {
            C::Generic => true,
            C::Number => own != C::Generic,
            C::Integer => matches!(own, C::SignedInteger | C::UnsignedInteger),
            C::Inexact => matches!(own, C::Floating | C::ComplexFloating),
            other => own == other,
        }
    }

    /// Whether this is one of the four real floating-point dtypes.
    pub fn is_floating(self) -> bool {
        self.is_subtype(DtypeCategory::Floating)
    }

    /// Whether this is a signed or unsigned integer; `Bool` is not.
    pub fn is_integer(self) -> bool {
        self.is_subtype(DtypeCategory::Integer)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
