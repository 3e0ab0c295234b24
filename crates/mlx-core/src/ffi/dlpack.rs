//! Arrays shared with NumPy, PyTorch, JAX and others through DLPack 1.0, the exchange format of the
//! Python array API.
//!
//! Memory that two libraries share must not be written by either while the other reads it, and MLX
//! may write its result into the memory of an array that nothing else needs. So:
//!
//! - [`to_dlpack`] shares memory without a copy and says that it is read-only; the array's memory
//!   stays as it is until the consumer calls the deleter.
//! - [`to_dlpack_legacy`], whose format cannot say that, copies.
//! - [`from_dlpack`] hands memory to MLX if the producer says that it is a copy made for the
//!   consumer, and copies what others still hold. (MLX's back end for CPUs copies in any case.)
//!
//! Only memory of the CPU is exchanged. In Python the pointers travel in capsules named
//! `dltensor_versioned` and `dltensor`.

use std::ffi::c_void;

use crate::{Array, Dtype, Error, Result, ffi};

/// `DLManagedTensorVersioned`.
#[repr(C)]
#[derive(Debug)]
pub struct ManagedTensorVersioned {
    /// The version of the format, which says how the rest is laid out.
    pub version: PackVersion,
    /// The producer's own.
    pub manager_ctx: *mut c_void,
    /// Frees the tensor and itself; called once by the consumer.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensorVersioned)>,
    /// [`READ_ONLY`] and [`IS_COPIED`].
    pub flags: u64,
    /// What is shared.
    pub dl_tensor: Tensor,
}

/// `DLManagedTensor`, the format before version 1.
#[repr(C)]
#[derive(Debug)]
pub struct ManagedTensor {
    /// What is shared.
    pub dl_tensor: Tensor,
    /// The producer's own.
    pub manager_ctx: *mut c_void,
    /// Frees the tensor and itself; called once by the consumer.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
}

/// `DLTensor`.
#[repr(C)]
#[derive(Debug)]
pub struct Tensor {
    /// The memory.
    pub data: *mut c_void,
    /// Where the memory is.
    pub device: PackDevice,
    /// The number of dimensions.
    pub ndim: i32,
    /// The element type.
    pub dtype: DataType,
    /// The dimensions.
    pub shape: *mut i64,
    /// Elements from one position to the next along each axis; null for row-major order.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// `DLPackVersion`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackVersion {
    /// Changes where the layout does.
    pub major: u32,
    /// Changes with additions.
    pub minor: u32,
}

/// `DLDevice`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackDevice {
    /// The kind: 1 is the CPU.
    pub device_type: i32,
    /// The number of the device among its kind.
    pub device_id: i32,
}

/// `DLDataType`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataType {
    /// 0 signed, 1 unsigned, 2 float, 4 bfloat, 5 complex, 6 bool.
    pub code: u8,
    /// Bits of one number.
    pub bits: u8,
    /// Numbers in one element; always 1 here.
    pub lanes: u16,
}

/// The flag of memory that the consumer must not write.
pub const READ_ONLY: u64 = 1;
/// The flag of memory that was copied for the consumer, who may do with it what it likes.
pub const IS_COPIED: u64 = 2;

const CPU: PackDevice = PackDevice {
    device_type: 1,
    device_id: 0,
};
const VERSION: PackVersion = PackVersion { major: 1, minor: 0 };
/// More dimensions than any library has; a larger number is nonsense.
const MAX_NDIM: i32 = 64;

/// The array as a DLPack tensor without a copy, evaluating it if need be. The consumer calls the
/// deleter once; a pointer that is never consumed must be given to [`free`].
///
/// # Errors
/// Whatever the computation reports; [`Error::Unsupported`] for `bool` arrays, whose bytes may be
/// others than 0 and 1 (cast to uint8), unless they can be copied.
pub fn to_dlpack(array: &Array) -> Result<*mut ManagedTensorVersioned> {
    unsafe extern "C" fn delete(tensor: *mut ManagedTensorVersioned) {
        if tensor.is_null() {
            return;
        }
        // SAFETY: the tensor and its context are the boxes below, freed once.
        unsafe {
            drop(Box::from_raw((*tensor).manager_ctx.cast::<Held>()));
            drop(Box::from_raw(tensor));
        }
    }
    let mut held = Held::shared(array)?;
    let dl_tensor = held.tensor();
    Ok(Box::into_raw(Box::new(ManagedTensorVersioned {
        version: VERSION,
        manager_ctx: Box::into_raw(held).cast(),
        deleter: Some(delete),
        flags: READ_ONLY,
        dl_tensor,
    })))
}

/// A copy of the array as a DLPack tensor of the format before version 1, evaluating it if need
/// be. The consumer calls the deleter once.
///
/// # Errors
/// Whatever the computation reports.
pub fn to_dlpack_legacy(array: &Array) -> Result<*mut ManagedTensor> {
    unsafe extern "C" fn delete(tensor: *mut ManagedTensor) {
        if tensor.is_null() {
            return;
        }
        // SAFETY: the tensor and its context are the boxes below, freed once.
        unsafe {
            drop(Box::from_raw((*tensor).manager_ctx.cast::<Held>()));
            drop(Box::from_raw(tensor));
        }
    }
    let mut held = Held::copied(array)?;
    let dl_tensor = held.tensor();
    Ok(Box::into_raw(Box::new(ManagedTensor {
        dl_tensor,
        manager_ctx: Box::into_raw(held).cast(),
        deleter: Some(delete),
    })))
}

/// What a tensor that we produced keeps alive.
struct Held {
    memory: Memory,
    shape: Vec<i64>,
    strides: Vec<i64>,
    dtype: DataType,
}

enum Memory {
    /// The array keeps its memory, which starts here.
    Shared(
        #[expect(dead_code, reason = "held, not read")] Array,
        *const u8,
    ),
    /// Eight-byte words, so that every element type is aligned.
    Copied(Vec<u64>),
}

impl Held {
    fn shared(array: &Array) -> Result<Box<Held>> {
        if array.dtype() == Dtype::Bool {
            return Self::copied(array);
        }
        let (data, strides) = {
            let memory = ffi::memory(array)?;
            (memory.as_ptr(), memory.strides().to_vec())
        };
        Ok(Box::new(Held {
            memory: Memory::Shared(array.clone(), data),
            shape: extents(array),
            strides,
            dtype: pack_dtype(array.dtype()),
        }))
    }

    fn copied(array: &Array) -> Result<Box<Held>> {
        let bytes = if array.dtype() == Dtype::Bool {
            array.to_vec::<bool>()?.into_iter().map(u8::from).collect()
        } else {
            array.to_bytes()?
        };
        let words = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })
            .collect();
        let shape = extents(array);
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1);
        }
        Ok(Box::new(Held {
            memory: Memory::Copied(words),
            shape,
            strides,
            dtype: pack_dtype(array.dtype()),
        }))
    }

    /// Points into `self`, which therefore must not move or go before the tensor does.
    fn tensor(&mut self) -> Tensor {
        let data = match &mut self.memory {
            Memory::Shared(_, data) => data.cast_mut(),
            Memory::Copied(words) => words.as_mut_ptr().cast(),
        };
        Tensor {
            data: data.cast(),
            device: CPU,
            ndim: i32::try_from(self.shape.len()).unwrap_or(0),
            dtype: self.dtype,
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut_ptr(),
            byte_offset: 0,
        }
    }
}

fn extents(array: &Array) -> Vec<i64> {
    array.shape().iter().copied().map(i64::from).collect()
}

/// Frees a tensor of [`to_dlpack`] that nobody consumed.
///
/// # Safety
/// `tensor` must be null or come from [`to_dlpack`], and must not be used again.
pub unsafe fn free(tensor: *mut ManagedTensorVersioned) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(deleter) = tensor.as_ref().and_then(|tensor| tensor.deleter) {
            deleter(tensor);
        }
    }
}

/// An array of what a DLPack tensor shares. The tensor is consumed in any case: its deleter is
/// called when its memory is no longer needed, and also if this fails.
///
/// Memory that the producer flags as a copy is handed to MLX as it is, if it lies in row-major
/// order; other memory is copied, because its owner may write it while arrays must not change.
///
/// # Safety
/// `tensor` must be null or point at a valid tensor of the format that its version says, whose
/// memory nobody writes during this call. It must not be used again. A deleter must be callable
/// from any thread.
///
/// # Errors
/// [`Error::Unsupported`] for memory that is not the CPU's, a major version other than 1, and
/// element types that MLX lacks; [`Error::Shape`] for shapes that it cannot hold.
pub unsafe fn from_dlpack(tensor: *mut ManagedTensorVersioned) -> Result<Array> {
    struct Owner(*mut ManagedTensorVersioned);
    impl Drop for Owner {
        fn drop(&mut self) {
            // SAFETY: this is the tensor's only owner; the consumer calls the deleter once.
            unsafe { free(self.0) };
        }
    }
    // SAFETY: the caller's promise; the version comes first in every version of the format.
    let Some(version) = (unsafe { tensor.cast::<PackVersion>().as_ref() }) else {
        return Err(unsupported("a null pointer"));
    };
    if version.major != VERSION.major {
        // Where the deleter stands is known for every version: the standard fixes the head.
        let owner = Owner(tensor);
        let message = format!("version {}.{}", version.major, version.minor);
        drop(owner);
        return Err(unsupported(&message));
    }
    let owner = Owner(tensor);
    // SAFETY: the caller's promise, for version 1.
    let managed = unsafe { &*tensor };
    // SAFETY: the caller's promise.
    let plan = unsafe { Import::new(&managed.dl_tensor) }?;
    let exclusive = managed.flags & IS_COPIED != 0 && managed.flags & READ_ONLY == 0;
    if exclusive && plan.dtype != Dtype::Bool && plan.is_row_major() && plan.is_aligned() {
        // SAFETY: the memory holds every element, is aligned, belongs to `owner` alone, and lives
        // as long as it.
        return unsafe {
            ffi::array_from_foreign(
                plan.data.cast_mut().cast(),
                &plan.dims,
                plan.dtype,
                Box::new(owner),
            )
        };
    }
    // SAFETY: the caller's promise.
    let array = unsafe { plan.copy() };
    drop(owner);
    array
}

/// An array of what a DLPack tensor of the format before version 1 shares: always a copy. The
/// tensor is consumed in any case.
///
/// # Safety
/// As [`from_dlpack`].
///
/// # Errors
/// As [`from_dlpack`].
pub unsafe fn from_dlpack_legacy(tensor: *mut ManagedTensor) -> Result<Array> {
    // SAFETY: the caller's promise.
    let Some(managed) = (unsafe { tensor.as_ref() }) else {
        return Err(unsupported("a null pointer"));
    };
    let deleter = managed.deleter;
    // SAFETY: the caller's promise.
    let array = unsafe { Import::new(&managed.dl_tensor).and_then(|plan| plan.copy()) };
    if let Some(deleter) = deleter {
        // SAFETY: the consumer calls the deleter once.
        unsafe { deleter(tensor) };
    }
    array
}

/// A foreign tensor whose description has been checked.
struct Import {
    data: *const u8,
    dims: Vec<i32>,
    strides: Vec<i64>,
    dtype: Dtype,
    size: usize,
}

impl Import {
    /// # Safety
    /// `tensor` must be valid.
    unsafe fn new(tensor: &Tensor) -> Result<Import> {
        if tensor.device.device_type != CPU.device_type {
            return Err(unsupported(&format!(
                "memory of a device of type {}",
                tensor.device.device_type
            )));
        }
        let dtype = Dtype::ALL
            .into_iter()
            .find(|&dtype| pack_dtype(dtype) == tensor.dtype)
            .ok_or_else(|| unsupported(&format!("elements of {:?}", tensor.dtype)))?;
        let ndim = usize::try_from(tensor.ndim)
            .ok()
            .filter(|_| tensor.ndim <= MAX_NDIM)
            .ok_or_else(|| unsupported(&format!("{} dimensions", tensor.ndim)))?;
        // SAFETY: the caller's promise: `ndim` numbers each, or null.
        let (shape, strides) =
            unsafe { (numbers(tensor.shape, ndim), numbers(tensor.strides, ndim)) };
        let shape = shape.ok_or_else(|| unsupported("a tensor without shape"))?;
        let dims = shape
            .iter()
            .map(|&dim| {
                i32::try_from(dim).map_err(|_| {
                    Error::shape("from_dlpack", format!("dimension {dim} is too large"))
                })
            })
            .collect::<Result<Vec<i32>>>()?;
        let size = crate::shape::checked_size("from_dlpack", &dims, dtype)?;
        let strides = strides.map_or_else(|| row_major(&dims), <[i64]>::to_vec);
        if size > 0 && tensor.data.is_null() {
            return Err(unsupported("a tensor without memory"));
        }
        let offset = usize::try_from(tensor.byte_offset)
            .map_err(|_| unsupported("an offset beyond all memory"))?;
        Ok(Import {
            data: tensor.data.cast::<u8>().cast_const().wrapping_add(offset),
            dims,
            strides,
            dtype,
            size,
        })
    }

    fn is_row_major(&self) -> bool {
        self.size > 0
            && row_major(&self.dims)
                .iter()
                .zip(&self.strides)
                .zip(&self.dims)
                .all(|((expected, stride), &dim)| dim == 1 || expected == stride)
    }

    fn is_aligned(&self) -> bool {
        (self.data as usize).is_multiple_of(self.dtype.size())
    }

    /// # Safety
    /// The memory must hold every element and not be written meanwhile.
    unsafe fn copy(&self) -> Result<Array> {
        if self.size == 0 {
            return Array::from_bytes(&[], &self.dims, self.dtype);
        }
        let width = self.dtype.size();
        if self.is_row_major() {
            // SAFETY: the caller's promise; `checked_size` has shown that the length fits.
            let bytes = unsafe { std::slice::from_raw_parts(self.data, self.size * width) };
            return Array::from_bytes(bytes, &self.dims, self.dtype);
        }
        let mut bytes = Vec::with_capacity(self.size * width);
        let mut index = vec![0i32; self.dims.len()];
        let mut offset = 0i64;
        for _ in 0..self.size {
            let place = self.data.wrapping_offset(
                isize::try_from(offset)
                    .unwrap_or(0)
                    .wrapping_mul(width.cast_signed()),
            );
            // SAFETY: `offset` is that of an element, which the caller promises to be there.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(place, width) });
            for ((index, &dim), stride) in index.iter_mut().zip(&self.dims).zip(&self.strides).rev()
            {
                *index += 1;
                offset += stride;
                if *index < dim {
                    break;
                }
                offset -= stride * i64::from(dim);
                *index = 0;
            }
        }
        Array::from_bytes(&bytes, &self.dims, self.dtype)
    }
}

/// # Safety
/// `data` must be null or point at `len` numbers that outlive the slice.
unsafe fn numbers<'a>(data: *const i64, len: usize) -> Option<&'a [i64]> {
    if len == 0 {
        return Some(&[]);
    }
    // SAFETY: the caller's promise.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, len) })
}

fn row_major(dims: &[i32]) -> Vec<i64> {
    let mut strides = vec![1i64; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(i64::from(dims[axis]));
    }
    strides
}

fn pack_dtype(dtype: Dtype) -> DataType {
    let code = match dtype {
        Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Int64 => 0,
        Dtype::Uint8 | Dtype::Uint16 | Dtype::Uint32 | Dtype::Uint64 => 1,
        Dtype::Float16 | Dtype::Float32 | Dtype::Float64 => 2,
        Dtype::Bfloat16 => 4,
        Dtype::Complex64 => 5,
        Dtype::Bool => 6,
    };
    DataType {
        code,
        bits: u8::try_from(dtype.size() * 8).unwrap_or(0),
        lanes: 1,
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(format!("dlpack: {what} cannot be exchanged"))
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn arrays_go_out_and_come_back() {
        for dtype in Dtype::ALL {
            let x = Array::arange_dtype(0.0, 6.0, 1.0, Dtype::Int32)
                .unwrap()
                .astype(dtype)
                .unwrap()
                .reshape(&[2, 3])
                .unwrap()
                .transpose()
                .unwrap();
            // SAFETY: tensors of our own, consumed once.
            let (y, z) = unsafe {
                (
                    from_dlpack(to_dlpack(&x).unwrap()).unwrap(),
                    from_dlpack_legacy(to_dlpack_legacy(&x).unwrap()).unwrap(),
                )
            };
            for other in [y, z] {
                assert_eq!((other.shape(), other.dtype()), (&[3, 2][..], dtype));
                assert_eq!(x.to_bytes().unwrap(), other.to_bytes().unwrap());
            }
        }
        let empty = Array::zeros::<f32>(&[0, 3]).unwrap();
        // SAFETY: as above.
        let back = unsafe { from_dlpack(to_dlpack(&empty).unwrap()) }.unwrap();
        assert_eq!(back.shape(), [0, 3]);
    }

    #[test]
    fn shared_memory_is_the_arrays_own_and_stays_as_it_is() {
        let x = Array::full::<f32>(&[1024], 3.0).unwrap();
        x.eval().unwrap();
        let address = x.as_slice::<f32>().unwrap().as_ptr();
        let tensor = to_dlpack(&x).unwrap();
        let y = x.exp().unwrap();
        drop(x);
        y.eval().unwrap();
        assert_ne!(y.as_slice::<f32>().unwrap().as_ptr(), address);
        // SAFETY: the tensor is ours and not consumed yet.
        unsafe {
            assert_eq!((*tensor).flags, READ_ONLY);
            assert_eq!((*tensor).dl_tensor.data.cast_const().cast(), address);
            assert_eq!(*(*tensor).dl_tensor.data.cast::<f32>(), 3.0);
            free(tensor);
        }
    }

    static DELETED: AtomicUsize = AtomicUsize::new(0);

    /// A tensor of `[2, 2]` over `data` and its shape and strides.
    fn foreign(
        data: &mut [f32],
        shape: &mut [i64],
        strides: &mut [i64],
        flags: u64,
    ) -> *mut ManagedTensorVersioned {
        unsafe extern "C" fn delete(tensor: *mut ManagedTensorVersioned) {
            DELETED.fetch_add(1, Ordering::SeqCst);
            // SAFETY: the box below.
            drop(unsafe { Box::from_raw(tensor) });
        }
        Box::into_raw(Box::new(ManagedTensorVersioned {
            version: VERSION,
            manager_ctx: null_mut(),
            deleter: Some(delete),
            flags,
            dl_tensor: Tensor {
                data: data.as_mut_ptr().cast(),
                device: CPU,
                ndim: i32::try_from(shape.len()).unwrap(),
                dtype: pack_dtype(Dtype::Float32),
                shape: shape.as_mut_ptr(),
                strides: strides.as_mut_ptr(),
                byte_offset: 64,
            },
        }))
    }

    #[test]
    fn foreign_tensors_are_freed_once_whatever_happens() {
        let data = &mut [9.0f32; 20];
        data[16..].copy_from_slice(&[0.0, 1.0, 2.0, 3.0]);
        let (mut shape, mut plain, mut turned) = ([2i64, 2], [2i64, 1], [1i64, 2]);
        let before = DELETED.load(Ordering::SeqCst);
        // SAFETY: the memory outlives every tensor, and nobody writes it.
        unsafe {
            let copied = from_dlpack(foreign(data, &mut shape, &mut turned, 0)).unwrap();
            assert_eq!(copied.to_vec::<f32>().unwrap(), [0.0, 2.0, 1.0, 3.0]);
            assert_eq!(DELETED.load(Ordering::SeqCst), before + 1);

            let tensor = foreign(data, &mut shape, &mut plain, IS_COPIED);
            let taken = from_dlpack(tensor).unwrap();
            assert_eq!(taken.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
            drop(taken);
            assert_eq!(DELETED.load(Ordering::SeqCst), before + 2);

            let mut huge = [i64::MAX, 1];
            assert!(from_dlpack(foreign(data, &mut huge, &mut plain, 0)).is_err());
            let tensor = foreign(data, &mut shape, &mut plain, 0);
            (*tensor).dl_tensor.device.device_type = 2;
            assert!(from_dlpack(tensor).is_err());
            let tensor = foreign(data, &mut shape, &mut plain, 0);
            (*tensor).dl_tensor.dtype.lanes = 4;
            assert!(from_dlpack(tensor).is_err());
            let tensor = foreign(data, &mut shape, &mut plain, 0);
            (*tensor).version.major = 9;
            assert!(from_dlpack(tensor).is_err());
            assert_eq!(DELETED.load(Ordering::SeqCst), before + 6);
            assert!(from_dlpack(null_mut()).is_err());
            assert!(from_dlpack_legacy(null_mut()).is_err());
        }
    }
}
