/// What a header may claim before it is refused.
///
/// Every count is also checked against the bytes that are left in the file
/// before anything is allocated, so that these limits only matter for files
/// that are really as large as they say.
///
/// ```
/// use mlx_core::io::gguf::Limits;
///
/// let limits = Limits::default().max_tensors(500);
/// # let _ = limits;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct Limits {
    pub(super) max_tensors: u64,
    pub(super) max_metadata: u64,
    pub(super) max_name_bytes: u64,
    pub(super) max_string_bytes: u64,
    pub(super) max_array_len: u64,
    pub(super) max_array_depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_tensors: 1 << 20,
            max_metadata: 1 << 16,
            max_name_bytes: (1 << 16) - 1,
            max_string_bytes: 1 << 28,
            max_array_len: 1 << 26,
            max_array_depth: 4,
        }
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        impl Limits {
            $($(#[$doc])*
            pub fn $name(mut self, limit: $type) -> Self {
                self.$name = limit;
                self
            })*
        }
    };
}

limits! {
    /// The most tensors.
    max_tensors: u64;
    /// The most metadata pairs.
    max_metadata: u64;
    /// The longest tensor name or metadata key in bytes.
    max_name_bytes: u64;
    /// The longest metadata string in bytes.
    max_string_bytes: u64;
    /// The most elements of one metadata array.
    max_array_len: u64;
    /// How deep metadata arrays may nest; 1 forbids arrays of arrays.
    max_array_depth: u32;
}
