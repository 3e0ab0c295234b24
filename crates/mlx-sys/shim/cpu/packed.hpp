// Stacks of packed matrices.
#pragma once

#include "kernels_packed.hpp"
#include "stacked.hpp"

namespace shim::cpu {

/// How numbers are packed along the last axis.
struct Packing {
  Code code;
  Scale scale;
  std::size_t group;
  int bits;

  bool operator==(const Packing&) const = default;
};

/// The packing of these operands; nothing where they do not fit or have no kernel, which leaves
/// the answer to MLX.
std::optional<Packing> packing_of(
    const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
    std::optional<int> group_size, std::optional<int> bits, const std::string& mode);

/// Numbers in the last axis of the matrices that `w` stands for.
inline std::size_t unpacked_size(const mx::array& scales, const Packing& packing) {
  return scales.shape(-1) * packing.group;
}

class PackedStack : public Stack {
 public:
  /// Matrices that `w` stands for, transposed or not. All operands are in order.
  PackedStack(
      const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
      Packing packing, bool transpose);

  std::size_t few_rows() const override;
  std::size_t few_columns() const override;
  std::size_t arranged_bytes() const override;
  std::size_t arranged_sums() const override;
  std::size_t few_scratch() const override;
  void arrange(char* to, float* sums, const float* row) const override;
  void few(const FewRows& rows) const override;
  const Blocks& blocks(Float x_type) const override;
  std::size_t pack_scratch(const Blocks& how) const override;
  void pack(
      const Blocks& how, std::size_t matrix, void* to, std::size_t column, std::size_t columns,
      std::size_t from, std::size_t steps, float* scratch) const override;

  /// Writes numbers `from..from + count` of a stored row; both are multiples of 8, and `from` is
  /// one of the group or `count` does not cross a group. `scratch` holds two floats a group.
  void unpack(
      float* to, std::size_t row, std::size_t from, std::size_t count, Float rounded,
      float* scratch) const;

  /// Stored rows of all matrices.
  std::size_t stored_rows() const {
    return count * rows_;
  }

  std::size_t stored_columns() const {
    return groups_ * packing_.group;
  }

 private:
  void few_transposed(const FewRows& rows) const;
  void few_straight(const FewRows& rows) const;

  const Kernels* k_;
  const IntegerKernels* integers_; // null where floats are used
  const std::uint32_t* w_;
  const char* scales_;
  const char* biases_; // null without
  std::size_t scale_size_;
  Packing packing_;
  bool transpose_;
  std::size_t rows_, words_, groups_; // stored rows of a matrix, and what one has
};

} // namespace shim::cpu
