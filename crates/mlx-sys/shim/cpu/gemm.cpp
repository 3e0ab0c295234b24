// The f32 matrix product behind `cblas_sgemm`: see mlx-core's `ffi/blas.rs`.

#include <cstdlib>
#include <new>

#include "../shim.h"
#include "product.hpp"

namespace shim::cpu {
namespace {

/// Vectors on one side up to which the other side's lines are read once for all of them.
constexpr std::size_t few = 8;

/// Memory of this thread that products take turns in.
class Memory {
 public:
  ~Memory() {
    std::free(data_);
  }

  /// Null where the system has no memory left.
  float* get(std::size_t floats) {
    if (floats > size_) {
      std::free(data_);
      const std::size_t rounded = (floats + 15) / 16 * 16;
      data_ = static_cast<float*>(std::aligned_alloc(64, rounded * sizeof(float)));
      size_ = data_ == nullptr ? 0 : rounded;
    }
    return data_;
  }

  /// Gives a large piece back.
  void rest() {
    if (size_ > kept) {
      std::free(data_);
      data_ = nullptr;
      size_ = 0;
    }
  }

 private:
  static constexpr std::size_t kept = 4 << 20;

  float* data_ = nullptr;
  std::size_t size_ = 0;
};

struct Matrix {
  const float* data;
  std::int64_t row, col;

  const float* at(std::size_t i, std::size_t j) const {
    return data + std::int64_t(i) * row + std::int64_t(j) * col;
  }
  Matrix transposed() const {
    return {data, col, row};
  }
};

struct Gemm {
  const Kernels* k;
  std::size_t m, n, inner;
  float alpha;
  Matrix a, b;
  float beta;
  float* c;
  std::int64_t c_row, c_col;

  bool parallel() const {
    return m * n * inner >= parallel_from;
  }

  Gemm transposed() const {
    return {k, n, m, inner, alpha, b.transposed(), a.transposed(), beta, c, c_col, c_row};
  }

  /// The few rows of `a`, in order and times alpha.
  float* rows(Memory& memory, std::size_t more) const {
    float* x = memory.get(m * inner + more);
    for (std::size_t i = 0; x != nullptr && i < m; ++i) {
      for (std::size_t p = 0; p < inner; ++p) {
        x[i * inner + p] = alpha * *a.at(i, p);
      }
    }
    return x;
  }

  void put(std::size_t i, std::size_t first, std::size_t count, const float* values) const {
    float* to = c + std::int64_t(i) * c_row + std::int64_t(first) * c_col;
    for (std::size_t j = 0; j < count; ++j, to += c_col) {
      *to = beta == 0.0f ? values[j] : values[j] + beta * *to;
    }
  }

  /// Each column of `b` is a line in memory.
  bool dots(Memory& memory) const {
    const float* x = rows(memory, 0);
    if (x == nullptr) {
      return false;
    }
    const std::size_t columns = task_rows(n, inner * sizeof(float));
    for_each((n + columns - 1) / columns, parallel(), [&](std::size_t task, std::size_t) {
      const std::size_t first = task * columns, count = std::min(columns, n - first);
      float results[few * most_rows];
      k->dot(b.at(0, first), Float::f32, b.col, count, x, inner, m, inner, results, columns);
      for (std::size_t i = 0; i < m; ++i) {
        put(i, first, count, results + i * columns);
      }
    });
    return true;
  }

  /// Each row of `b` is a line in memory.
  bool combinations(Memory& memory) const {
    constexpr std::size_t columns = 512;
    const float* x = rows(memory, threads() * columns);
    if (x == nullptr) {
      return false;
    }
    float* rest = const_cast<float*>(x) + m * inner;
    for_each((n + columns - 1) / columns, parallel(), [&](std::size_t task, std::size_t thread) {
      const std::size_t first = task * columns, count = std::min(columns, n - first);
      float* results = rest + thread * columns;
      for (std::size_t i = 0; i < m; ++i) {
        k->combine(results, x + i * inner, b.at(0, first), b.row, inner, count, false);
        put(i, first, count, results);
      }
    });
    return true;
  }

  bool blocks(Memory& memory) const {
    const Product product(k->blocks, m, n, inner, true);
    float* space = memory.get(product.floats());
    if (space == nullptr) {
      return false;
    }
    if (beta != 0.0f && beta != 1.0f) {
      for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
          c[std::int64_t(i) * c_row + j] *= beta;
        }
      }
    }
    product.run(
        space, parallel(), {c, static_cast<std::size_t>(c_row), beta != 0.0f},
        [&](void* to, std::size_t row, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t) {
          k->blocks.pack_a(to, a.at(row, from), Float::f32, a.col, a.row, steps, count);
          if (alpha != 1.0f) {
            auto* values = static_cast<float*>(to);
            for (std::size_t i = 0; i < steps * k->blocks.rows; ++i) {
              values[i] *= alpha;
            }
          }
        },
        [&](void* to, std::size_t column, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t) {
          k->blocks.pack_b(to, b.at(from, column), Float::f32, b.row, b.col, steps, count);
        },
        [](std::size_t, std::size_t, std::size_t, float*) {});
    return true;
  }

  bool run() const {
    thread_local Memory memory;
    const Gemm turned = transposed();
    const bool done = m <= few && b.row == 1 ? dots(memory)
        : n <= few && a.col == 1             ? turned.dots(memory)
        : m <= 2 && b.col == 1               ? combinations(memory)
        : n <= 2 && a.row == 1               ? turned.combinations(memory)
        : c_col == 1                         ? blocks(memory)
                                             : turned.blocks(memory);
    memory.rest();
    return done;
  }
};

} // namespace
} // namespace shim::cpu

bool mlxs_sgemm(
    size_t m, size_t n, size_t inner, float alpha, const float* a, int64_t a_row, int64_t a_col,
    const float* b, int64_t b_row, int64_t b_col, float beta, float* c, int64_t c_row,
    int64_t c_col) {
  using namespace shim::cpu;
  const Kernels* k = kernels();
  // Elsewhere the caller's products are at least as fast.
  if (k == nullptr || k == kernels_portable || (c_row != 1 && c_col != 1)) {
    return false;
  }
  return Gemm{k, m, n, inner, alpha, {a, a_row, a_col}, {b, b_row, b_col}, beta, c, c_row, c_col}
      .run();
}
