// The inner loops for packed matrices, compiled once for each level of the processor.
#pragma once

#include "kernels.hpp"

namespace shim::cpu {

/// What the codes of a packed matrix stand for.
enum class Code : int { integer, fp4, fp8 };

/// How the scale of a group is stored.
enum class Scale : int { f32, f16, bf16, e8m0, e4m3 };

/// Rows of a matrix of fp4 or fp8 codes times a few vectors.
struct CodedDot {
  const std::uint32_t* weights; // first row
  std::size_t words; // of one row
  const std::uint8_t* scales; // first row
  Scale scale; // e8m0 or e4m3
  std::size_t groups; // of one row
  std::size_t group;
  Code code;
  const void* x; // fp4: arranged for 4 bits; fp8: floats in order
  std::size_t x_stride; // of `x`'s elements: floats, or bytes for `Fp4Integers`
  const float* sums; // of each group of x, `groups` apart; for `Fp4Integers` only
  std::size_t m; // vectors
  float* out; // out[i * out_stride + row]
  std::size_t out_stride;
  std::size_t rows;
  float* scratch; // `scratch_floats` of them
};

struct PackedKernels {
  /// The numbers of codes `from..from + n` of a row, both multiples of 8, before scaling.
  void (*decode)(
      float* out, const std::uint32_t* row, Code code, int bits, std::size_t from, std::size_t n);
  void (*decode_scales)(float* out, const void* in, Scale scale, std::size_t n);
  /// x[i] · scales[g] for the group g of element `from + i`, where `n` is a multiple of the lanes.
  /// Rounded to `type`, then plus biases[g] unless they are null.
  void (*scale_groups)(
      float* x, const float* scales, const float* biases, std::size_t group, std::size_t from,
      std::size_t n, Float type);
  void (*coded_dot)(const CodedDot&);
  /// out[i · out_stride + j] += by[i · by_stride] · line[j], for m rows and n elements.
  void (*add_scaled)(
      float* out, std::size_t out_stride, const float* line, const float* by,
      std::size_t by_stride, std::size_t m, std::size_t n);
  /// out[i] += a[i] · b[i].
  void (*add_products)(float* out, const float* a, const float* b, std::size_t n);
};

/// `CodedDot` for fp4 with vectors that `IntegerKernels::arrange` arranged for 4 bits. Null where
/// the compiler was not asked for that level.
extern void (*const fp4_vnni)(const CodedDot&);

} // namespace shim::cpu
