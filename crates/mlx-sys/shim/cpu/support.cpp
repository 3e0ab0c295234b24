#include "support.hpp"

#include <cstdlib>
#include <cstring>
#include <limits>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace shim::cpu {
namespace {

const Kernels* choose() {
#if defined(__APPLE__)
  return nullptr; // MLX uses Accelerate there.
#endif
  const char* setting = std::getenv("MLX_CPU_KERNELS");
  const auto is = [setting](const char* name) {
    return setting != nullptr && std::strcmp(setting, name) == 0;
  };
  if (is("off")) {
    return nullptr;
  }
  if (is("portable")) {
    return kernels_portable;
  }
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!is("avx2") && kernels_avx512 != nullptr && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return kernels_avx512;
  }
  // Every processor with AVX2 and FMA also converts half precision.
  if (kernels_avx2 != nullptr && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return kernels_avx2;
  }
#endif
  return kernels_portable;
}

template <typename T>
void copy_in_order(
    void* out, const void* in, const mx::Shape& shape, const mx::Strides& strides,
    std::size_t size) {
  auto* to = static_cast<T*>(out);
  const auto* from = static_cast<const T*>(in);
  const int last = static_cast<int>(shape.size()) - 1;
  const std::int64_t inner = shape[last];
  const std::int64_t step = strides[last];
  mx::Shape at(shape.size(), 0);
  std::int64_t offset = 0;
  for (std::size_t done = 0; done < size; done += inner) {
    for (std::int64_t i = 0; i < inner; ++i) {
      *to++ = from[offset + i * step];
    }
    for (int axis = last - 1; axis >= 0; --axis) {
      offset += strides[axis];
      if (++at[axis] < shape[axis]) {
        break;
      }
      offset -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
}

} // namespace

const Kernels* kernels() {
  static const Kernels* const chosen = choose();
  return chosen;
}

const IntegerKernels* integer_kernels() {
  static const IntegerKernels* const chosen = []() -> const IntegerKernels* {
#if defined(__x86_64__)
    const char* setting = std::getenv("MLX_CPU_KERNELS");
    const bool floats = setting != nullptr && std::strcmp(setting, "avx512") == 0;
    if (floats || kernels() == nullptr || kernels() == kernels_portable) {
      return nullptr;
    }
    if (kernels() == kernels_avx512 && integer_vnni != nullptr &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")) {
      return integer_vnni;
    }
    return integer_avx2;
#endif
    return nullptr;
  }();
  return chosen;
}

const TileKernels* tile_kernels() {
  static const TileKernels* const chosen = []() -> const TileKernels* {
#if defined(__x86_64__) && defined(__linux__)
    const char* setting = std::getenv("MLX_CPU_KERNELS");
    const bool vectors = setting != nullptr && std::strcmp(setting, "avx512") == 0;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (vectors || tiles_amx == nullptr || kernels() != kernels_avx512 ||
        !__builtin_cpu_supports("avx512bf16") || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) {
      return nullptr;
    }
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    if ((d & amx_bf16) == 0 || (d & amx_tile) == 0) {
      return nullptr;
    }
    // The system saves tiles only for processes that ask for them.
    constexpr long request_permission = 0x1023, tile_data = 18;
    if (syscall(SYS_arch_prctl, request_permission, tile_data) == 0) {
      return tiles_amx;
    }
#endif
    return nullptr;
  }();
  return chosen;
}

float* scratch(mx::cpu::CommandEncoder& encoder, std::size_t floats) {
  constexpr std::size_t line = 16;
  if (floats > static_cast<std::size_t>(std::numeric_limits<int>::max()) - line) {
    throw std::bad_alloc();
  }
  floats += line;
  mx::array memory(
      mx::allocator::malloc(floats * sizeof(float)), mx::Shape{static_cast<int>(floats)},
      mx::float32);
  encoder.add_temporary(memory);
  const auto start = reinterpret_cast<std::uintptr_t>(memory.data<float>());
  return memory.data<float>() + (64 - start % 64) % 64 / sizeof(float);
}

mx::array in_order(mx::cpu::CommandEncoder& encoder, const mx::array& a) {
  if (a.flags().row_contiguous || a.size() == 0) {
    return a;
  }
  mx::array copy(mx::allocator::malloc(a.nbytes()), a.shape(), a.dtype());
  encoder.add_temporary(copy);
  encoder.dispatch([out = copy.data<char>(),
                    in = a.data<char>(),
                    shape = a.shape(),
                    strides = a.strides(),
                    size = a.size(),
                    item = a.itemsize()] {
    switch (item) {
      case 1:
        copy_in_order<std::uint8_t>(out, in, shape, strides, size);
        break;
      case 2:
        copy_in_order<std::uint16_t>(out, in, shape, strides, size);
        break;
      case 4:
        copy_in_order<std::uint32_t>(out, in, shape, strides, size);
        break;
      default:
        break;
    }
  });
  return copy;
}

} // namespace shim::cpu
