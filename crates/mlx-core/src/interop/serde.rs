//! Serialisation with the crate `serde`, for small arrays: settings, test cases, messages. Weights
//! belong in [safetensors](crate::io::safetensors).

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use crate::shape::checked_size;
use crate::{Array, Complex32, Dtype, Element, Error, Result, bf16, f16};

/// As dtype, shape and elements in row-major order, evaluating the array if need be:
/// `{"dtype": "float32", "shape": [2], "data": [1.0, 2.5]}`. Complex numbers are written as their
/// two parts one after the other. Infinities and NaN are for the format to take or refuse: JSON
/// turns them into `null`, which does not read back.
///
/// ```
/// # use mlx_core::{array, Array};
/// let x = array!([[1, 2], [3, 4]])?;
/// let text = serde_json::to_string(&x).unwrap();
/// assert_eq!(text, r#"{"dtype":"int32","shape":[2,2],"data":[1,2,3,4]}"#);
/// let y: Array = serde_json::from_str(&text).unwrap();
/// assert_eq!(y.to_vec::<i32>()?, [1, 2, 3, 4]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
impl Serialize for Array {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn put<S: Serializer, D: Serialize>(
            array: &Array,
            serializer: S,
            data: Result<Vec<D>>,
        ) -> Result<S::Ok, S::Error> {
            let data = data.map_err(ser::Error::custom)?;
            let mut map = serializer.serialize_struct("Array", 3)?;
            map.serialize_field("dtype", array.dtype().name())?;
            map.serialize_field("shape", array.shape())?;
            map.serialize_field("data", &data)?;
            map.end()
        }
        fn narrow<T: Element>(array: &Array, wide: impl Fn(T) -> f32) -> Result<Vec<f32>> {
            Ok(array.elements::<T>()?.iter().map(wide).collect())
        }
        match self.dtype() {
            Dtype::Bool => put(self, serializer, self.to_vec::<bool>()),
            Dtype::Uint8 => put(self, serializer, self.to_vec::<u8>()),
            Dtype::Uint16 => put(self, serializer, self.to_vec::<u16>()),
            Dtype::Uint32 => put(self, serializer, self.to_vec::<u32>()),
            Dtype::Uint64 => put(self, serializer, self.to_vec::<u64>()),
            Dtype::Int8 => put(self, serializer, self.to_vec::<i8>()),
            Dtype::Int16 => put(self, serializer, self.to_vec::<i16>()),
            Dtype::Int32 => put(self, serializer, self.to_vec::<i32>()),
            Dtype::Int64 => put(self, serializer, self.to_vec::<i64>()),
            Dtype::Float16 => put(self, serializer, narrow(self, f16::to_f32)),
            Dtype::Bfloat16 => put(self, serializer, narrow(self, bf16::to_f32)),
            Dtype::Float32 => put(self, serializer, self.to_vec::<f32>()),
            Dtype::Float64 => put(self, serializer, self.to_vec::<f64>()),
            Dtype::Complex64 => {
                let parts = self
                    .elements::<Complex32>()
                    .map(|elements| elements.iter().flat_map(|v| [v.re, v.im]).collect());
                put(self, serializer, parts)
            }
        }
    }
}

/// From what [`Serialize`] writes, the dtype before the data. Fails if the data does not fill the
/// shape.
impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Array, D::Error> {
        deserializer.deserialize_struct("Array", &["dtype", "shape", "data"], Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Array;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dtype, shape and data of an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Array, A::Error> {
        let (mut dtype, mut shape, mut data) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "dtype" => dtype = Some(parse_dtype(&map.next_value::<String>()?)?),
                "shape" => shape = Some(map.next_value::<Vec<i32>>()?),
                "data" => {
                    let dtype = dtype
                        .ok_or_else(|| de::Error::custom("the dtype must stand before the data"))?;
                    data = Some(map.next_value_seed(Flat(dtype))?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let data: Array = data.ok_or_else(|| de::Error::missing_field("data"))?;
        let shape = shape.ok_or_else(|| de::Error::missing_field("shape"))?;
        fold(&data, &shape).map_err(de::Error::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Array, A::Error> {
        let missing = |index| de::Error::invalid_length(index, &"dtype, shape and data");
        let name = seq.next_element::<String>()?.ok_or_else(|| missing(0))?;
        let shape = seq.next_element::<Vec<i32>>()?.ok_or_else(|| missing(1))?;
        let data = seq
            .next_element_seed(Flat(parse_dtype(&name)?))?
            .ok_or_else(|| missing(2))?;
        fold(&data, &shape).map_err(de::Error::custom)
    }
}

fn parse_dtype<E: de::Error>(name: &str) -> Result<Dtype, E> {
    Dtype::from_name(name).ok_or_else(|| E::custom(format_args!("there is no dtype `{name}`")))
}

/// `data` as an array of `shape`, which may not infer a dimension.
fn fold(data: &Array, shape: &[i32]) -> Result<Array> {
    if checked_size("deserialize", shape, data.dtype())? != data.size() {
        return Err(Error::shape(
            "deserialize",
            format!("{} elements do not fill shape {shape:?}", data.size()),
        ));
    }
    data.reshape(&shape)
}

/// Reads the elements of an array of this dtype, without their shape.
struct Flat(Dtype);

impl<'de> DeserializeSeed<'de> for Flat {
    type Value = Array;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Array, D::Error> {
        fn read<'de, R: Deserialize<'de>, T: Element, D: Deserializer<'de>>(
            deserializer: D,
            convert: impl Fn(Vec<R>) -> Result<Vec<T>, D::Error>,
        ) -> Result<Array, D::Error> {
            let data = convert(Vec::<R>::deserialize(deserializer)?)?;
            Array::try_from(data).map_err(de::Error::custom)
        }
        fn plain<'de, T: Element + Deserialize<'de>, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Array, D::Error> {
            read::<T, T, D>(deserializer, Ok)
        }
        match self.0 {
            Dtype::Bool => plain::<bool, D>(deserializer),
            Dtype::Uint8 => plain::<u8, D>(deserializer),
            Dtype::Uint16 => plain::<u16, D>(deserializer),
            Dtype::Uint32 => plain::<u32, D>(deserializer),
            Dtype::Uint64 => plain::<u64, D>(deserializer),
            Dtype::Int8 => plain::<i8, D>(deserializer),
            Dtype::Int16 => plain::<i16, D>(deserializer),
            Dtype::Int32 => plain::<i32, D>(deserializer),
            Dtype::Int64 => plain::<i64, D>(deserializer),
            Dtype::Float16 => read(deserializer, |data: Vec<f32>| {
                Ok(data.into_iter().map(f16::from_f32).collect())
            }),
            Dtype::Bfloat16 => read(deserializer, |data: Vec<f32>| {
                Ok(data.into_iter().map(bf16::from_f32).collect())
            }),
            Dtype::Float32 => plain::<f32, D>(deserializer),
            Dtype::Float64 => plain::<f64, D>(deserializer),
            Dtype::Complex64 => read(deserializer, |data: Vec<f32>| {
                let (pairs, []) = data.as_chunks::<2>() else {
                    return Err(de::Error::custom(
                        "a complex number lacks its imaginary part",
                    ));
                };
                Ok(pairs
                    .iter()
                    .map(|&[re, im]| Complex32::new(re, im))
                    .collect())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Array, Complex32, Dtype, bf16};

    fn round(x: &Array) -> Array {
        serde_json::from_str(&serde_json::to_string(x).unwrap()).unwrap()
    }

    #[test]
    fn every_dtype_comes_back() {
        for dtype in Dtype::ALL {
            let x = Array::arange_dtype(0.0, 6.0, 1.0, Dtype::Int32)
                .unwrap()
                .astype(dtype)
                .unwrap()
                .reshape(&[3, 2])
                .unwrap()
                .transpose()
                .unwrap();
            let y = round(&x);
            assert_eq!((y.shape(), y.dtype()), (&[2, 3][..], dtype));
            assert!(
                x.array_equal(&y, false).unwrap().item::<bool>().unwrap(),
                "{dtype}"
            );
        }
        let x = Array::scalar(bf16::from_f32(0.1)).unwrap();
        assert_eq!(round(&x).item::<bf16>().unwrap(), bf16::from_f32(0.1));
        let x = Array::scalar(Complex32::new(1.0, -2.0)).unwrap();
        assert_eq!(round(&x).item::<Complex32>().unwrap().im, -2.0);
        assert_eq!(
            round(&Array::zeros::<f32>(&[0, 4]).unwrap()).shape(),
            [0, 4]
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for text in [
            r#"{"dtype":"int32","shape":[3],"data":[1,2]}"#,
            r#"{"dtype":"int32","shape":[-1],"data":[1,2]}"#,
            r#"{"dtype":"int33","shape":[2],"data":[1,2]}"#,
            r#"{"dtype":"uint8","shape":[1],"data":[256]}"#,
            r#"{"dtype":"complex64","shape":[1],"data":[1.0]}"#,
            r#"{"dtype":"int32","shape":[2147483647,2147483647,2147483647],"data":[]}"#,
            r#"{"data":[1],"dtype":"int32","shape":[1]}"#,
            r#"{"dtype":"int32","shape":[1]}"#,
        ] {
            assert!(serde_json::from_str::<Array>(text).is_err(), "{text}");
        }
    }
}
