// What the primitives share.
#pragma once

#include <algorithm>

#include "cpu.hpp"
#include "kernels.hpp"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "pool.hpp"

namespace shim::cpu {

/// The kernels for this processor; null when they are turned off.
const Kernels* kernels();

/// Whether this thread is recording a graph for a file, which can hold MLX's own primitives only.
bool& stock_only();

/// Those in integers; null where the processor or the setting has none.
const IntegerKernels* integer_kernels();

/// Those in tiles; null where the processor, the system or the setting has none.
const TileKernels* tile_kernels();

/// Whether an operation on this stream may use them.
inline const Kernels* kernels_for(const mx::Stream& s) {
  return s.device == mx::Device::cpu && !stock_only() ? kernels() : nullptr;
}

inline std::optional<Float> float_type(mx::Dtype d) {
  switch (d.val()) {
    case mx::Dtype::Val::float32:
      return Float::f32;
    case mx::Dtype::Val::float16:
      return Float::f16;
    case mx::Dtype::Val::bfloat16:
      return Float::bf16;
    default:
      return std::nullopt;
  }
}

inline std::size_t float_size(Float type) {
  return type == Float::f32 ? 4 : 2;
}

/// Memory for a kernel that is about to be dispatched, kept until it has run. It starts at a line
/// of the cache.
float* scratch(mx::cpu::CommandEncoder& encoder, std::size_t floats);

/// `a` itself if its elements are in order, else a copy that the encoder makes first.
mx::array in_order(mx::cpu::CommandEncoder& encoder, const mx::array& a);

/// Work below which waking the other threads takes longer than doing it alone, in multiplications.
constexpr std::size_t parallel_from = 1 << 17;

/// The same in elements of a row-wise operation.
constexpr std::size_t parallel_elements = 1 << 15;

/// Rows of a matrix in one task at most, where few vectors are multiplied with it.
constexpr std::size_t most_rows = 256;

/// How many of `rows` rows of so many bytes one task takes there. Memory is read fastest in long
/// pieces, but there must be enough of them for threads that are held up.
inline std::size_t task_rows(std::size_t rows, std::size_t bytes) {
  constexpr std::size_t piece = 192 << 10;
  const std::size_t fitting = piece / std::max<std::size_t>(bytes, 1);
  return std::clamp<std::size_t>(std::min(fitting, rows / (4 * threads())), 16, most_rows);
}

} // namespace shim::cpu
