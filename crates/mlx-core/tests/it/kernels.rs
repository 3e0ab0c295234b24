//! Custom kernels as far as a machine without a GPU can tell.

use mlx_core::kernel::{KernelBackend, KernelBuilder};
use mlx_core::{Error, metal};

fn builder(backend: KernelBackend) -> KernelBuilder {
    KernelBuilder::new(backend, "twice")
        .inputs(["x"])
        .outputs(["y"])
        .source("y[0] = x[0];")
}

#[test]
fn a_missing_back_end_is_a_typed_error() {
    for backend in [
        KernelBackend::Metal,
        KernelBackend::Cuda,
        KernelBackend::CudaCompiled,
    ] {
        if backend.is_built().unwrap() {
            continue;
        }
        // SAFETY: never launched.
        let error = unsafe { builder(backend).build() }.unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    }
    if !metal::is_available().unwrap() {
        assert!(matches!(
            metal::start_capture("/t.gputrace"),
            Err(Error::Unsupported(_))
        ));
        assert!(matches!(metal::stop_capture(), Err(Error::Unsupported(_))));
        assert!(metal::metallib_path().is_err() && metal::set_metallib_path("x").is_err());
    }
}

#[test]
fn parts_of_kernels_are_checked() {
    let wrong = [
        builder(KernelBackend::Metal).inputs(["x y"]),
        builder(KernelBackend::Metal).inputs(["y"]),
        builder(KernelBackend::Metal).outputs(Vec::<String>::new()),
        builder(KernelBackend::Metal).source(""),
        builder(KernelBackend::Cuda).shared_memory(-1),
    ];
    for parts in wrong {
        // SAFETY: never launched.
        let error = unsafe { parts.build() }.unwrap_err();
        assert!(!matches!(error, Error::Unsupported(_)), "{error:?}");
    }
}
