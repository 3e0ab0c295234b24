// Custom kernels for Metal and CUDA.
#include "convert.hpp"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/backend/metal/metal.h"
#include "mlx/fast.h"

namespace {

using namespace shim;

struct Kernel {
  mx::fast::CustomKernelFunction function;
  bool ensure_row_contiguous;
  int shared_memory;
  /// Compiled code instead of source, for CUDA.
  std::string name;
  std::string compiled;
};

std::string text(mlxs_text t) {
  return shim::text(t.data, t.len);
}

std::vector<std::string> texts(const mlxs_text* list, size_t n) {
  std::vector<std::string> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    out.push_back(text(list[i]));
  }
  return out;
}

std::tuple<int, int, int> triple(const int32_t* v) {
  return {v[0], v[1], v[2]};
}

} // namespace

extern "C" {

int mlxs_kernel_new(mlxs_kernel* out, const mlxs_kernel_source* source, mlxs_error* error) {
  return guard(error, [&] {
    auto inputs = texts(source->inputs, source->n_inputs);
    auto outputs = texts(source->outputs, source->n_outputs);
    Kernel kernel{};
    kernel.name = text(source->name);
    kernel.ensure_row_contiguous = source->ensure_row_contiguous;
    kernel.shared_memory = source->shared_memory;
    switch (source->kind) {
      case MLXS_KERNEL_METAL: {
        mx::CompileOptions options;
        options.math_mode = static_cast<mx::MathMode>(source->math_mode);
        kernel.function = mx::fast::metal_kernel(
            kernel.name,
            inputs,
            outputs,
            text(source->source),
            text(source->header),
            source->ensure_row_contiguous,
            source->atomic_outputs,
            options);
        break;
      }
      case MLXS_KERNEL_CUDA:
        kernel.function = mx::fast::cuda_kernel(
            kernel.name,
            inputs,
            outputs,
            text(source->source),
            text(source->header),
            source->ensure_row_contiguous,
            source->shared_memory);
        break;
      case MLXS_KERNEL_CUDA_COMPILED:
        kernel.compiled = text(source->source);
        break;
    }
    out->ctx = new Kernel(std::move(kernel));
  });
}

void mlxs_kernel_free(mlxs_kernel kernel) {
  delete static_cast<Kernel*>(kernel.ctx);
}

int mlxs_kernel_call(
    mlxs_array_list* out,
    mlxs_kernel handle,
    const mlxs_array* const* inputs,
    size_t n_inputs,
    const mlxs_kernel_launch* launch,
    mlxs_stream s,
    mlxs_error* error) {
  return guard(error, [&] {
    auto& kernel = *static_cast<Kernel*>(handle.ctx);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (size_t i = 0; i < launch->n_outputs; ++i) {
      shapes.push_back(shape(launch->shapes[i].data, launch->shapes[i].len));
      dtypes.push_back(dtype(launch->dtypes[i]));
    }
    std::optional<float> init;
    if (launch->init_value.some) {
      init = launch->init_value.value;
    }
    auto arrays = vec(inputs, n_inputs);
    if (!kernel.compiled.empty()) {
      std::vector<mx::fast::ScalarArg> scalars;
      for (size_t i = 0; i < launch->n_arguments; ++i) {
        const auto& argument = launch->arguments[i];
        switch (argument.kind) {
          case MLXS_ARGUMENT_BOOL:
            scalars.emplace_back(argument.integer != 0);
            break;
          case MLXS_ARGUMENT_INT:
            scalars.emplace_back(static_cast<int>(argument.integer));
            break;
          case MLXS_ARGUMENT_FLOAT:
            scalars.emplace_back(argument.number);
            break;
          case MLXS_ARGUMENT_DTYPE:
            throw std::invalid_argument("a compiled kernel takes no dtype");
        }
      }
      store(
          out,
          mx::fast::precompiled_cuda_kernel(
              kernel.name,
              kernel.compiled,
              arrays,
              shapes,
              dtypes,
              scalars,
              triple(launch->grid),
              triple(launch->threadgroup),
              kernel.shared_memory,
              init,
              kernel.ensure_row_contiguous,
              stream(s)));
      return;
    }
    std::vector<std::pair<std::string, mx::fast::TemplateArg>> arguments;
    for (size_t i = 0; i < launch->n_arguments; ++i) {
      const auto& argument = launch->arguments[i];
      auto name = text(argument.name);
      switch (argument.kind) {
        case MLXS_ARGUMENT_BOOL:
          arguments.emplace_back(name, argument.integer != 0);
          break;
        case MLXS_ARGUMENT_INT:
          arguments.emplace_back(name, static_cast<int>(argument.integer));
          break;
        case MLXS_ARGUMENT_DTYPE:
          arguments.emplace_back(name, dtype(argument.integer));
          break;
        case MLXS_ARGUMENT_FLOAT:
          throw std::invalid_argument("a template argument is no float");
      }
    }
    store(
        out,
        kernel.function(
            arrays,
            shapes,
            dtypes,
            triple(launch->grid),
            triple(launch->threadgroup),
            arguments,
            init,
            launch->verbose,
            stream(s)));
  });
}

int mlxs_metal_is_available(bool* out, mlxs_error* error) {
  return guard(error, [&] { *out = mx::metal::is_available(); });
}

int mlxs_cuda_is_available(bool* out, mlxs_error* error) {
  return guard(error, [&] { *out = mx::cu::is_available(); });
}

int mlxs_metal_start_capture(const char* path, size_t path_len, mlxs_error* error) {
  return guard(error, [&] { mx::metal::start_capture(shim::text(path, path_len)); });
}

int mlxs_metal_stop_capture(mlxs_error* error) {
  return guard(error, [&] { mx::metal::stop_capture(); });
}

int mlxs_metal_set_library_path(const char* path, size_t path_len, mlxs_error* error) {
  return guard(error, [&] { mx::metal::set_metallib_path(shim::text(path, path_len)); });
}

int mlxs_metal_library_path(
    void* context,
    void (*visit)(void*, const char*),
    mlxs_error* error) {
  return guard(error, [&] { visit(context, mx::metal::get_metallib_path().c_str()); });
}

} // extern "C"
