// Written once, in vectors of LANES floats, and compiled by each kernels_*.cpp for its level.
//
// Everything here has internal linkage and nothing of the standard library is used: a template of
// the library compiled for a newer processor must not be the copy that the linker keeps.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "elementwise.hpp"
#include "kernels.hpp"
#include "kernels_packed.hpp"

namespace {

using shim::cpu::Blocks;
using shim::cpu::Float;
using shim::cpu::Kernels;
using shim::cpu::QuantizedDot;
using std::size_t;

constexpr size_t W = LANES;
typedef float Vec __attribute__((vector_size(W * 4)));
typedef std::uint32_t Words __attribute__((vector_size(W * 4)));
typedef std::int32_t Ints __attribute__((vector_size(W * 4)));

constexpr size_t MR = BLOCK_ROWS;
constexpr size_t NR = 2 * W;
constexpr size_t DEPTH = shim::cpu::inner_block;

template <size_t N>
struct Count {
  static constexpr size_t value = N;
};

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) {
  std::memcpy(p, &v, sizeof v);
}

// Adding `f` to zeros would cost an addition: it makes a difference to −0.
inline Vec splat(float f) {
#if defined(__AVX512F__)
  return (Vec)_mm512_set1_ps(f);
#elif defined(__AVX2__)
  return (Vec)_mm256_set1_ps(f);
#else
  Vec v;
  for (size_t i = 0; i < W; ++i) {
    v[i] = f;
  }
  return v;
#endif
}

inline float sum(Vec v) {
  float lanes[W];
  store(lanes, v);
  for (size_t half = W / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) {
      lanes[i] += lanes[i + half];
    }
  }
  return lanes[0];
}

inline float bits_to_float(std::uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

inline std::uint32_t float_to_bits(float f) {
  std::uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}

inline float half_to_float(std::uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const std::uint32_t sign = std::uint32_t(h & 0x8000) << 16;
  const std::uint32_t rest = h & 0x7fff;
  if (rest >= 0x7c00) { // infinities and NaNs
    return bits_to_float(sign | 0x7f800000 | ((rest & 0x3ff) << 13));
  }
  // The exponent is 112 short; multiplying also makes subnormal numbers right.
  return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
#endif
}

inline std::uint16_t float_to_half(float f) {
#if defined(__F16C__)
  return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
  const std::uint32_t bits = float_to_bits(f);
  const std::uint16_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t size = bits & 0x7fffffff;
  if (size > 0x7f800000) {
    return sign | 0x7e00;
  }
  if (size >= 0x477ff000) { // rounds to more than the largest
    return sign | 0x7c00;
  }
  if (size < 0x38800000) { // subnormal: let an addition align and round
    return sign | std::uint16_t(float_to_bits(bits_to_float(size) + 0.5f) - 0x3f000000);
  }
  return sign | std::uint16_t((size - 0x38000000 + 0xfff + ((size >> 13) & 1)) >> 13);
#endif
}

inline std::uint16_t float_to_bfloat(float f) {
  const std::uint32_t bits = float_to_bits(f);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

/// The vector at `p`, of elements of one type.
template <Float type>
inline Vec load_as(const void* p, std::int64_t at) {
  if constexpr (type == Float::f32) {
    return load(static_cast<const float*>(p) + at);
  } else {
    const auto* h = static_cast<const std::uint16_t*>(p) + at;
    if constexpr (type == Float::bf16) {
      typedef std::uint16_t Shorts __attribute__((vector_size(W * 2)));
      Shorts s;
      std::memcpy(&s, h, sizeof s);
      const Words w = __builtin_convertvector(s, Words) << 16;
      Vec v;
      std::memcpy(&v, &w, sizeof v);
      return v;
    } else {
#if defined(__AVX512F__)
      return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)));
#elif defined(__F16C__)
      return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h)));
#else
      Vec v{};
      for (size_t i = 0; i < W; ++i) {
        v[i] = half_to_float(h[i]);
      }
      return v;
#endif
    }
  }
}

template <Float type>
inline float load_one(const void* p, std::int64_t at) {
  if constexpr (type == Float::f32) {
    return static_cast<const float*>(p)[at];
  } else if constexpr (type == Float::bf16) {
    return bits_to_float(std::uint32_t(static_cast<const std::uint16_t*>(p)[at]) << 16);
  } else {
    return half_to_float(static_cast<const std::uint16_t*>(p)[at]);
  }
}

template <Float type>
void convert(float* out, const void* in, size_t n) {
  size_t i = 0;
  for (; i + W <= n; i += W) {
    store(out + i, load_as<type>(in, i));
  }
  for (; i < n; ++i) {
    out[i] = load_one<type>(in, i);
  }
}

void to_f32(float* out, const void* in, Float type, size_t n) {
  switch (type) {
    case Float::f32:
      std::memcpy(out, in, n * sizeof(float));
      break;
    case Float::f16:
      convert<Float::f16>(out, in, n);
      break;
    case Float::bf16:
      convert<Float::bf16>(out, in, n);
      break;
  }
}

void from_f32(void* out, const float* in, Float type, size_t n) {
  auto* h = static_cast<std::uint16_t*>(out);
  switch (type) {
    case Float::f32:
      std::memcpy(out, in, n * sizeof(float));
      break;
    case Float::f16: {
      size_t i = 0;
#if defined(__F16C__)
      for (; i + 8 <= n; i += 8) {
        const __m128i v = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(h + i), v);
      }
#endif
      for (; i < n; ++i) {
        h[i] = float_to_half(in[i]);
      }
      break;
    }
    case Float::bf16:
      for (size_t i = 0; i < n; ++i) {
        h[i] = float_to_bfloat(in[i]);
      }
      break;
  }
}

void block(const float* a, const float* b, float* c, size_t ldc, size_t k, bool accumulate) {
  Vec acc[MR][2] = {};
#pragma GCC unroll 4
  for (size_t p = 0; p < k; ++p) {
    const Vec b0 = load(b), b1 = load(b + W);
#pragma GCC unroll 16
    for (size_t i = 0; i < MR; ++i) {
      const Vec x = splat(a[i]);
      acc[i][0] += x * b0;
      acc[i][1] += x * b1;
    }
    a += MR;
    b += NR;
  }
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; ++i) {
    float* row = c + i * ldc;
    if (accumulate) {
      acc[i][0] += load(row);
      acc[i][1] += load(row + W);
    }
    store(row, acc[i][0]);
    store(row + W, acc[i][1]);
  }
}

#if defined(__AVX512F__)
/// Each round turns the bits of (row, lane) by one place; after four, lanes are rows.
inline void transpose(__m512 (&v)[16]) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  for (int round = 0; round < 4; ++round) {
    __m512 next[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = _mm512_permutex2var_ps(v[i], low, v[i + 8]);
      next[2 * i + 1] = _mm512_permutex2var_ps(v[i], high, v[i + 8]);
    }
    std::memcpy(v, next, sizeof next);
  }
}
#elif defined(__AVX2__)
inline void transpose(__m256 (&v)[8]) {
  __m256 pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}
#endif

/// Packs lines as [steps][WIDTH] floats.
template <Float type, size_t WIDTH>
void pack_as(
    float* out, const void* in, std::int64_t step, std::int64_t next, size_t steps, size_t count) {
  constexpr size_t size = type == Float::f32 ? 4 : 2;
  const auto* bytes = static_cast<const char*>(in);
  size_t p = 0;
  if (next == 1) {
    for (; p < steps; ++p, out += WIDTH) {
      const char* from = bytes + std::int64_t(p) * step * std::int64_t(size);
      if (type == Float::f32 && count == WIDTH) {
        std::memcpy(out, from, WIDTH * size);
        continue;
      }
      size_t j = 0;
      for (; j + W <= count; j += W) {
        store(out + j, load_as<type>(from, j));
      }
      for (; j < WIDTH; ++j) {
        out[j] = j < count ? load_one<type>(from, j) : 0.0f;
      }
    }
    return;
  }
#if defined(__AVX512F__)
  if (step == 1) {
    for (; p + W <= steps; p += W) {
#pragma GCC unroll 2
      for (size_t first = 0; first < WIDTH; first += W) {
        __m512 v[W];
        for (size_t j = 0; j < W; ++j) {
          v[j] = first + j < count
              ? (__m512)load_as<type>(bytes, (std::int64_t(first + j) * next + std::int64_t(p)))
              : _mm512_setzero_ps();
        }
        transpose(v);
        const size_t lanes = WIDTH - first < W ? WIDTH - first : W;
        const __mmask16 kept = __mmask16((1u << lanes) - 1);
        for (size_t i = 0; i < W; ++i) {
          _mm512_mask_storeu_ps(out + (p + i) * WIDTH + first, kept, v[i]);
        }
      }
    }
  }
#elif defined(__AVX2__)
  if (step == 1) {
    for (; p + W <= steps; p += W) {
#pragma GCC unroll 2
      for (size_t first = 0; first < WIDTH; first += W) {
        __m256 v[W];
        for (size_t j = 0; j < W; ++j) {
          v[j] = first + j < count
              ? (__m256)load_as<type>(bytes, (std::int64_t(first + j) * next + std::int64_t(p)))
              : _mm256_setzero_ps();
        }
        transpose(v);
        // What a whole vector writes too much, the next one writes over; the last may not.
        constexpr size_t over = WIDTH % W;
        for (size_t i = 0; i < W; ++i) {
          float* to = out + (p + i) * WIDTH + first;
          if (over == 0 || i + 1 < W) {
            store(to, (Vec)v[i]);
          } else {
            float lanes[W];
            store(lanes, (Vec)v[i]);
            std::memcpy(to, lanes, over * sizeof(float));
          }
        }
      }
    }
  }
#endif
  for (; p < steps; ++p) {
    for (size_t j = 0; j < WIDTH; ++j) {
      out[p * WIDTH + j] =
          j < count ? load_one<type>(bytes, std::int64_t(p) * step + std::int64_t(j) * next) : 0.0f;
    }
  }
}

template <size_t WIDTH>
void pack(
    void* out, const void* in, Float type, std::int64_t step, std::int64_t next, size_t steps,
    size_t count) {
  auto* to = static_cast<float*>(out);
  switch (type) {
    case Float::f32:
      return pack_as<Float::f32, WIDTH>(to, in, step, next, steps, count);
    case Float::f16:
      return pack_as<Float::f16, WIDTH>(to, in, step, next, steps, count);
    case Float::bf16:
      return pack_as<Float::bf16, WIDTH>(to, in, step, next, steps, count);
  }
}

void multiply_panels(
    const void* a, const void* b, float* c, size_t ldc, size_t steps, bool accumulate) {
  block(static_cast<const float*>(a), static_cast<const float*>(b), c, ldc, steps, accumulate);
}

void combine(
    float* out, const float* x, const float* b, size_t ldb, size_t k, size_t n, bool accumulate) {
  size_t p = 0;
  const auto rows = [&](auto count) {
    constexpr size_t R = decltype(count)::value;
    const float* from = b + p * ldb;
    size_t j = 0;
    for (; j + W <= n; j += W) {
      Vec acc = accumulate ? load(out + j) : Vec{};
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) {
        acc += splat(x[p + r]) * load(from + r * ldb + j);
      }
      store(out + j, acc);
    }
    for (; j < n; ++j) {
      float acc = accumulate ? out[j] : 0.0f;
      for (size_t r = 0; r < R; ++r) {
        acc += x[p + r] * from[r * ldb + j];
      }
      out[j] = acc;
    }
    p += R;
    accumulate = true;
  };
  while (p + 8 <= k) {
    rows(Count<8>{});
  }
  while (p < k) {
    rows(Count<1>{});
  }
}

template <Float type, size_t M>
void dot_few(
    const void* w, size_t w_stride, size_t rows, const float* x, size_t x_stride, size_t k,
    float* out, size_t out_stride) {
  const size_t size = type == Float::f32 ? 4 : 2;
  // Sums that do not wait for each other.
  constexpr size_t S = M <= 2 ? 4 : 2;
  for (size_t r = 0; r < rows; ++r) {
    const void* row = static_cast<const char*>(w) + r * w_stride * size;
    Vec acc[M][S] = {};
    size_t i = 0;
    for (; i + S * W <= k; i += S * W) {
#pragma GCC unroll 4
      for (size_t s = 0; s < S; ++s) {
        const Vec v = load_as<type>(row, i + s * W);
#pragma GCC unroll 8
        for (size_t m = 0; m < M; ++m) {
          acc[m][s] += v * load(x + m * x_stride + i + s * W);
        }
      }
    }
#pragma GCC unroll 8
    for (size_t m = 0; m < M; ++m) {
      Vec lanes = acc[m][0] + acc[m][1];
      if constexpr (S == 4) {
        lanes += acc[m][2] + acc[m][3];
      }
      float total = sum(lanes);
      for (size_t j = i; j < k; ++j) {
        total += load_one<type>(row, j) * x[m * x_stride + j];
      }
      out[m * out_stride + r] = total;
    }
  }
}

template <Float type>
void dot_as(
    const void* w, size_t w_stride, size_t rows, const float* x, size_t x_stride, size_t m,
    size_t k, float* out, size_t out_stride) {
  for (; m >= 4; m -= 4, x += 4 * x_stride, out += 4 * out_stride) {
    dot_few<type, 4>(w, w_stride, rows, x, x_stride, k, out, out_stride);
  }
  switch (m) {
    case 3:
      return dot_few<type, 3>(w, w_stride, rows, x, x_stride, k, out, out_stride);
    case 2:
      return dot_few<type, 2>(w, w_stride, rows, x, x_stride, k, out, out_stride);
    case 1:
      return dot_few<type, 1>(w, w_stride, rows, x, x_stride, k, out, out_stride);
    default:
      return;
  }
}

void dot(
    const void* w, Float type, size_t w_stride, size_t rows, const float* x, size_t x_stride,
    size_t m, size_t k, float* out, size_t out_stride) {
  switch (type) {
    case Float::f32:
      return dot_as<Float::f32>(w, w_stride, rows, x, x_stride, m, k, out, out_stride);
    case Float::f16:
      return dot_as<Float::f16>(w, w_stride, rows, x, x_stride, m, k, out, out_stride);
    case Float::bf16:
      return dot_as<Float::bf16>(w, w_stride, rows, x, x_stride, m, k, out, out_stride);
  }
}

// Elements whose bits do not straddle words are computed W words at a time: position j of every
// word at once. `arrange` puts the vector into the same order.

constexpr bool whole_words(int bits) {
  return bits == 2 || bits == 4 || bits == 8;
}

void arrange(float* out, const float* x, size_t k, int bits) {
  const size_t padded = shim::cpu::arranged_floats(k);
  if (!whole_words(bits)) {
    std::memcpy(out, x, k * sizeof(float));
    std::memset(out + k, 0, (padded - k) * sizeof(float));
    return;
  }
  const size_t per = 32 / bits;
  for (size_t base = 0; base < padded; base += W * per) {
    for (size_t j = 0; j < per; ++j) {
      for (size_t i = 0; i < W; ++i) {
        const size_t from = base + i * per + j;
        out[base + j * W + i] = from < k ? x[from] : 0.0f;
      }
    }
  }
}

template <int bits>
inline Vec position(Words words, size_t j) {
#if defined(__AVX512F__)
  if constexpr (bits == 4) {
    // The lookup ignores the bits above the lowest four, which saves masking and converting.
    const __m512 table =
        _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return (Vec)_mm512_permutexvar_ps((__m512i)(words >> (std::uint32_t)(j * bits)), table);
  }
#endif
  const Words q = (words >> (std::uint32_t)(j * bits)) & ((1u << bits) - 1);
  return __builtin_convertvector((Ints)q, Vec);
}

/// The scale of each of the W words from word `at` on, for groups of `each` words.
inline Vec spread(const float* scales, size_t at, size_t each) {
  if (each >= W) {
    return splat(scales[at / each]);
  }
#if defined(__AVX512F__)
  const __m512i lanes =
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i from = _mm512_srlv_epi32(lanes, _mm512_set1_epi32(__builtin_ctzll(each)));
  return (Vec)_mm512_permutexvar_ps(from, _mm512_loadu_ps(scales + at / each));
#else
  Vec v{};
  for (size_t i = 0; i < W; ++i) {
    v[i] = scales[at / each + i / each];
  }
  return v;
#endif
}

template <int bits, size_t M>
void quantized_row(
    const QuantizedDot& q, const std::uint32_t* row, const float* scales, const float* x,
    float* totals) {
  constexpr size_t per = 32 / bits;
  const size_t each = q.group / per;
  Vec acc[M] = {};
  size_t at = 0;
  const auto step = [&](Words words, size_t word) {
    Vec part[M] = {};
    const float* xs = x + word * per;
#pragma GCC unroll 16
    for (size_t j = 0; j < per; ++j) {
      const Vec v = position<bits>(words, j);
#pragma GCC unroll 4
      for (size_t m = 0; m < M; ++m) {
        part[m] += v * load(xs + m * q.x_stride + j * W);
      }
    }
    const Vec s = spread(scales, word, each);
#pragma GCC unroll 4
    for (size_t m = 0; m < M; ++m) {
      acc[m] += part[m] * s;
    }
  };
  for (; at + W <= q.words; at += W) {
    Words words;
    std::memcpy(&words, row + at, sizeof words);
    step(words, at);
  }
  if (at < q.words) {
    Words words{};
    std::memcpy(&words, row + at, (q.words - at) * sizeof(std::uint32_t));
    step(words, at);
  }
  for (size_t m = 0; m < M; ++m) {
    totals[m] = sum(acc[m]);
  }
}

typedef std::uint32_t Eight __attribute__((vector_size(32)));
typedef std::int32_t EightInts __attribute__((vector_size(32)));
typedef std::uint64_t EightLong __attribute__((vector_size(64)));
typedef float EightFloats __attribute__((vector_size(32)));

template <int bits>
void unpack_as(float* out, const std::uint8_t* row, size_t from, size_t n) {
  // Eight elements take `bits` bytes, whatever the bits.
  const std::uint8_t* at = row + from / 8 * bits;
  for (size_t i = 0; i < n; i += 8, at += bits, out += 8) {
    std::uint64_t word = 0;
    if ((n - i) * bits >= 64) {
      // The bytes too many belong to the next elements.
      std::memcpy(&word, at, sizeof word);
    } else {
      std::memcpy(&word, at, bits);
    }
    Eight q;
    if constexpr (bits <= 4) {
      constexpr Eight shifts = {0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits};
      q = (Eight{} + std::uint32_t(word)) >> shifts;
    } else {
      constexpr EightLong shifts = {0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits};
      q = __builtin_convertvector((EightLong{} + word) >> shifts, Eight);
    }
    const auto values = __builtin_convertvector((EightInts)(q & ((1u << bits) - 1)), EightFloats);
    std::memcpy(out, &values, sizeof values);
  }
}

/// The plain values of elements `from..from + n`, both multiples of 8.
void unpack(float* out, const std::uint32_t* words, int bits, size_t from, size_t n) {
  const auto* row = reinterpret_cast<const std::uint8_t*>(words);
  switch (bits) {
    case 1:
      return unpack_as<1>(out, row, from, n);
    case 2:
      return unpack_as<2>(out, row, from, n);
    case 3:
      return unpack_as<3>(out, row, from, n);
    case 4:
      return unpack_as<4>(out, row, from, n);
    case 5:
      return unpack_as<5>(out, row, from, n);
    case 6:
      return unpack_as<6>(out, row, from, n);
    case 8:
      return unpack_as<8>(out, row, from, n);
    default:
      return;
  }
}

template <size_t M>
void straddling_row(
    const QuantizedDot& q, const std::uint32_t* row, const float* scales, const float* x,
    float* totals) {
  Vec acc[M] = {};
  float values[128];
  for (size_t g = 0; g < q.groups; ++g) {
    const size_t from = g * q.group;
    unpack(values, row, q.bits, from, q.group);
    const Vec s = splat(scales[g]);
    for (size_t m = 0; m < M; ++m) {
      Vec part{};
      for (int i = 0; i < q.group; i += W) {
        part += load(values + i) * load(x + m * q.x_stride + from + i);
      }
      acc[m] += part * s;
    }
  }
  for (size_t m = 0; m < M; ++m) {
    totals[m] = sum(acc[m]);
  }
}

template <size_t M>
void quantized_rows(const QuantizedDot& q, size_t first) {
  const size_t size = q.scale_type == Float::f32 ? 4 : 2;
  float* scales = q.scratch;
  float* biases = q.scratch + q.groups + 32;
  // Lanes past the last group are multiplied by zeros.
  std::memset(scales + q.groups, 0, 32 * sizeof(float));
  const float* x = q.x + first * q.x_stride;
  const float* sums = q.sums + first * q.groups;
  for (size_t r = 0; r < q.rows; ++r) {
    const size_t at = r * q.groups * size;
    to_f32(scales, static_cast<const char*>(q.scales) + at, q.scale_type, q.groups);
    to_f32(biases, static_cast<const char*>(q.biases) + at, q.scale_type, q.groups);
    const std::uint32_t* row = q.weights + r * q.words;
    float totals[M];
    switch (q.bits) {
      case 2:
        quantized_row<2, M>(q, row, scales, x, totals);
        break;
      case 4:
        quantized_row<4, M>(q, row, scales, x, totals);
        break;
      case 8:
        quantized_row<8, M>(q, row, scales, x, totals);
        break;
      default:
        straddling_row<M>(q, row, scales, x, totals);
        break;
    }
    for (size_t m = 0; m < M; ++m) {
      Vec acc{};
      size_t g = 0;
      for (; g + W <= q.groups; g += W) {
        acc += load(biases + g) * load(sums + m * q.groups + g);
      }
      float total = totals[m] + sum(acc);
      for (; g < q.groups; ++g) {
        total += biases[g] * sums[m * q.groups + g];
      }
      q.out[(first + m) * q.out_stride + r] = total;
    }
  }
}

void quantized_dot(const QuantizedDot& q) {
  size_t m = 0;
  for (; m + 4 <= q.m; m += 4) {
    quantized_rows<4>(q, m);
  }
  switch (q.m - m) {
    case 3:
      return quantized_rows<3>(q, m);
    case 2:
      return quantized_rows<2>(q, m);
    case 1:
      return quantized_rows<1>(q, m);
    default:
      return;
  }
}

void dequantize(
    float* out, const std::uint32_t* row, const float* scales, const float* biases, int group,
    int bits, size_t from, size_t n) {
  unpack(out, row, bits, from, n);
  for (size_t i = 0; i < n; i += W) {
    const size_t g = (from + i) / group;
    store(out + i, load(out + i) * scales[g] + biases[g]);
  }
}

#include "kernels_rows.inl"
#include "kernels_elementwise.inl"
#include "kernels_packed.inl"

constexpr Blocks blocks = {
    MR, NR, DEPTH, MR * DEPTH * sizeof(float), NR * DEPTH * sizeof(float), pack<MR>, pack<NR>,
    multiply_panels, nullptr, nullptr,
};

constexpr Kernels table = {
    LEVEL,   blocks,  MR,       NR,       W,          to_f32,     from_f32,   round_to,
    block,   combine, dot,     arrange,  quantized_dot,        dequantize, multiply,
    rms_norm, layer_norm,       softmax,  swiglu,     sigmoid,    rotate,
    scores,  weighted, softmax_columns,       &packed_table,
};

} // namespace
