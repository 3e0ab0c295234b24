// The blocked matrix product that all dense and quantised products share.
#pragma once

#include <algorithm>
#include <cstring>

#include "support.hpp"

namespace shim::cpu {

/// Steps along the inner dimension that a packed block holds; a multiple of every group.
constexpr std::size_t inner_block = 256;

struct ProductPlan {
  const Kernels* k;
  std::size_t m, n, inner;
  std::size_t row_blocks; // of mr rows
  std::size_t columns; // of one task, a multiple of nr
  std::size_t column_tasks;
  std::size_t packed_a; // floats
  std::size_t per_thread; // floats

  ProductPlan(const Kernels* kernels, std::size_t rows, std::size_t cols, std::size_t depth)
      : k(kernels), m(rows), n(cols), inner(depth) {
    row_blocks = (m + k->mr - 1) / k->mr;
    const std::size_t share = (n + 2 * threads() - 1) / (2 * threads());
    const std::size_t wanted = std::min<std::size_t>(share, m > 1024 ? 128 : 256);
    columns = std::max<std::size_t>(1, (wanted + k->nr - 1) / k->nr) * k->nr;
    column_tasks = (n + columns - 1) / columns;
    packed_a = row_blocks * k->mr * inner;
    per_thread = inner_block * columns + row_blocks * k->mr * columns + inner_block;
  }
};

/// Packs `count` vectors of `depth` elements, element (p, j) at `p · p_stride + j · j_stride`, as
/// [depth][width] floats with zeros after the last vector.
inline void pack(
    const Kernels* k, float* out, const void* in, Float type, std::int64_t p_stride,
    std::int64_t j_stride, std::size_t depth, std::size_t count, std::size_t width, float* line) {
  const auto* bytes = static_cast<const char*>(in);
  const auto size = static_cast<std::int64_t>(float_size(type));
  if (count < width) {
    std::memset(out, 0, depth * width * sizeof(float));
  }
  if (j_stride == 1) {
    for (std::size_t p = 0; p < depth; ++p) {
      k->to_f32(out + p * width, bytes + std::int64_t(p) * p_stride * size, type, count);
    }
    return;
  }
  for (std::size_t j = 0; j < count; ++j) {
    const char* from = bytes + std::int64_t(j) * j_stride * size;
    if (p_stride == 1) {
      k->to_f32(line, from, type, depth);
    } else {
      for (std::size_t p = 0; p < depth; ++p) {
        k->to_f32(line + p, from + std::int64_t(p) * p_stride * size, type, 1);
      }
    }
    for (std::size_t p = 0; p < depth; ++p) {
      out[p * width + j] = line[p];
    }
  }
}

/// Computes one task's columns into `memory`, and returns where row 0 of them lies; rows are
/// `plan.columns` apart. `pack_b(out, column, count, from, depth, line)` packs a block of b.
template <typename PackB>
const float* product_columns(
    const ProductPlan& plan, const float* a, std::size_t first, float* memory, PackB&& pack_b) {
  const Kernels* k = plan.k;
  float* packed = memory;
  float* c = packed + inner_block * plan.columns;
  float* line = c + plan.row_blocks * k->mr * plan.columns;
  const std::size_t count = std::min(plan.columns, plan.n - first);
  const std::size_t panels = (count + k->nr - 1) / k->nr;
  // Rows whose block of `a` stays in the second-level cache.
  const std::size_t group = 96 / k->mr;
  for (std::size_t from = 0; from < plan.inner; from += inner_block) {
    const std::size_t depth = std::min(inner_block, plan.inner - from);
    for (std::size_t j = 0; j < panels; ++j) {
      const std::size_t column = j * k->nr;
      pack_b(
          packed + column * depth, first + column, std::min(k->nr, count - column), from, depth,
          line);
    }
    const float* a_block = a + from * plan.row_blocks * k->mr;
    for (std::size_t row = 0; row < plan.row_blocks; row += group) {
      const std::size_t end = std::min(plan.row_blocks, row + group);
      for (std::size_t j = 0; j < panels; ++j) {
        for (std::size_t i = row; i < end; ++i) {
          k->block(
              a_block + i * k->mr * depth, packed + j * k->nr * depth,
              c + i * k->mr * plan.columns + j * k->nr, plan.columns, depth, from > 0);
        }
      }
    }
  }
  return c;
}

/// Packs rows of `a`, of any strides, for `product_columns`: task `i` of `row_blocks`.
inline void pack_rows(
    const ProductPlan& plan, float* out, const void* a, Float type, std::int64_t row_stride,
    std::int64_t col_stride, std::size_t i) {
  float line[inner_block];
  const std::size_t mr = plan.k->mr;
  const auto size = static_cast<std::int64_t>(float_size(type));
  const auto* bytes = static_cast<const char*>(a) + std::int64_t(i * mr) * row_stride * size;
  for (std::size_t from = 0; from < plan.inner; from += inner_block) {
    const std::size_t depth = std::min(inner_block, plan.inner - from);
    pack(
        plan.k, out + from * plan.row_blocks * mr + i * mr * depth,
        bytes + std::int64_t(from) * col_stride * size, type, col_stride, row_stride, depth,
        std::min(mr, plan.m - i * mr), mr, line);
  }
}

} // namespace shim::cpu
