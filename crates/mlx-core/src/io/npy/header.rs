use crate::{Dtype, Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Where NumPy lets the data start.
const ALIGNMENT: usize = 64;
const MAX_DIMS: usize = 64;

/// A validated header: the data fills the rest of the file exactly.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dtype: Dtype,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
    pub(super) data_start: usize,
    /// The width of the numbers to be reversed, in big-endian files.
    pub(super) swap_width: Option<usize>,
}

/// Reads and validates the header at the start of `bytes`; `label` names the file in errors.
pub(super) fn parse(bytes: &[u8], label: &str) -> Result<Header> {
    let error = |message: String| Error::Format {
        what: label.to_owned(),
        message,
    };
    let Some((prefix, rest)) = bytes
        .split_first_chunk::<8>()
        .filter(|(prefix, _)| prefix.starts_with(MAGIC))
    else {
        return Err(error("the file does not start as npy files do".to_owned()));
    };
    let truncated = || error("the file ends inside the header".to_owned());
    let (length, rest) = match prefix[6] {
        1 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
            let length = usize::try_from(u32::from_le_bytes(*length));
            (length.map_err(|_| truncated())?, rest)
        }
        version => return Err(error(format!("version {version}, expected 1 to 3"))),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(truncated)?;
    // Copied before it is checked: a mapped file may change in between.
    let header = String::from_utf8(header.to_vec())
        .map_err(|source| error(format!("header: not UTF-8: {}", source.utf8_error())))?;
    let fields = Fields::parse(&header).map_err(|message| error(format!("header: {message}")))?;
    let (dtype, swap_width) = parse_descr(&fields.descr).ok_or_else(|| {
        Error::Unsupported(format!(
            "{label}: arrays cannot hold elements of type `{}`",
            fields.descr
        ))
    })?;
    let mut nbytes = dtype.size();
    for &dim in &fields.shape {
        nbytes = i32::try_from(dim)
            .ok()
            .and_then(|_| nbytes.checked_mul(dim))
            .ok_or_else(|| error(format!("the shape {:?} is too large", fields.shape)))?;
    }
    if nbytes != data.len() {
        return Err(error(format!(
            "{} bytes of data for shape {:?} of {dtype}, expected {nbytes}",
            data.len(),
            fields.shape
        )));
    }
    Ok(Header {
        dtype,
        fortran_order: fields.fortran_order,
        shape: fields.shape,
        data_start: bytes.len() - data.len(),
        swap_width,
    })
}

/// The header of a row-major array, up to where its data starts.
pub(super) fn encode(dtype: Dtype, shape: &[i32]) -> Vec<u8> {
    let mut dims = String::new();
    for dim in shape {
        dims += &format!("{dim}, ");
    }
    // A tuple of one keeps its comma.
    let dims = match shape {
        [_] => dims.trim_end(),
        _ => dims.trim_end_matches(", "),
    };
    let text = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({dims}), }}",
        descr(dtype)
    );
    let prefix = |length_bytes: usize| MAGIC.len() + 2 + length_bytes;
    let padded = |prefix: usize| (prefix + text.len() + 1).next_multiple_of(ALIGNMENT) - prefix;
    let mut bytes = MAGIC.to_vec();
    let padded = match u16::try_from(padded(prefix(2))) {
        Ok(length) => {
            bytes.extend([1, 0]);
            bytes.extend(length.to_le_bytes());
            usize::from(length)
        }
        // Reached with thousands of dimensions only.
        Err(_) => {
            let length = padded(prefix(4));
            bytes.extend([2, 0]);
            bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
            length
        }
    };
    bytes.extend(text.as_bytes());
    bytes.extend(std::iter::repeat_n(b' ', padded - text.len() - 1));
    bytes.push(b'\n');
    bytes
}

fn descr(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bool => "|b1",
        Dtype::Uint8 => "|u1",
        Dtype::Uint16 => "<u2",
        Dtype::Uint32 => "<u4",
        Dtype::Uint64 => "<u8",
        Dtype::Int8 => "|i1",
        Dtype::Int16 => "<i2",
        Dtype::Int32 => "<i4",
        Dtype::Int64 => "<i8",
        Dtype::Float16 => "<f2",
        Dtype::Bfloat16 => "<V2",
        Dtype::Float32 => "<f4",
        Dtype::Float64 => "<f8",
        Dtype::Complex64 => "<c8",
    }
}

/// The dtype, and the width of the numbers if they are big-endian.
fn parse_descr(text: &str) -> Option<(Dtype, Option<usize>)> {
    let (order, name) = match text.split_at_checked(1)? {
        (order @ ("<" | ">" | "|" | "="), name) => (order, name),
        _ => ("=", text),
    };
    let dtype = Dtype::ALL
        .into_iter()
        .find(|&dtype| descr(dtype).get(1..) == Some(name))?;
    let width = match dtype {
        // Two numbers.
        Dtype::Complex64 => 4,
        other => other.size(),
    };
    Some((dtype, (order == ">" && width > 1).then_some(width)))
}

/// The dictionary in the header.
#[derive(Debug)]
struct Fields {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Fields {
    fn parse(text: &str) -> Result<Self, String> {
        let mut literal = Literal { rest: text };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        literal.expect('{')?;
        while !literal.accept('}') {
            let key = literal.string()?;
            literal.expect(':')?;
            let twice = match key {
                "descr" => descr.replace(literal.descr()?).is_some(),
                "fortran_order" => fortran_order.replace(literal.boolean()?).is_some(),
                "shape" => shape.replace(literal.tuple()?).is_some(),
                _ => return Err(format!("unknown key `{key}`")),
            };
            if twice {
                return Err(format!("`{key}` appears twice"));
            }
            if !literal.accept(',') {
                literal.expect('}')?;
                break;
            }
        }
        if !literal.rest.trim().is_empty() {
            return Err("text after the dictionary".to_owned());
        }
        Ok(Self {
            descr: descr.ok_or("`descr` is missing")?,
            fortran_order: fortran_order.ok_or("`fortran_order` is missing")?,
            shape: shape.ok_or("`shape` is missing")?,
        })
    }
}

/// As much of Python's syntax as headers use.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    fn accept(&mut self, token: char) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char) -> Result<(), String> {
        if self.accept(token) {
            Ok(())
        } else {
            let found: String = self.rest.trim_start().chars().take(20).collect();
            Err(format!("expected `{token}`, found `{found}`"))
        }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.accept('"') { '"' } else { '\'' };
        if quote == '\'' {
            self.expect('\'')?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or("a string does not end")?;
        self.rest = rest;
        Ok(text)
    }

    /// A dtype; structured ones are lists, which are kept as text for the error message.
    fn descr(&mut self) -> Result<String, String> {
        if !self.rest.trim_start().starts_with('[') {
            return self.string().map(str::to_owned);
        }
        let (list, rest) = self.rest.split_once(']').ok_or("a list does not end")?;
        self.rest = rest;
        Ok(format!("{}]", list.trim_start()))
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("`fortran_order` is neither True nor False".to_owned())
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        self.expect('(')?;
        let mut dims = Vec::new();
        while !self.accept(')') {
            if dims.len() == MAX_DIMS {
                return Err(format!("more than {MAX_DIMS} dimensions"));
            }
            dims.push(self.integer()?);
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(dims)
    }

    fn integer(&mut self) -> Result<usize, String> {
        let text = self.rest.trim_start();
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, rest) = text.split_at(end);
        // Python 2 marked long integers.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits
            .parse()
            .map_err(|_| format!("`{digits}` is no dimension"))
    }
}
