use std::fmt;

/// How the elements of a GGUF tensor are stored, with the identifier of the file format.
///
/// Types whose name starts with `Q`, `IQ`, `TQ`, `MXFP` or `NVFP` are stored in
/// blocks of several elements that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the format's own")]
#[expect(non_camel_case_types, reason = "the names are the format's own")]
#[repr(u32)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
}

impl GgmlType {
    /// Every type, in the order of the identifiers.
    pub const ALL: &'static [Self] = &[
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q8_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q8_K,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ3_XXS,
        Self::IQ1_S,
        Self::IQ4_NL,
        Self::IQ3_S,
        Self::IQ2_S,
        Self::IQ4_XS,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F64,
        Self::IQ1_M,
        Self::BF16,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::MXFP4,
        Self::NVFP4,
        Self::Q1_0,
    ];

    /// The type with this identifier, or `None` for retired and unknown ones.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|ggml_type| ggml_type.id() == id)
    }

    /// The identifier that files carry.
    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Elements that one block holds: 1 for plain types.
    #[must_use]
    pub const fn block_len(self) -> usize {
        self.layout().0
    }

    /// Bytes that one block takes.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        self.layout().1
    }

    /// Bytes that `elements` elements take, or `None` if they fill no whole
    /// number of blocks or the size overflows.
    #[must_use]
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let (block_len, block_bytes) = self.layout();
        if !elements.is_multiple_of(block_len) {
            return None;
        }
        (elements / block_len).checked_mul(block_bytes)
    }

    /// Elements and bytes of one block.
    const fn layout(self) -> (usize, usize) {
        match self {
            Self::I8 => (1, 1),
            Self::F16 | Self::BF16 | Self::I16 => (1, 2),
            Self::F32 | Self::I32 => (1, 4),
            Self::F64 | Self::I64 => (1, 8),
            Self::MXFP4 => (32, 17),
            Self::Q4_0 | Self::IQ4_NL => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q8_1 => (32, 36),
            Self::NVFP4 => (64, 36),
            Self::Q1_0 => (128, 18),
            Self::IQ1_S => (256, 50),
            Self::TQ1_0 => (256, 54),
            Self::IQ1_M => (256, 56),
            Self::IQ2_XXS | Self::TQ2_0 => (256, 66),
            Self::IQ2_XS => (256, 74),
            Self::IQ2_S => (256, 82),
            Self::Q2_K => (256, 84),
            Self::IQ3_XXS => (256, 98),
            Self::Q3_K | Self::IQ3_S => (256, 110),
            Self::IQ4_XS => (256, 136),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
            Self::Q8_K => (256, 292),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
