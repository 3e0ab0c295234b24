//! Custom kernels: the boundary of [`kernel`](crate::kernel).

use std::ptr::null_mut;

use super::{ArrayList, describe, error_slot, opt_f32, runtime, status_call};
use crate::kernel::{Argument, Kernel, KernelBackend, KernelBuilder, Launch};
use crate::{Array, Error, Result};

/// An owned kernel of the shim's.
#[derive(Debug)]
pub(crate) struct Handle(mlx_sys::kernel);

// SAFETY: the shim's kernel is immutable after its creation, and called under the lock.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        let _guard = runtime::enter();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::kernel_free(self.0) };
    }
}

fn text(value: &str) -> mlx_sys::text {
    mlx_sys::text {
        data: value.as_ptr().cast(),
        len: value.len(),
    }
}

fn texts(values: &[String]) -> Vec<mlx_sys::text> {
    values.iter().map(|value| text(value)).collect()
}

pub(crate) fn is_built(backend: KernelBackend) -> Result<bool> {
    let _guard = super::lock::lock();
    let mut built = false;
    status_call(|error| {
        // SAFETY: one flag, valid for writes.
        unsafe {
            match backend {
                KernelBackend::Metal => mlx_sys::metal_is_available(&raw mut built, error),
                KernelBackend::Cuda | KernelBackend::CudaCompiled => {
                    mlx_sys::cuda_is_available(&raw mut built, error)
                }
            }
        }
    })?;
    Ok(built)
}

impl KernelBuilder {
    /// Makes the kernel. Its source is compiled when it first runs.
    ///
    /// # Safety
    /// The source is native code that no one checks: with every launch that [`Kernel::call`] is
    /// given, it must read and write inside its buffers only, and write every element of its
    /// outputs unless the launch gives an initial value.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if MLX was built without the back end; [`Error::Shape`] if a name is
    /// no identifier or stands twice, or there is no output.
    pub unsafe fn build(self) -> Result<Kernel> {
        self.check()?;
        let kind = match self.backend {
            KernelBackend::Metal => mlx_sys::kernel_kind::MLXS_KERNEL_METAL,
            KernelBackend::Cuda => mlx_sys::kernel_kind::MLXS_KERNEL_CUDA,
            KernelBackend::CudaCompiled => mlx_sys::kernel_kind::MLXS_KERNEL_CUDA_COMPILED,
        };
        if !is_built(self.backend)? {
            return Err(Error::Unsupported(format!(
                "kernel {}: this build of MLX has no {} back end",
                self.name,
                self.backend.name()
            )));
        }
        let (inputs, outputs) = (texts(&self.inputs), texts(&self.outputs));
        let source = mlx_sys::kernel_source {
            kind,
            name: text(&self.name),
            inputs: inputs.as_ptr(),
            n_inputs: inputs.len(),
            outputs: outputs.as_ptr(),
            n_outputs: outputs.len(),
            source: text(&self.source),
            header: text(&self.header),
            ensure_row_contiguous: self.ensure_row_contiguous,
            atomic_outputs: self.atomic_outputs,
            math_mode: self.math_mode as i32,
            shared_memory: self.shared_memory,
        };
        let _guard = runtime::enter();
        let mut raw = mlx_sys::kernel { ctx: null_mut() };
        // SAFETY: everything that `source` points at outlives the call, which copies it.
        status_call(|error| unsafe {
            mlx_sys::kernel_new(&raw mut raw, &raw const source, error)
        })?;
        Ok(Kernel {
            handle: Handle(raw),
            parts: self,
        })
    }
}

pub(crate) fn call(
    kernel: &Kernel,
    inputs: &[&Array],
    shapes: &[Vec<i32>],
    launch: &Launch,
) -> Result<Vec<Array>> {
    let dims: Vec<mlx_sys::dims> = shapes
        .iter()
        .map(|shape| mlx_sys::dims {
            data: shape.as_ptr(),
            len: shape.len(),
        })
        .collect();
    let dtypes: Vec<i32> = launch
        .outputs
        .iter()
        .map(|(_, dtype)| dtype.code())
        .collect();
    let arguments: Vec<mlx_sys::argument> = launch
        .arguments
        .iter()
        .map(|(name, argument)| {
            use mlx_sys::argument_kind as kind;
            let (kind, integer, number) = match *argument {
                Argument::Bool(value) => (kind::MLXS_ARGUMENT_BOOL, i32::from(value), 0.0),
                Argument::Int(value) => (kind::MLXS_ARGUMENT_INT, value, 0.0),
                Argument::Dtype(dtype) => (kind::MLXS_ARGUMENT_DTYPE, dtype.code(), 0.0),
                Argument::Float(value) => (kind::MLXS_ARGUMENT_FLOAT, 0, value),
            };
            mlx_sys::argument {
                name: text(name),
                kind,
                integer,
                number,
            }
        })
        .collect();
    let init_value = opt_f32(launch.init_value);
    let raw = mlx_sys::kernel_launch {
        shapes: dims.as_ptr(),
        dtypes: dtypes.as_ptr(),
        n_outputs: dims.len(),
        grid: launch.grid,
        threadgroup: launch.threadgroup,
        arguments: arguments.as_ptr(),
        n_arguments: arguments.len(),
        init_value: mlx_sys::opt_float {
            some: init_value.some,
            value: init_value.value,
        },
        verbose: launch.verbose,
    };
    let stream = runtime::current_stream().raw();
    let mut out = ArrayList::new();
    let mut error = error_slot();
    let _guard = runtime::enter();
    // SAFETY: live handles with their true count; everything `raw` points at outlives the call.
    let status = unsafe {
        mlx_sys::kernel_call(
            out.as_mut_ptr(),
            kernel.handle.0,
            inputs.as_ptr().cast(),
            inputs.len(),
            &raw const raw,
            stream,
            &raw mut error,
        )
    };
    if status == 0 {
        Ok(out.into_vec())
    } else {
        Err(describe(error, "kernel", inputs))
    }
}

pub(crate) fn start_capture(path: &str) -> Result<()> {
    let _guard = runtime::enter();
    // SAFETY: a text with its true length.
    status_call(|error| unsafe {
        mlx_sys::metal_start_capture(path.as_ptr().cast(), path.len(), error)
    })
}

pub(crate) fn set_library_path(path: &str) -> Result<()> {
    let _guard = super::lock::lock();
    // SAFETY: a text with its true length.
    status_call(|error| unsafe {
        mlx_sys::metal_set_library_path(path.as_ptr().cast(), path.len(), error)
    })
}

pub(crate) fn library_path() -> Result<String> {
    let _guard = super::lock::lock();
    let mut path = String::new();
    status_call(|error| {
        // SAFETY: `visit_text` is called during this call only, with `path` as its context.
        unsafe {
            mlx_sys::metal_library_path((&raw mut path).cast(), Some(super::visit_text), error)
        }
    })?;
    Ok(path)
}
