// The inner loops, compiled once for each level of the processor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shim::cpu {

enum class Float : int { f32, f16, bf16 };

/// A row of a quantised matrix times a few vectors: see `Kernels::quantized_dot`.
struct QuantizedDot {
  const std::uint32_t* weights; // first row
  std::size_t words; // of one row
  const void* scales; // first row
  const void* biases;
  Float scale_type;
  std::size_t groups; // of one row
  int group;
  int bits;
  const float* x; // arranged by `arrange`
  std::size_t x_stride;
  const float* sums; // of each group of x, `groups` apart
  std::size_t m; // vectors
  float* out; // out[i * out_stride + row]
  std::size_t out_stride;
  std::size_t rows;
  float* scratch; // `scratch_floats` of them
};

/// The same with vectors arranged as integers: see `IntegerKernels::dot`.
struct IntegerDot {
  const std::uint32_t* weights; // first row
  std::size_t words; // of one row
  const void* scales; // first row
  const void* biases;
  Float scale_type;
  std::size_t groups; // of one row
  std::size_t group;
  int bits;
  const void* x; // arranged by `arrange`
  std::size_t x_stride; // bytes
  const float* sums; // of each group of x, `groups` apart
  std::size_t m; // vectors
  float* out; // out[i * out_stride + row]
  std::size_t out_stride;
  std::size_t rows;
};

/// Products with quantised matrices of 1 to 6 or 8 bits in groups of 32, 64 or 128.
struct IntegerKernels {
  /// Bytes of an arranged vector of `k` elements; a multiple of 64.
  std::size_t (*arranged_bytes)(std::size_t k, int bits);
  /// Also writes the sum of each group.
  void (*arrange)(
      void* out, float* sums, const float* x, std::size_t k, int bits, std::size_t group);
  void (*dot)(const IntegerDot&);
};

/// Steps along the inner dimension that a panel of f32 holds: one of the right operand fills most
/// of the first-level cache. A multiple of every group.
constexpr std::size_t inner_block = 256;

/// One way to multiply matrices block by block: how panels of both are packed, and the inner loop.
struct Blocks {
  /// Rows and columns of the block that `multiply` computes.
  std::size_t rows, columns;
  /// Steps along the inner dimension that a panel holds at most; a multiple of every group.
  std::size_t depth;
  /// Bytes of a panel of `depth` steps.
  std::size_t a_bytes, b_bytes;

  /// Packs `count` lines of `steps` elements, with zeros for the missing ones: element p of line j
  /// lies at `p · step + j · next`.
  using Pack = void (*)(
      void* out, const void* in, Float type, std::int64_t step, std::int64_t next,
      std::size_t steps, std::size_t count);
  Pack pack_a, pack_b;
  /// c[rows][columns] (+)= a × b.
  void (*multiply)(
      const void* a, const void* b, float* c, std::size_t ldc, std::size_t steps, bool accumulate);

  /// What a thread does before and after it multiplies; null for nothing.
  void (*enter)();
  void (*leave)();
};

struct PackedKernels; // kernels_packed.hpp

struct Kernels {
  const char* name;
  /// In f32, whatever the operands' types.
  Blocks blocks;
  /// Rows and columns of the block that `block` computes.
  std::size_t mr, nr;
  /// Lanes of a vector.
  std::size_t width;

  void (*to_f32)(float* out, const void* in, Float type, std::size_t n);
  void (*from_f32)(void* out, const float* in, Float type, std::size_t n);
  /// Rounds to what the type can hold.
  void (*round_to)(float* x, Float type, std::size_t n);
  /// c[mr][nr] (+)= a × b, where `a` is stored as [k][mr] and `b` as [k][nr].
  void (*block)(
      const float* a, const float* b, float* c, std::size_t ldc, std::size_t k, bool accumulate);
  /// out[j] (+)= x[0] · b[j] + x[1] · b[ldb + j] + …, for k rows of n elements.
  void (*combine)(
      float* out, const float* x, const float* b, std::size_t ldb, std::size_t k, std::size_t n,
      bool accumulate);
  /// out[i * out_stride + j] = row j of `w` · row i of `x`.
  void (*dot)(
      const void* w, Float type, std::size_t w_stride, std::size_t rows, const float* x,
      std::size_t x_stride, std::size_t m, std::size_t k, float* out, std::size_t out_stride);
  /// Puts one vector of `k` elements into the order that `quantized_dot` reads, with zeros after.
  void (*arrange)(float* out, const float* x, std::size_t k, int bits);
  void (*quantized_dot)(const QuantizedDot&);
  /// out[i] = scale · q + bias for elements `from..from + n` of a row; both are multiples of the
  /// group or of 32.
  void (*dequantize)(
      float* out, const std::uint32_t* row, const float* scales, const float* biases, int group,
      int bits, std::size_t from, std::size_t n);

  void (*multiply)(float* out, const float* a, const float* b, std::size_t n);

  // Of one row of `n` floats; `out` may be `x`.
  /// The weight may be null.
  void (*rms_norm)(float* out, const float* x, const float* w, std::size_t n, float eps);
  /// Weight and bias may be null.
  void (*layer_norm)(
      float* out, const float* x, const float* w, const float* b, std::size_t n, float eps);
  /// The sink, which may be null, takes its share and is not written.
  void (*softmax)(float* out, const float* x, std::size_t n, const float* sink);
  /// x · gate / (1 + e^-gate).
  void (*swiglu)(float* out, const float* gate, const float* x, std::size_t n);
  void (*sigmoid)(float* out, const float* x, std::size_t n);
  /// Turns `half` pairs: of neighbours if traditional, else of elements `half` apart.
  void (*rotate)(
      float* out, const float* x, const float* cosines, const float* sines, std::size_t half,
      bool traditional);

  // Attention of one query to rows that lie `stride` elements apart.
  /// out[s] = q · row s of `keys`, for n rows of d elements.
  void (*scores)(
      float* out, const float* q, const void* keys, Float type, std::size_t stride, std::size_t n,
      std::size_t d);
  /// out = Σ p[s] · row s of `values`.
  void (*weighted)(
      float* out, const float* p, const void* values, Float type, std::size_t stride,
      std::size_t n, std::size_t d);

  /// For each of `nr` columns of scores [n][nr]: e^(score − largest) in place, and into `scales`
  /// one over their sum. Column i takes part in the first `seen + i` rows, and is zero after.
  void (*softmax_columns)(
      float* scores, std::size_t n, std::size_t seen, const float* sink, float* scales);

  const PackedKernels* packed;
};

/// Floats that an arranged vector of `k` elements needs, for the widest vectors and any bits.
inline std::size_t arranged_floats(std::size_t k) {
  return (k + 255) / 256 * 256;
}

/// Floats of scratch for rows of so many groups.
inline std::size_t scratch_floats(std::size_t groups) {
  return 2 * (groups + 32);
}

/// Products in tiles of bf16 that are summed in f32. An f32 operand has two parts there: what bf16
/// holds of it, and what bf16 holds of the rest. Together they are 16 bits, which is plenty beside
/// an operand in bf16 and too little beside one in f32.
struct TileKernels {
  /// Of bf16 and bf16, and of bf16 and parts.
  Blocks whole, half;
};

// Null where the compiler was not asked for that level.
extern const Kernels* const kernels_avx512;
extern const Kernels* const kernels_avx2;
extern const Kernels* const kernels_portable;
extern const IntegerKernels* const integer_vnni;
extern const IntegerKernels* const integer_avx2;
extern const TileKernels* const tiles_amx;

} // namespace shim::cpu
