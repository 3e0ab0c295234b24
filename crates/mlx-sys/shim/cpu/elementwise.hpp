// Element-wise functions, written in kernels_elementwise.inl and compiled by kernels_*.cpp.
#pragma once

#include <cstddef>

namespace shim::cpu {

enum class Unary : int { exp, erf, tanh, sigmoid, silu, gelu, gelu_tanh, gelu_sigmoid };
enum class Binary : int { add, subtract, multiply, divide };

struct Elementwise {
  /// `out` may be `x`.
  void (*unary)(Unary, float* out, const float* x, std::size_t n);
  /// `out` may be `a` or `b`.
  void (*binary)(Binary, float* out, const float* a, const float* b, std::size_t n);
};

// Null where the compiler was not asked for that level.
extern const Elementwise* const elementwise_avx512;
extern const Elementwise* const elementwise_avx2;
extern const Elementwise* const elementwise_portable;

} // namespace shim::cpu
