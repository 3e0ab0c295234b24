// The blocked matrix product that all dense and quantised products share.
#pragma once

#include <algorithm>

#include "support.hpp"

namespace shim::cpu {

/// How a product of `m × inner` and `inner × n` is divided. All sizes of memory are in floats.
class Product {
 public:
  /// Where results go, if they are f32 and their rows are in order: `ld` floats apart.
  struct Target {
    float* data;
    std::size_t ld;
    bool add;
  };

  Product(const Blocks& how, std::size_t m, std::size_t n, std::size_t inner, bool direct)
      : how_(&how), m_(m), n_(n), inner_(inner), direct_(direct) {
    row_panels_ = (m + how.rows - 1) / how.rows;
    rounds_ = (inner + how.depth - 1) / how.depth;
    // The rows are packed once, unless that takes too much memory: then for each of few widths.
    whole_ = row_panels_ * rounds_ * how.a_bytes <= whole_bytes;
    wide_ = std::min((n + how.columns - 1) / how.columns, (whole_ ? 1024 : 4096) / how.columns);
    // A group of rows stays in the second-level cache while columns pass by.
    group_ = std::max<std::size_t>(1, group_bytes / how.a_bytes);
    span_ = 8;
    const auto tasks = [this] {
      return ((row_panels_ + group_ - 1) / group_) * ((wide_ + span_ - 1) / span_);
    };
    while (span_ > 1 && tasks() < 4 * threads()) {
      span_ /= 2;
    }
    while (group_ > 1 && tasks() < 4 * threads()) {
      group_ = (group_ + 1) / 2;
    }
  }

  std::size_t floats() const {
    return packed_a() + packed_b() + (direct_ ? 0 : row_panels_ * how_->rows * ld());
  }

  /// `pack_a(to, row, count, from, steps, thread)` and `pack_b(to, column, count, from, steps,
  /// thread)` pack panels; `finish(row, column, count, values)` takes results that are not written to
  /// `target`, and may change them.
  template <typename PackA, typename PackB, typename Finish>
  void run(
      float* memory, bool parallel, const Target& target, PackA&& pack_a, PackB&& pack_b,
      Finish&& finish) const {
    auto* a = reinterpret_cast<char*>(memory);
    char* b = a + packed_a() * sizeof(float);
    auto* buffer = reinterpret_cast<float*>(b + packed_b() * sizeof(float));
    const auto row_panel = [&](std::size_t round, std::size_t i, std::size_t thread) {
      const std::size_t row = i * how_->rows;
      pack_a(
          a + ((whole_ ? round * row_panels_ : 0) + i) * how_->a_bytes, row,
          std::min(how_->rows, m_ - row), round * how_->depth, steps(round), thread);
    };
    if (whole_) {
      for_each(rounds_ * row_panels_, parallel, [&](std::size_t task, std::size_t thread) {
        row_panel(task / row_panels_, task % row_panels_, thread);
      });
    }
    const std::size_t all = (n_ + how_->columns - 1) / how_->columns;
    for (std::size_t first = 0; first < all; first += wide_) {
      const std::size_t panels = std::min(wide_, all - first);
      for (std::size_t round = 0; round < rounds_; ++round) {
        const std::size_t rows = whole_ ? 0 : row_panels_;
        for_each(panels + rows, parallel, [&](std::size_t task, std::size_t thread) {
          if (task >= panels) {
            row_panel(round, task - panels, thread);
            return;
          }
          const std::size_t column = (first + task) * how_->columns;
          pack_b(
              b + task * how_->b_bytes, column, std::min(how_->columns, n_ - column),
              round * how_->depth, steps(round), thread);
        });
        const std::size_t spans = (panels + span_ - 1) / span_;
        const std::size_t groups = (row_panels_ + group_ - 1) / group_;
        const char* packed = a + (whole_ ? round * row_panels_ * how_->a_bytes : 0);
        for_each(groups * spans, parallel, [&](std::size_t task, std::size_t) {
          if (how_->enter != nullptr) {
            how_->enter();
          }
          const std::size_t row = task / spans * group_, column = task % spans * span_;
          const std::size_t row_end = std::min(row_panels_, row + group_);
          const std::size_t column_end = std::min(panels, column + span_);
          for (std::size_t j = column; j < column_end; ++j) {
            for (std::size_t i = row; i < row_end; ++i) {
              multiply(
                  packed + i * how_->a_bytes, b + j * how_->b_bytes, i, j, first, round, target,
                  buffer);
            }
          }
          if (how_->leave != nullptr) {
            how_->leave();
          }
          if (!direct_ && round + 1 == rounds_) {
            const std::size_t from = (first + column) * how_->columns;
            const std::size_t count =
                std::min(n_, (first + column_end) * how_->columns) - from;
            for (std::size_t i = row * how_->rows; i < std::min(m_, row_end * how_->rows); ++i) {
              finish(i, from, count, buffer + i * ld() + column * how_->columns);
            }
          }
        });
      }
    }
  }

 private:
  static constexpr std::size_t whole_bytes = 64 << 20;
  static constexpr std::size_t group_bytes = 192 << 10;
  static constexpr std::size_t largest_block = 1024;

  std::size_t ld() const {
    return wide_ * how_->columns;
  }

  std::size_t packed_a() const {
    return (whole_ ? rounds_ : 1) * row_panels_ * how_->a_bytes / sizeof(float);
  }

  std::size_t packed_b() const {
    return wide_ * how_->b_bytes / sizeof(float);
  }

  std::size_t steps(std::size_t round) const {
    return std::min(how_->depth, inner_ - round * how_->depth);
  }

  /// Block (i, first + j).
  void multiply(
      const char* a, const char* b, std::size_t i, std::size_t j, std::size_t first,
      std::size_t round, const Target& target, float* buffer) const {
    const std::size_t rows = how_->rows, columns = how_->columns;
    if (!direct_) {
      how_->multiply(a, b, buffer + i * rows * ld() + j * columns, ld(), steps(round), round > 0);
      return;
    }
    const std::size_t row = i * rows, column = (first + j) * columns;
    float* to = target.data + row * target.ld + column;
    const bool add = target.add || round > 0;
    if (row + rows <= m_ && column + columns <= n_) {
      how_->multiply(a, b, to, target.ld, steps(round), add);
      return;
    }
    alignas(64) float block[largest_block];
    how_->multiply(a, b, block, columns, steps(round), false);
    for (std::size_t y = 0; y < std::min(rows, m_ - row); ++y) {
      for (std::size_t x = 0; x < std::min(columns, n_ - column); ++x) {
        float& value = to[y * target.ld + x];
        value = add ? value + block[y * columns + x] : block[y * columns + x];
      }
    }
  }

  const Blocks* how_;
  std::size_t m_, n_, inner_;
  bool direct_, whole_;
  std::size_t row_panels_, rounds_;
  std::size_t wide_, group_, span_; // in panels
};

} // namespace shim::cpu
