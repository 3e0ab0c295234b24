use std::collections::BTreeMap;

use crate::{Error, Result};

/// The key-value pairs in the header of a GGUF file, ordered by key.
///
/// ```
/// use mlx_core::io::gguf::{Metadata, Value};
///
/// let metadata = Metadata::from_iter([
///     ("general.architecture".to_owned(), Value::from("llama")),
///     ("llama.block_count".to_owned(), Value::from(30_u32)),
/// ]);
/// assert_eq!(metadata.str("general.architecture")?, "llama");
/// assert_eq!(metadata.get::<u64>("llama.block_count")?, Some(30));
/// assert_eq!(metadata.get::<f32>("llama.rope.freq_base")?, None);
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    pub(super) label: String,
    pub(super) entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of `key` as it is stored.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// The value of `key` as a `T`, or `None` if the key is absent.
    ///
    /// Integers convert between widths as long as the value fits; an integer
    /// never becomes a float or the other way round.
    ///
    /// # Errors
    /// [`Error::Format`] if the value has another type or does not fit.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        T::from_value(value).map(Some).ok_or_else(|| {
            self.error(format!(
                "metadata `{key}`: expected {}, found {}",
                T::EXPECTED,
                value.describe()
            ))
        })
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// [`Error::Format`] if the key is absent, the value has another type or does not fit.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.get(key)?
            .ok_or_else(|| self.error(format!("metadata `{key}` is missing")))
    }

    /// The string `key`.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn str(&self, key: &str) -> Result<&str> {
        self.require(key)
    }

    /// The integer `key`, stored in any width.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.require(key)
    }

    /// The integer `key`, stored in any width.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.require(key)
    }

    /// The floating-point number `key`.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.require(key)
    }

    /// The flag `key`.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.require(key)
    }

    /// The array of strings `key`.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn strs(&self, key: &str) -> Result<&[String]> {
        self.require(key)
    }

    /// The array of numbers `key`.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        self.require(key)
    }

    /// The array of integers `key`, stored in any width.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub fn i64s(&self, key: &str) -> Result<Vec<i64>> {
        self.require(key)
    }

    /// The pairs, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// The number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets `key` to `value` and returns the value it replaces.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.entries.insert(key.into(), value.into())
    }

    fn error(&self, message: String) -> Error {
        let what = if self.label.is_empty() {
            "gguf metadata"
        } else {
            &self.label
        };
        Error::Format {
            what: what.to_owned(),
            message,
        }
    }
}

impl FromIterator<(String, Value)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        Self {
            label: String::new(),
            entries: pairs.into_iter().collect(),
        }
    }
}

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types they hold")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(ValueArray),
}

impl Value {
    fn as_int(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// The type and, where short, the value.
    fn describe(&self) -> String {
        match self {
            Self::F32(value) => format!("the float {value}"),
            Self::F64(value) => format!("the float {value}"),
            Self::Bool(value) => format!("the flag {value}"),
            Self::String(_) => "a string".to_owned(),
            Self::Array(array) => {
                format!("an array of {} {}", array.len(), array.element_name())
            }
            integer => integer
                .as_int()
                .map_or_else(String::new, |value| format!("the integer {value}")),
        }
    }
}

/// An array of metadata values of one type.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types they hold")]
pub enum ValueArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<ValueArray>),
}

impl ValueArray {
    /// The number of elements, not counting those of nested arrays.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::Array(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn element_name(&self) -> &'static str {
        match self {
            Self::F32(_) | Self::F64(_) => "floats",
            Self::Bool(_) => "flags",
            Self::String(_) => "strings",
            Self::Array(_) => "arrays",
            _ => "integers",
        }
    }
}

/// Rust types that a [`Value`] converts to.
///
/// Implemented for `&str`, `bool`, integers, floats, `&[String]`, `&[f32]`,
/// `&[i32]` and vectors of integers; sealed, because the file format fixes the set.
pub trait FromValue<'a>: Sized + sealed::Sealed {
    /// What error messages call this type.
    const EXPECTED: &'static str;

    /// The value, if it has a matching type and fits.
    fn from_value(value: &'a Value) -> Option<Self>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! integers {
    ($($int:ident => $one:literal, $many:literal;)*) => {$(
        impl sealed::Sealed for $int {}
        impl FromValue<'_> for $int {
            const EXPECTED: &'static str = $one;

            fn from_value(value: &Value) -> Option<Self> {
                value.as_int().and_then(|value| value.try_into().ok())
            }
        }

        impl sealed::Sealed for Vec<$int> {}
        impl FromValue<'_> for Vec<$int> {
            const EXPECTED: &'static str = $many;

            fn from_value(value: &Value) -> Option<Self> {
                fn convert<T: Copy + TryInto<$int>>(values: &[T]) -> Option<Vec<$int>> {
                    values.iter().map(|&value| value.try_into().ok()).collect()
                }
                match value {
                    Value::Array(ValueArray::U8(values)) => convert(values),
                    Value::Array(ValueArray::I8(values)) => convert(values),
                    Value::Array(ValueArray::U16(values)) => convert(values),
                    Value::Array(ValueArray::I16(values)) => convert(values),
                    Value::Array(ValueArray::U32(values)) => convert(values),
                    Value::Array(ValueArray::I32(values)) => convert(values),
                    Value::Array(ValueArray::U64(values)) => convert(values),
                    Value::Array(ValueArray::I64(values)) => convert(values),
                    _ => None,
                }
            }
        }
    )*};
}

integers! {
    u8 => "an unsigned 8-bit integer", "an array of unsigned 8-bit integers";
    u16 => "an unsigned 16-bit integer", "an array of unsigned 16-bit integers";
    i32 => "a 32-bit integer", "an array of 32-bit integers";
    u32 => "an unsigned 32-bit integer", "an array of unsigned 32-bit integers";
    i64 => "a 64-bit integer", "an array of 64-bit integers";
    u64 => "an unsigned 64-bit integer", "an array of unsigned 64-bit integers";
    usize => "an unsigned integer", "an array of unsigned integers";
}

macro_rules! from_value {
    ($($target:ty, $expected:literal, $pattern:pat => $result:expr;)*) => {$(
        impl<'a> sealed::Sealed for $target {}
        impl<'a> FromValue<'a> for $target {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    $pattern => Some($result),
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    bool, "a flag", Value::Bool(value) => *value;
    &'a str, "a string", Value::String(value) => value;
    &'a [String], "an array of strings", Value::Array(ValueArray::String(values)) => values;
    &'a [f32], "an array of 32-bit floats", Value::Array(ValueArray::F32(values)) => values;
    &'a [i32], "an array of 32-bit integers", Value::Array(ValueArray::I32(values)) => values;
}

impl sealed::Sealed for f64 {}
impl FromValue<'_> for f64 {
    const EXPECTED: &'static str = "a float";

    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }
}

impl sealed::Sealed for f32 {}
impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";

    #[expect(
        clippy::cast_possible_truncation,
        reason = "configuration values are read with the precision that models compute in"
    )]
    fn from_value(value: &Value) -> Option<Self> {
        f64::from_value(value).map(|value| value as Self)
    }
}

macro_rules! into_value {
    ($($source:ty => $variant:ident($array:ty);)*) => {$(
        impl From<$source> for Value {
            fn from(value: $source) -> Self {
                Self::$variant(value)
            }
        }

        impl From<$array> for Value {
            fn from(values: $array) -> Self {
                Self::Array(ValueArray::$variant(values))
            }
        }
    )*};
}

into_value! {
    u8 => U8(Vec<u8>);
    i8 => I8(Vec<i8>);
    u16 => U16(Vec<u16>);
    i16 => I16(Vec<i16>);
    u32 => U32(Vec<u32>);
    i32 => I32(Vec<i32>);
    u64 => U64(Vec<u64>);
    i64 => I64(Vec<i64>);
    f32 => F32(Vec<f32>);
    f64 => F64(Vec<f64>);
    bool => Bool(Vec<bool>);
    String => String(Vec<String>);
    ValueArray => Array(Vec<ValueArray>);
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}
