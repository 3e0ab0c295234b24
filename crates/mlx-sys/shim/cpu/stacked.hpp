// Products of rows with matrices of a stack, where each item chooses both by index: experts,
// batches, and a single matrix as the simplest case.
#pragma once

#include "product.hpp"

namespace shim::cpu {

/// A few arranged rows to be multiplied with some columns of one matrix.
struct FewRows {
  std::size_t matrix;
  std::size_t first, count; // columns
  const char* x; // `arranged_bytes` apart
  const float* sums; // `arranged_sums` apart
  std::size_t m;
  float* out; // out[i * few_columns() + column - first]
  float* scratch; // `few_scratch` floats
};

/// Matrices [inner, n] of one shape. The operands' memory belongs to the caller.
class Stack {
 public:
  Stack(std::size_t count, std::size_t n, std::size_t inner) : count(count), n(n), inner(inner) {}
  virtual ~Stack() = default;

  const std::size_t count, n, inner;

  /// Rows of one matrix up to which `few` is faster than the blocked product.
  virtual std::size_t few_rows() const = 0;
  /// Columns of one task.
  virtual std::size_t few_columns() const {
    return 32;
  }
  /// Bytes of an arranged row, a multiple of 64.
  virtual std::size_t arranged_bytes() const = 0;
  virtual std::size_t arranged_sums() const {
    return 0;
  }
  virtual std::size_t few_scratch() const {
    return 0;
  }
  virtual void arrange(char* to, float* sums, const float* row) const = 0;
  virtual void few(const FewRows& rows) const = 0;

  /// How many rows of this type are multiplied.
  virtual const Blocks& blocks(Float x_type) const = 0;
  /// Floats of scratch that `pack` takes.
  virtual std::size_t pack_scratch(const Blocks&) const {
    return 0;
  }
  /// Packs a panel of columns for `Product`.
  virtual void pack(
      const Blocks& how, std::size_t matrix, void* to, std::size_t column, std::size_t columns,
      std::size_t from, std::size_t steps, float* scratch) const = 0;
};

/// Which of `limit` operands each item takes. Positions outside give the last one.
struct Choice {
  const std::uint32_t* data; // the offset itself is the position if null
  mx::Shape shape; // of the items
  mx::Strides strides;
  std::size_t limit;

  /// Positions are read from `indices`, whose shape broadcasts to `shape`.
  Choice(const mx::array& indices, const mx::Shape& shape, std::size_t limit);
  /// In the order of the operand's leading axes `batch`, which broadcast to `shape`.
  Choice(const mx::Shape& batch, const mx::Shape& shape);

  std::size_t at(std::size_t item) const;
};

/// Items of `each` rows of x, which is in order, and their results.
struct Items {
  std::size_t count, each;
  const char* x;
  Float x_type;
  char* out;
  Float out_type;
};

void multiply(const Stack& stack, const Items& items, const Choice& lhs, const Choice& rhs);

} // namespace shim::cpu
