//! The BLAS that MLX uses on Linux.
//!
//! MLX's packaged library for Linux brings the reference BLAS: correct, scalar and slow. The
//! dynamic linker looks a library's symbols up in the program first, so that the `cblas_*gemm`
//! defined here, which the linker exports from every program that contains this crate, take the
//! place of the packaged ones. In f32 with AVX2 or AVX-512 they are our own kernel's
//! (`shim/cpu/gemm.cpp`), otherwise the crate `gemm`'s.
//!
//! `MLX_CPU_KERNELS=off` in the environment passes every call on to the library's own BLAS.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use gemm::{Parallelism, c32};

const ROW_MAJOR: c_int = 101;
const COL_MAJOR: c_int = 102;
const NO_TRANS: c_int = 111;
const TRANS: c_int = 112;
const CONJ_TRANS: c_int = 113;

/// Below this many multiplications a second thread costs more than it saves.
const PARALLEL_FROM: usize = 128 * 128 * 64;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many products this module has computed in this process.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Whether our kernels are in use: true unless `MLX_CPU_KERNELS=off` when first asked.
pub fn enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| std::env::var_os("MLX_CPU_KERNELS").is_none_or(|value| value != "off"))
}

/// How many threads a big product may use: `MLX_CPU_THREADS`, else one for each core.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let asked = std::env::var("MLX_CPU_THREADS")
            .ok()
            .and_then(|text| text.parse().ok());
        asked.filter(|&n| n > 0).unwrap_or(cores)
    })
}

/// A matrix as `cblas` describes it: where one element finds the next in its row and column.
#[derive(Clone, Copy)]
struct Strides {
    row: isize,
    col: isize,
    conj: bool,
}

impl Strides {
    /// `None` for codes that are not `cblas`'s.
    fn new(layout: c_int, trans: c_int, leading: c_int) -> Option<Strides> {
        let leading = isize::try_from(leading).ok()?;
        let row_major = match layout {
            ROW_MAJOR => true,
            COL_MAJOR => false,
            _ => return None,
        };
        let (transposed, conj) = match trans {
            NO_TRANS => (false, false),
            TRANS => (true, false),
            CONJ_TRANS => (true, true),
            _ => return None,
        };
        let (row, col) = if row_major != transposed {
            (leading, 1)
        } else {
            (1, leading)
        };
        Some(Strides { row, col, conj })
    }
}

/// The scalars of the products, with the two facts of BLAS about them.
trait Scalar: Copy + PartialEq + std::ops::MulAssign + Send + Sync + 'static {
    const ZERO: Self;
    const ONE: Self;

    /// Computes the product with a kernel of our own; false if there is none.
    ///
    /// # Safety
    /// As [`Call::run`].
    unsafe fn own(_call: &Call<Self>, _dims: [usize; 3], _strides: [Strides; 3]) -> bool {
        false
    }
}

impl Scalar for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;

    unsafe fn own(call: &Call<f32>, [m, n, k]: [usize; 3], [a, b, c]: [Strides; 3]) -> bool {
        let distance = |stride: isize| stride as i64; // as wide on every target with MLX
        // SAFETY: the caller's promise; the strides are those of the matrices described.
        unsafe {
            mlx_sys::sgemm(
                m,
                n,
                k,
                call.alpha,
                call.a,
                distance(a.row),
                distance(a.col),
                call.b,
                distance(b.row),
                distance(b.col),
                call.beta,
                call.c,
                distance(c.row),
                distance(c.col),
            )
        }
    }
}

impl Scalar for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
}

impl Scalar for c32 {
    const ZERO: c32 = c32::new(0.0, 0.0);
    const ONE: c32 = c32::new(1.0, 0.0);
}

/// One call of a `cblas` product.
struct Call<T> {
    layout: c_int,
    trans: (c_int, c_int),
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: T,
    a: *const T,
    lda: c_int,
    b: *const T,
    ldb: c_int,
    beta: T,
    c: *mut T,
    ldc: c_int,
}

impl<T: Scalar> Call<T> {
    /// `c = alpha · a · b + beta · c`. Does nothing for arguments that `cblas` rejects.
    ///
    /// # Safety
    /// The pointers must be valid for the matrices described, as for any `cblas` function.
    unsafe fn run(self) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let (Ok(m), Ok(n), Ok(k)) = (
            usize::try_from(self.m),
            usize::try_from(self.n),
            usize::try_from(self.k),
        ) else {
            return;
        };
        let (Some(a), Some(b), Some(c)) = (
            Strides::new(self.layout, self.trans.0, self.lda),
            Strides::new(self.layout, self.trans.1, self.ldb),
            Strides::new(self.layout, NO_TRANS, self.ldc),
        ) else {
            return;
        };
        if m == 0 || n == 0 {
            return;
        }
        // BLAS reads neither factor here, so that their infinities do not become NaN.
        if k == 0 || self.alpha == T::ZERO {
            // SAFETY: the caller's promise about `c`.
            unsafe { self.scale(m, n, c) };
            return;
        }
        // SAFETY: the caller's promise.
        if unsafe { T::own(&self, [m, n, k], [a, b, c]) } {
            return;
        }
        let work = m.saturating_mul(n).saturating_mul(k);
        let parallelism = match threads() {
            threads if threads > 1 && work >= PARALLEL_FROM => Parallelism::Rayon(threads),
            _ => Parallelism::None,
        };
        // SAFETY: the caller's promise; the strides are those of the matrices described.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.c,
                c.col,
                c.row,
                self.beta != T::ZERO,
                self.a,
                a.col,
                a.row,
                self.b,
                b.col,
                b.row,
                self.beta,
                self.alpha,
                false,
                a.conj,
                b.conj,
                parallelism,
            );
        }
    }

    /// `c = beta · c`.
    ///
    /// # Safety
    /// As [`Call::run`].
    unsafe fn scale(&self, m: usize, n: usize, c: Strides) {
        if self.beta == T::ONE {
            return;
        }
        for i in 0..m.cast_signed() {
            for j in 0..n.cast_signed() {
                // SAFETY: inside the matrix.
                let element = unsafe { self.c.offset(i * c.row + j * c.col) };
                // SAFETY: as above; a beta of zero overwrites without reading.
                unsafe {
                    if self.beta == T::ZERO {
                        element.write(T::ZERO);
                    } else {
                        *element *= self.beta;
                    }
                }
            }
        }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The next definition of a function in the order of loading: that of MLX's own BLAS.
fn stock(name: &CStr, found: &OnceLock<usize>) -> Option<*mut c_void> {
    // `RTLD_NEXT`, which every libc on Linux defines as −1.
    let next = std::ptr::without_provenance_mut(usize::MAX);
    // SAFETY: a valid handle and a NUL-terminated name.
    let address = *found.get_or_init(|| unsafe { dlsym(next, name.as_ptr()) }.expose_provenance());
    (address != 0).then(|| std::ptr::with_exposed_provenance_mut(address))
}

macro_rules! export {
    ($name:ident, $text:literal, $scalar:ty, $by:ty, $value:expr) => {
        /// `cblas`'s function of this name.
        ///
        /// # Safety
        /// As for `cblas`: the pointers must be valid for the matrices described.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            layout: c_int,
            trans_a: c_int,
            trans_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: $by,
            a: *const $scalar,
            lda: c_int,
            b: *const $scalar,
            ldb: c_int,
            beta: $by,
            c: *mut $scalar,
            ldc: c_int,
        ) {
            type Function = unsafe extern "C" fn(
                c_int,
                c_int,
                c_int,
                c_int,
                c_int,
                c_int,
                $by,
                *const $scalar,
                c_int,
                *const $scalar,
                c_int,
                $by,
                *mut $scalar,
                c_int,
            );
            static STOCK: OnceLock<usize> = OnceLock::new();
            if !enabled()
                && let Some(address) = stock($text, &STOCK)
            {
                // SAFETY: the function of this name has this type in every BLAS.
                let function = unsafe { std::mem::transmute::<*mut c_void, Function>(address) };
                // SAFETY: the arguments are the caller's.
                unsafe {
                    function(
                        layout, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc,
                    );
                }
                return;
            }
            let value: unsafe fn($by) -> $scalar = $value;
            // SAFETY: the caller's promise.
            let (alpha, beta) = unsafe { (value(alpha), value(beta)) };
            let trans = (trans_a, trans_b);
            // SAFETY: the caller's promise.
            unsafe {
                Call {
                    layout,
                    trans,
                    m,
                    n,
                    k,
                    alpha,
                    a,
                    lda,
                    b,
                    ldb,
                    beta,
                    c,
                    ldc,
                }
                .run()
            }
        }
    };
}

export!(cblas_sgemm, c"cblas_sgemm", f32, f32, |value| value);
export!(cblas_dgemm, c"cblas_dgemm", f64, f64, |value| value);
export!(cblas_cgemm, c"cblas_cgemm", c32, *const c32, complex_value);

/// # Safety
/// `value` must point at a complex number, as CBLAS passes complex scalars.
unsafe fn complex_value(value: *const c32) -> c32 {
    // SAFETY: the caller's promise.
    unsafe { value.read() }
}

/// Keeps this module in programs that are linked from archives: the linker leaves out whatever
/// nothing in the program refers to, and MLX's own references do not count.
pub(super) fn keep() {
    std::hint::black_box((
        cblas_sgemm as *const (),
        cblas_dgemm as *const (),
        cblas_cgemm as *const (),
    ));
}
