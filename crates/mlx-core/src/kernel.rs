//! Kernels of your own, in Metal or CUDA source.
//!
//! One [`Kernel`] serves both back ends: [`KernelBuilder`] takes names and source, [`Launch`] what
//! changes from call to call. Reading `source` as MLX does: it is the body of the kernel; inputs
//! and outputs are pointers of the names given, and an input `x` whose `x_shape`, `x_strides` or
//! `x_ndim` the source mentions gets those as well.
//!
//! ```
//! use mlx_core::kernel::{KernelBackend, KernelBuilder, Launch};
//! use mlx_core::{Array, Device, Dtype, Error};
//!
//! let builder = KernelBuilder::new(KernelBackend::Metal, "twice")
//!     .inputs(["x"])
//!     .outputs(["y"])
//!     .source("uint i = thread_position_in_grid.x; y[i] = x[i] * T(2);");
//! // SAFETY: the launch below has as many threads as elements.
//! match unsafe { builder.build() } {
//!     Ok(twice) => {
//!         let x = Array::ones::<f32>(&[8])?;
//!         let launch = Launch::new([8, 1, 1], [8, 1, 1])
//!             .output(&[8], Dtype::Float32)
//!             .argument("T", Dtype::Float32);
//!         let y = Device::gpu().scope(|| twice.call(&[&x], &launch))?;
//!         assert_eq!(y[0].to_vec::<f32>()?, [2.0; 8]);
//!     }
//!     // On a build of MLX without Metal.
//!     Err(Error::Unsupported(why)) => assert!(why.contains("metal")),
//!     Err(other) => return Err(other),
//! }
//! # Ok::<(), Error>(())
//! ```

use crate::shape::checked_size;
use crate::{Array, Dtype, Error, IntoShape, Result, ffi};

/// What a kernel is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelBackend {
    /// The Metal shading language.
    Metal,
    /// CUDA C++.
    Cuda,
    /// CUDA code that is compiled already (PTX or a cubin); the kernel's arguments are the inputs,
    /// the outputs and the launch's scalars, in this order.
    CudaCompiled,
}

impl KernelBackend {
    /// Whether MLX was built with the back end. A device may be missing all the same; see
    /// [`Device::is_available`](crate::Device::is_available).
    ///
    /// # Errors
    /// None in practice.
    pub fn is_built(self) -> Result<bool> {
        ffi::kernel::is_built(self)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            KernelBackend::Metal => "metal",
            KernelBackend::Cuda | KernelBackend::CudaCompiled => "cuda",
        }
    }
}

/// How freely Metal may compute (macOS 15 for [`Relaxed`](MathMode::Relaxed)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MathMode {
    /// As IEEE 754 says.
    #[default]
    Safe,
    /// Reordered, but NaN and infinities are respected.
    Relaxed,
    /// Anything goes.
    Fast,
}

/// The parts of a [`Kernel`].
#[must_use]
#[derive(Clone, Debug)]
pub struct KernelBuilder {
    pub(crate) backend: KernelBackend,
    pub(crate) name: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) source: String,
    pub(crate) header: String,
    pub(crate) ensure_row_contiguous: bool,
    pub(crate) atomic_outputs: bool,
    pub(crate) math_mode: MathMode,
    pub(crate) shared_memory: i32,
}

fn strings<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Vec<String> {
    names.into_iter().map(Into::into).collect()
}

impl KernelBuilder {
    /// A kernel of this name, which must be an identifier. MLX caches compiled code by name and
    /// source.
    pub fn new(backend: KernelBackend, name: impl Into<String>) -> Self {
        KernelBuilder {
            backend,
            name: name.into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            source: String::new(),
            header: String::new(),
            ensure_row_contiguous: true,
            atomic_outputs: false,
            math_mode: MathMode::Safe,
            shared_memory: 0,
        }
    }

    /// The names of the inputs, in the order of [`Kernel::call`].
    pub fn inputs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.inputs = strings(names);
        self
    }

    /// The names of the outputs.
    pub fn outputs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.outputs = strings(names);
        self
    }

    /// The body of the kernel, or with [`KernelBackend::CudaCompiled`] the compiled code.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Source before the kernel: includes and helper functions.
    pub fn header(mut self, header: impl Into<String>) -> Self {
        self.header = header.into();
        self
    }

    /// Whether inputs are copied into row-major order where they are not (default true).
    pub fn ensure_row_contiguous(mut self, ensure: bool) -> Self {
        self.ensure_row_contiguous = ensure;
        self
    }

    /// Whether outputs are pointers to atomics (Metal).
    pub fn atomic_outputs(mut self, atomic: bool) -> Self {
        self.atomic_outputs = atomic;
        self
    }

    /// How freely the kernel may compute (Metal).
    pub fn math_mode(mut self, mode: MathMode) -> Self {
        self.math_mode = mode;
        self
    }

    /// Bytes of dynamic shared memory for each block (CUDA).
    pub fn shared_memory(mut self, bytes: i32) -> Self {
        self.shared_memory = bytes;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = vec![&self.name];
        names.extend(self.inputs.iter().map(String::as_str));
        names.extend(self.outputs.iter().map(String::as_str));
        for (i, name) in names.iter().enumerate() {
            let mut letters = name.chars();
            let identifier = letters
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !identifier || names[..i].contains(name) {
                return Err(Error::shape(
                    "kernel",
                    format!("`{name}` is no identifier, or stands twice"),
                ));
            }
        }
        let compiled = self.backend == KernelBackend::CudaCompiled;
        if self.outputs.is_empty() && !compiled {
            return Err(Error::empty_input("kernel: `outputs`"));
        }
        if self.source.is_empty() {
            return Err(Error::empty_input("kernel: `source`"));
        }
        if self.shared_memory < 0 {
            return Err(Error::shape("kernel", "shared memory is negative"));
        }
        Ok(())
    }
}

/// A template argument, or for [`KernelBackend::CudaCompiled`] a scalar parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Argument {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Int(i32),
    /// A type: the source sees Metal's or CUDA's name of it. Not for compiled code.
    Dtype(Dtype),
    /// A number, for compiled code only.
    Float(f32),
}

macro_rules! arguments {
    ($($type:ty => $variant:ident;)*) => {$(
        impl From<$type> for Argument {
            fn from(value: $type) -> Self {
                Argument::$variant(value)
            }
        }
    )*};
}
arguments! { bool => Bool; i32 => Int; Dtype => Dtype; f32 => Float; }

/// One call of a [`Kernel`]: how many threads, and what it gives.
#[must_use]
#[derive(Clone, Debug)]
pub struct Launch {
    pub(crate) grid: [i32; 3],
    pub(crate) threadgroup: [i32; 3],
    pub(crate) outputs: Vec<(Result<Vec<i32>, String>, Dtype)>,
    pub(crate) arguments: Vec<(String, Argument)>,
    pub(crate) init_value: Option<f32>,
    pub(crate) verbose: bool,
}

impl Launch {
    /// `grid` counts threads in all, `threadgroup` those of one group (a block, in CUDA).
    pub fn new(grid: [i32; 3], threadgroup: [i32; 3]) -> Self {
        Launch {
            grid,
            threadgroup,
            outputs: Vec::new(),
            arguments: Vec::new(),
            init_value: None,
            verbose: false,
        }
    }

    /// The next output's shape and dtype.
    pub fn output(mut self, shape: &(impl IntoShape + ?Sized), dtype: Dtype) -> Self {
        let dims = shape
            .dims()
            .map(std::borrow::Cow::into_owned)
            .map_err(|error| error.to_string());
        self.outputs.push((dims, dtype));
        self
    }

    /// The next template argument.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> Self {
        self.arguments.push((name.into(), value.into()));
        self
    }

    /// What outputs hold before the kernel runs. Without it they hold nothing in particular.
    pub fn init_value(mut self, value: f32) -> Self {
        self.init_value = Some(value);
        self
    }

    /// Whether MLX prints the source that it compiles.
    pub fn verbose(mut self, verbose: bool) -> Self {
        self.verbose = verbose;
        self
    }
}

/// A kernel of your own; see the [module](self).
#[derive(Debug)]
pub struct Kernel {
    pub(crate) handle: ffi::kernel::Handle,
    pub(crate) parts: KernelBuilder,
}

impl Kernel {
    /// Records a call on the current stream, which must be of a GPU. Lazy like every operation;
    /// there is no gradient (`mlx_transforms::custom_vjp` gives one).
    ///
    /// # Errors
    /// [`Error::Shape`] if the counts of inputs or outputs are not those of the kernel, the grid is
    /// empty or a shape impossible; [`Error::Op`] on a CPU stream. Errors of the compiler come
    /// with the evaluation.
    pub fn call(&self, inputs: &[&Array], launch: &Launch) -> Result<Vec<Array>> {
        let op = "kernel";
        let compiled = self.parts.backend == KernelBackend::CudaCompiled;
        let fits = |given: usize, names: usize| given == names || compiled;
        if !fits(inputs.len(), self.parts.inputs.len())
            || !fits(launch.outputs.len(), self.parts.outputs.len())
            || launch.outputs.is_empty()
        {
            return Err(Error::shape(
                op,
                format!(
                    "{} takes {} inputs and gives {} outputs, not {} and {}",
                    self.parts.name,
                    self.parts.inputs.len(),
                    self.parts.outputs.len(),
                    inputs.len(),
                    launch.outputs.len()
                ),
            ));
        }
        if launch
            .grid
            .iter()
            .chain(&launch.threadgroup)
            .any(|&n| n <= 0)
        {
            return Err(Error::shape(
                op,
                format!(
                    "grid {:?} of {:?} is empty",
                    launch.grid, launch.threadgroup
                ),
            ));
        }
        let mut shapes = Vec::with_capacity(launch.outputs.len());
        for (shape, dtype) in &launch.outputs {
            let dims = shape.clone().map_err(|message| Error::shape(op, message))?;
            checked_size(op, &dims, *dtype)?;
            shapes.push(dims);
        }
        ffi::kernel::call(self, inputs, &shapes, launch)
    }
}
