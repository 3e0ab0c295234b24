// Products with packed matrices beside those of quantized.cpp.
#pragma once

#include "cpu.hpp"

namespace shim::cpu {

/// `quantized_matmul` in every packing, transposed or not, for one matrix or a batch of them.
mx::array packed_matmul(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode, mx::Stream s);

/// The gradient of a product whose items took rows of `x` at `lhs` (all in order without), from
/// that of each item: `[items.., M, K]`.
mx::array rows_gradient(
    mx::array gradient, const mx::array& x, const std::optional<mx::array>& lhs, mx::Stream s);

/// The leading axes of matrices.
mx::Shape batch_of(const mx::array& a);

/// Indices as MLX takes them; nothing if they are not integers.
std::optional<mx::array> as_positions(const mx::array& indices, mx::Stream s);

} // namespace shim::cpu
