// Operations with kernels of our own for CPU streams. Each falls back to MLX's where it has none,
// where the stream is a GPU's, and everywhere when MLX_CPU_KERNELS=off.
#pragma once

#include <optional>
#include <string>

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

} // namespace shim::cpu
