// Operations with kernels of our own for CPU streams. Each falls back to MLX's where it has none,
// where the stream is a GPU's, and everywhere when MLX_CPU_KERNELS=off.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlx/mlx.h"

namespace shim::cpu {

namespace mx = mlx::core;

mx::array matmul(const mx::array& a, const mx::array& b, mx::Stream s);

mx::array addmm(
    const mx::array& c, const mx::array& a, const mx::array& b, float alpha, float beta,
    mx::Stream s);

mx::array quantized_matmul(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode, mx::Stream s);

mx::array gather_qmm(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, const std::optional<mx::array>& lhs_indices,
    const std::optional<mx::array>& rhs_indices, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode,
    const std::optional<mx::array>& global_scale, bool sorted_indices, mx::Stream s);

mx::array gather_mm(
    const mx::array& a, const mx::array& b, const std::optional<mx::array>& lhs_indices,
    const std::optional<mx::array>& rhs_indices, bool sorted_indices, mx::Stream s);

mx::array conv_general(
    const mx::array& input, const mx::array& weight, const std::vector<int>& stride,
    const std::vector<int>& padding_lo, const std::vector<int>& padding_hi,
    const std::vector<int>& dilation, const std::vector<int>& input_dilation, int groups,
    bool flip, mx::Stream s);

mx::array dequantize(
    const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
    std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
    const std::optional<mx::array>& global_scale, std::optional<mx::Dtype> dtype, mx::Stream s);

mx::array rms_norm(
    const mx::array& x, const std::optional<mx::array>& weight, float eps, mx::Stream s);

mx::array layer_norm(
    const mx::array& x, const std::optional<mx::array>& weight,
    const std::optional<mx::array>& bias, float eps, mx::Stream s);

mx::array softmax(const mx::array& a, const std::vector<int>& axes, bool precise, mx::Stream s);

/// x · gate · sigmoid(gate).
mx::array swiglu(const mx::array& gate, const mx::array& x, mx::Stream s);

mx::array exp(const mx::array& a, mx::Stream s);
mx::array erf(const mx::array& a, mx::Stream s);
mx::array tanh(const mx::array& a, mx::Stream s);
mx::array sigmoid(const mx::array& a, mx::Stream s);

/// x · sigmoid(x).
mx::array silu(const mx::array& x, mx::Stream s);
/// x · (1 + erf(x / √2)) / 2.
mx::array gelu(const mx::array& x, mx::Stream s);
/// x · (1 + tanh(√(2 / π) · (x + 0.044715 x³))) / 2.
mx::array gelu_tanh(const mx::array& x, mx::Stream s);
/// x · sigmoid(1.702 x).
mx::array gelu_sigmoid(const mx::array& x, mx::Stream s);

mx::array add(const mx::array& a, const mx::array& b, mx::Stream s);
mx::array subtract(const mx::array& a, const mx::array& b, mx::Stream s);
mx::array multiply(const mx::array& a, const mx::array& b, mx::Stream s);
mx::array divide(const mx::array& a, const mx::array& b, mx::Stream s);

mx::array rope(
    const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
    const mx::array& offset, const std::optional<mx::array>& freqs, mx::Stream s);

mx::array rope(
    const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
    int offset, const std::optional<mx::array>& freqs, mx::Stream s);

mx::array scaled_dot_product_attention(
    const mx::array& queries, const mx::array& keys, const mx::array& values, float scale,
    const std::string& mask_mode, const std::optional<mx::array>& mask,
    const std::optional<mx::array>& sinks, bool force_fused, mx::Stream s);

mx::array slice_update(
    const mx::array& a, const mx::array& update, const mx::Shape& start, const mx::Shape& stop,
    const mx::Shape& strides, mx::Stream s);

} // namespace shim::cpu
