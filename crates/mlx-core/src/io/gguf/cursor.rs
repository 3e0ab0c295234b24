use super::limits::Limits;
use super::metadata::{Value, ValueArray};
use crate::{Error, Result};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
// The least space that an element takes, to bound counts by the bytes that are left.
const MIN_STRING_BYTES: usize = 8;
const MIN_ARRAY_BYTES: usize = 4 + 8;

/// Reads little-endian values and never past the end.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) position: usize,
    pub(super) label: &'a str,
    pub(super) limits: &'a Limits,
}

impl<'a> Cursor<'a> {
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::Format {
            what: self.label.to_owned(),
            message: message.into(),
        }
    }

    fn unsupported(&self, message: &str) -> Error {
        Error::Unsupported(format!("{}: {message}", self.label))
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let taken = self
            .position
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.position..end));
        let Some(taken) = taken else {
            return Err(self.error(format!(
                "{what}: the file ends at byte {}, {len} more bytes expected at byte {}",
                self.bytes.len(),
                self.position
            )));
        };
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn magic_and_version(&mut self) -> Result<u32> {
        if self.bytes.get(..4) != Some(&MAGIC) {
            return Err(self.error("the file does not start with `GGUF`"));
        }
        self.position = 4;
        match self.u32("version")? {
            version @ 2..=3 => Ok(version),
            1 => Err(self.unsupported("version 1 files are not supported, convert it again")),
            version if matches!(version.swap_bytes(), 1..=3) => {
                Err(self.unsupported("big-endian files are not supported"))
            }
            version => Err(self.error(format!("version {version}, expected 2 or 3"))),
        }
    }

    /// A count of things that take at least `min_bytes` each.
    pub(super) fn count(
        &mut self,
        context: &str,
        things: &str,
        limit: u64,
        min_bytes: usize,
    ) -> Result<usize> {
        let count = self.u64(context)?;
        if count > limit {
            return Err(self.error(format!(
                "{context}: {count} {things}, more than the limit of {limit}"
            )));
        }
        usize::try_from(count)
            .ok()
            .filter(|count| {
                count
                    .checked_mul(min_bytes)
                    .is_some_and(|needed| needed <= self.remaining())
            })
            .ok_or_else(|| {
                self.error(format!(
                    "{context}: {count} {things} do not fit into the {} bytes that are left",
                    self.remaining()
                ))
            })
    }

    pub(super) fn string(&mut self, context: &str, limit: u64) -> Result<String> {
        let len = self.count(context, "bytes of text", limit, 1)?;
        // Copied before it is checked: a mapped file may change in between.
        String::from_utf8(self.take(len, context)?.to_vec())
            .map_err(|error| self.error(format!("{context}: not UTF-8: {}", error.utf8_error())))
    }

    pub(super) fn value(&mut self, context: &str) -> Result<Value> {
        let value_type = self.u32(context)?;
        Ok(match value_type {
            0 => Value::U8(self.number(context)?),
            1 => Value::I8(self.number(context)?),
            2 => Value::U16(self.number(context)?),
            3 => Value::I16(self.number(context)?),
            4 => Value::U32(self.number(context)?),
            5 => Value::I32(self.number(context)?),
            6 => Value::F32(self.number(context)?),
            7 => Value::Bool(self.flag(context)?),
            8 => Value::String(self.string(context, self.limits.max_string_bytes)?),
            9 => Value::Array(self.value_array(context, 1)?),
            10 => Value::U64(self.number(context)?),
            11 => Value::I64(self.number(context)?),
            12 => Value::F64(self.number(context)?),
            other => return Err(self.error(format!("{context}: unknown value type {other}"))),
        })
    }

    fn value_array(&mut self, context: &str, depth: u32) -> Result<ValueArray> {
        if depth > self.limits.max_array_depth {
            return Err(self.error(format!(
                "{context}: arrays nest deeper than {}",
                self.limits.max_array_depth
            )));
        }
        let element_type = self.u32(context)?;
        Ok(match element_type {
            0 => ValueArray::U8(self.numbers(context)?),
            1 => ValueArray::I8(self.numbers(context)?),
            2 => ValueArray::U16(self.numbers(context)?),
            3 => ValueArray::I16(self.numbers(context)?),
            4 => ValueArray::U32(self.numbers(context)?),
            5 => ValueArray::I32(self.numbers(context)?),
            6 => ValueArray::F32(self.numbers(context)?),
            7 => {
                let len = self.array_len(context, 1)?;
                ValueArray::Bool(
                    (0..len)
                        .map(|_| self.flag(context))
                        .collect::<Result<_>>()?,
                )
            }
            8 => {
                let len = self.array_len(context, MIN_STRING_BYTES)?;
                let max_bytes = self.limits.max_string_bytes;
                ValueArray::String(
                    (0..len)
                        .map(|_| self.string(context, max_bytes))
                        .collect::<Result<_>>()?,
                )
            }
            9 => {
                let len = self.array_len(context, MIN_ARRAY_BYTES)?;
                ValueArray::Array(
                    (0..len)
                        .map(|_| self.value_array(context, depth + 1))
                        .collect::<Result<_>>()?,
                )
            }
            10 => ValueArray::U64(self.numbers(context)?),
            11 => ValueArray::I64(self.numbers(context)?),
            12 => ValueArray::F64(self.numbers(context)?),
            other => return Err(self.error(format!("{context}: unknown element type {other}"))),
        })
    }

    fn array_len(&mut self, context: &str, min_bytes: usize) -> Result<usize> {
        let limit = self.limits.max_array_len;
        self.count(context, "array elements", limit, min_bytes)
    }

    fn number<T: Number>(&mut self, context: &str) -> Result<T> {
        self.take(T::BYTES, context).map(T::from_le)
    }

    fn numbers<T: Number>(&mut self, context: &str) -> Result<Vec<T>> {
        let len = self.array_len(context, T::BYTES)?;
        // The product was checked against the bytes that are left.
        let bytes = self.take(len * T::BYTES, context)?;
        Ok(bytes.chunks_exact(T::BYTES).map(T::from_le).collect())
    }

    fn flag(&mut self, context: &str) -> Result<bool> {
        match self.array(context)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(self.error(format!("{context}: the flag is {byte}, expected 0 or 1"))),
        }
    }
}

/// Numbers as they are stored.
trait Number {
    const BYTES: usize;

    /// Decodes exactly `BYTES` bytes.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Number for $number {
            const BYTES: usize = size_of::<$number>();

            fn from_le(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$number>()];
                array.copy_from_slice(bytes);
                <$number>::from_le_bytes(array)
            }
        }
    )*};
}

numbers! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }
