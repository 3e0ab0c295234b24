// Products of few vectors with a quantised matrix, in integers: AVX-512 with VNNI and VBMI.
// CMakeLists.txt asks the compiler for the level.
//
// A vector is written as x = s · (256 · high + low) with one scale s for the few elements that meet
// in a lane, so that two byte products give it 16 bits: close to f32 beside weights of 8 bits at
// most, and several times faster than unpacking the weights to floats.
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>

#include "kernels.hpp"

namespace {

using shim::cpu::Float;
using shim::cpu::IntegerDot;
using shim::cpu::IntegerKernels;
using std::size_t;

/// Codes that share a byte; those that straddle bytes are spread to one for each first.
constexpr size_t codes_in_byte(int bits) {
  return bits == 2 ? 4 : bits == 4 ? 2 : 1;
}

/// Elements of a step: 64 bytes of spread codes.
constexpr size_t step_elements(int bits) {
  return 64 * codes_in_byte(bits);
}

/// Bytes of an arranged vector for a step: for each code of a byte, 64 high and 64 low parts; then
/// the 16 scales of the lanes.
constexpr size_t step_bytes(int bits) {
  return 128 * codes_in_byte(bits) + 64;
}

size_t arranged_bytes(size_t k, int bits) {
  const size_t steps = (k + step_elements(bits) - 1) / step_elements(bits);
  return steps * step_bytes(bits);
}

inline __mmask16 first(size_t n) {
  return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
}

inline __mmask64 first_bytes(size_t n) {
  return n >= 64 ? ~__mmask64(0) : (__mmask64(1) << n) - 1;
}

/// The largest of each run of 4 · P lanes, in all of them.
template <size_t P>
inline __m512 run_max(__m512 v) {
  v = _mm512_max_ps(v, _mm512_shuffle_ps(v, v, 0xb1));
  v = _mm512_max_ps(v, _mm512_shuffle_ps(v, v, 0x4e));
  if constexpr (P >= 2) {
    v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  }
  if constexpr (P >= 4) {
    v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
  }
  return v;
}

template <int bits>
void arrange_as(unsigned char* out, float* sums, const float* x, size_t k, size_t group) {
  constexpr size_t P = codes_in_byte(bits);
  constexpr size_t E = step_elements(bits);
  __m512 total = _mm512_setzero_ps();
  for (size_t base = 0; base < k; base += E, out += step_bytes(bits)) {
    alignas(64) signed char high[E], low[E];
    float* scales = reinterpret_cast<float*>(out + 128 * P);
    for (size_t i = 0; i < E; i += 16) {
      const size_t left = base + i < k ? k - base - i : 0;
      const __m512 v = _mm512_maskz_loadu_ps(first(left), x + base + i);
      const __m512 top = run_max<P>(_mm512_abs_ps(v));
      // Infinities and NaNs make the scale, and with it the result, NaN.
      const __m512 zero = _mm512_mul_ps(v, _mm512_setzero_ps());
      const __mmask16 odd = _mm512_cmp_ps_mask(zero, zero, _CMP_UNORD_Q);
      const __m512 scale = _mm512_mul_ps(top, _mm512_set1_ps(1.0f / 32512.0f));
      const __m512 by = _mm512_div_ps(_mm512_set1_ps(32512.0f), top);
      const __mmask16 some = _mm512_cmp_ps_mask(top, _mm512_set1_ps(0x1p-100f), _CMP_GT_OQ);
      const __m512i q = _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(v, by));
      // The sums are of the rounded values, so that the offsets of the weights cancel.
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), scale, total);
      if ((base + i + 16) % group == 0 && base + i < k) {
        *sums++ = _mm512_reduce_add_ps(total);
        total = _mm512_setzero_ps();
      }
      const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
      const __m512i l = _mm512_sub_epi32(q, _mm512_slli_epi32(h, 8));
      _mm_store_si128(reinterpret_cast<__m128i*>(high + i), _mm512_cvtepi32_epi8(h));
      _mm_store_si128(reinterpret_cast<__m128i*>(low + i), _mm512_cvtepi32_epi8(l));
      // One scale for each run.
      constexpr __mmask16 heads = P == 1 ? 0x1111 : P == 2 ? 0x0101 : 0x0001;
      float compact[16];
      _mm512_storeu_ps(compact, _mm512_maskz_compress_ps(heads, scale));
      for (size_t j = 0; j < 4 / P; ++j) {
        const bool bad = (odd >> (j * 4 * P)) & ((1u << (4 * P)) - 1);
        scales[i / (4 * P) + j] = bad ? __builtin_nanf("") : compact[j];
      }
    }
    if constexpr (P == 1) {
      __builtin_memcpy(out, high, 64);
      __builtin_memcpy(out + 64, low, 64);
    } else {
      for (size_t p = 0; p < P; ++p) {
        for (size_t part = 0; part < P; ++part) {
          unsigned char* to = out + p * 128 + part * (64 / P);
          const __m512i h = _mm512_load_si512(high + part * 64);
          const __m512i l = _mm512_load_si512(low + part * 64);
          if constexpr (P == 2) {
            _mm256_storeu_si256(
                reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(_mm512_srli_epi16(h, 8 * p)));
            _mm256_storeu_si256(
                reinterpret_cast<__m256i*>(to + 64),
                _mm512_cvtepi16_epi8(_mm512_srli_epi16(l, 8 * p)));
          } else {
            _mm_storeu_si128(
                reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_srli_epi32(h, 8 * p)));
            _mm_storeu_si128(
                reinterpret_cast<__m128i*>(to + 64),
                _mm512_cvtepi32_epi8(_mm512_srli_epi32(l, 8 * p)));
          }
        }
      }
    }
  }
}

void arrange(void* out, float* sums, const float* x, size_t k, int bits, size_t group) {
  auto* to = static_cast<unsigned char*>(out);
  switch (bits) {
    case 2:
      return arrange_as<2>(to, sums, x, k, group);
    case 4:
      return arrange_as<4>(to, sums, x, k, group);
    default:
      return arrange_as<8>(to, sums, x, k, group); // One code in a byte, whatever the bits.
  }
}

/// The numbers from `at` on in the lanes of the mask, zeros in the others.
template <Float type>
inline __m512 numbers(const void* p, size_t at, __mmask16 mask) {
  if constexpr (type == Float::f32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(p) + at);
  } else {
    const __m256i h =
        _mm256_maskz_loadu_epi16(mask, static_cast<const std::uint16_t*>(p) + at);
    if constexpr (type == Float::f16) {
      return _mm512_cvtph_ps(h);
    } else {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
  }
}

/// Where the bytes of eight codes lie, and by how much each code is shifted among them.
template <int bits>
struct Spread {
  alignas(64) unsigned char from[64];
  alignas(64) unsigned char shifts[64];

  constexpr Spread() : from(), shifts() {
    for (int i = 0; i < 64; ++i) {
      from[i] = i / 8 * bits + (i % 8 < bits ? i % 8 : 0);
      shifts[i] = i % 8 * bits;
    }
  }
};

/// 64 codes of a width that straddles bytes, one in each byte.
template <int bits>
inline __m512i spread_codes(__m512i packed) {
  static constexpr Spread<bits> spread;
  const __m512i eights = _mm512_permutexvar_epi8(_mm512_load_si512(spread.from), packed);
  const __m512i codes = _mm512_multishift_epi64_epi8(_mm512_load_si512(spread.shifts), eights);
  return _mm512_and_si512(codes, _mm512_set1_epi8((1 << bits) - 1));
}

/// What all rows of a product have in common.
template <int bits, Float type>
struct Shape {
  static constexpr size_t P = codes_in_byte(bits);
  static constexpr bool whole = bits == 2 || bits == 4 || bits == 8;
  static constexpr size_t bytes = whole ? 64 : 8 * bits; // of packed codes in a step
  static constexpr size_t size = type == Float::f32 ? 4 : 2;

  size_t row_bytes, steps; // of which the last may be short
  int group_shift;
  __m512i place; // where each lane finds its scale among those loaded for a step
  __mmask16 scales, last_scales;
  __mmask64 last_codes;

  explicit Shape(const IntegerDot& q) : row_bytes(q.words * 4) {
    steps = (row_bytes + bytes - 1) / bytes;
    group_shift = __builtin_ctzll(q.group);
    const size_t lanes = q.group / (4 * P); // that share a scale
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    place = lanes >= 16 ? _mm512_setzero_si512()
                        : _mm512_srlv_epi32(lane, _mm512_set1_epi32(__builtin_ctzll(lanes)));
    const size_t loaded = lanes >= 16 ? 1 : 16 / lanes;
    const size_t left = q.groups - group_of(steps - 1);
    scales = first(loaded);
    last_scales = first(left < loaded ? left : loaded);
    last_codes = first_bytes(row_bytes - (steps - 1) * bytes);
  }

  size_t group_of(size_t step) const {
    return step * step_elements(bits) >> group_shift;
  }

  static __m512i load(const unsigned char* codes) {
    return bytes == 64 ? _mm512_loadu_si512(codes)
                       : _mm512_maskz_loadu_epi8(first_bytes(bytes), codes);
  }
};

/// R rows of the matrix times M vectors.
template <int bits, Float type, size_t R, size_t M>
inline void some_rows(
    const IntegerDot& q, const Shape<bits, type>& shape, size_t row, size_t first_vector) {
  using S = Shape<bits, type>;
  constexpr size_t P = S::P;
  const unsigned char* codes[R];
  const char *scales[R], *biases[R];
  __m512 acc[R][M];
  for (size_t r = 0; r < R; ++r) {
    codes[r] = reinterpret_cast<const unsigned char*>(q.weights + (row + r) * q.words);
    scales[r] = static_cast<const char*>(q.scales) + (row + r) * q.groups * S::size;
    biases[r] = static_cast<const char*>(q.biases) + (row + r) * q.groups * S::size;
    for (size_t m = 0; m < M; ++m) {
      acc[r][m] = _mm512_setzero_ps();
    }
  }
  const unsigned char* x = static_cast<const unsigned char*>(q.x) + first_vector * q.x_stride;
  const auto step = [&](size_t at, auto load, __mmask16 scale_mask) {
    const unsigned char* xs = x + at * step_bytes(bits);
    const size_t g = shape.group_of(at);
#pragma GCC unroll 4
    for (size_t r = 0; r < R; ++r) {
      const __m512i packed = load(codes[r] + at * S::bytes);
      __m512i code[P];
      if constexpr (!S::whole) {
        code[0] = spread_codes<bits>(packed);
      } else if constexpr (bits == 8) {
        code[0] = packed;
      } else {
#pragma GCC unroll 4
        for (size_t p = 0; p < P; ++p) {
          code[p] = _mm512_and_si512(
              p == 0 ? packed : _mm512_srli_epi16(packed, p * bits),
              _mm512_set1_epi8((1 << bits) - 1));
        }
      }
      const __m512 scale =
          _mm512_permutexvar_ps(shape.place, numbers<type>(scales[r], g, scale_mask));
#pragma GCC unroll 4
      for (size_t m = 0; m < M; ++m) {
        const unsigned char* xm = xs + m * q.x_stride;
        __m512i high = _mm512_setzero_si512(), low = high;
#pragma GCC unroll 4
        for (size_t p = 0; p < P; ++p) {
          high = _mm512_dpbusd_epi32(high, code[p], _mm512_loadu_si512(xm + p * 128));
          low = _mm512_dpbusd_epi32(low, code[p], _mm512_loadu_si512(xm + p * 128 + 64));
        }
        const __m512i total = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
        const __m512 by = _mm512_mul_ps(
            scale, _mm512_loadu_ps(reinterpret_cast<const float*>(xm + 128 * P)));
        acc[r][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), by, acc[r][m]);
      }
    }
  };
  for (size_t at = 0; at + 1 < shape.steps; ++at) {
    step(at, S::load, shape.scales);
    _mm_prefetch(reinterpret_cast<const char*>(codes[0] + at * S::bytes + 4096), _MM_HINT_T1);
    if constexpr (R > 1) {
      _mm_prefetch(reinterpret_cast<const char*>(codes[1] + at * S::bytes + 4096), _MM_HINT_T1);
    }
  }
  step(
      shape.steps - 1,
      [&](const unsigned char* p) { return _mm512_maskz_loadu_epi8(shape.last_codes, p); },
      shape.last_scales);
  const float* sums = q.sums + first_vector * q.groups;
  for (size_t g = 0; g < q.groups; g += 16) {
    const __mmask16 mask = first(q.groups - g);
    for (size_t m = 0; m < M; ++m) {
      const __m512 sum = _mm512_maskz_loadu_ps(mask, sums + m * q.groups + g);
      for (size_t r = 0; r < R; ++r) {
        acc[r][m] = _mm512_fmadd_ps(numbers<type>(biases[r], g, mask), sum, acc[r][m]);
      }
    }
  }
  for (size_t r = 0; r < R; ++r) {
    for (size_t m = 0; m < M; ++m) {
      q.out[(first_vector + m) * q.out_stride + row + r] = _mm512_reduce_add_ps(acc[r][m]);
    }
  }
}

template <int bits, Float type, size_t M>
void rows_of(const IntegerDot& q, size_t first_vector) {
  const Shape<bits, type> shape(q);
  constexpr size_t R = M == 1 ? 2 : 1;
  size_t row = 0;
  for (; row + R <= q.rows; row += R) {
    some_rows<bits, type, R, M>(q, shape, row, first_vector);
  }
  for (; row < q.rows; ++row) {
    some_rows<bits, type, 1, M>(q, shape, row, first_vector);
  }
}

template <int bits, Float type>
void dot_typed(const IntegerDot& q) {
  size_t m = 0;
  for (; m + 4 <= q.m; m += 4) {
    rows_of<bits, type, 4>(q, m);
  }
  switch (q.m - m) {
    case 3:
      return rows_of<bits, type, 3>(q, m);
    case 2:
      return rows_of<bits, type, 2>(q, m);
    case 1:
      return rows_of<bits, type, 1>(q, m);
    default:
      return;
  }
}

template <int bits>
void dot_as(const IntegerDot& q) {
  switch (q.scale_type) {
    case Float::f32:
      return dot_typed<bits, Float::f32>(q);
    case Float::f16:
      return dot_typed<bits, Float::f16>(q);
    case Float::bf16:
      return dot_typed<bits, Float::bf16>(q);
  }
}

void dot(const IntegerDot& q) {
  switch (q.bits) {
    case 1:
      return dot_as<1>(q);
    case 2:
      return dot_as<2>(q);
    case 3:
      return dot_as<3>(q);
    case 4:
      return dot_as<4>(q);
    case 5:
      return dot_as<5>(q);
    case 6:
      return dot_as<6>(q);
    case 8:
      return dot_as<8>(q);
    default:
      return;
  }
}

constexpr IntegerKernels table = {arranged_bytes, arrange, dot};

} // namespace

const shim::cpu::IntegerKernels* const shim::cpu::integer_vnni = &table;
#else
#include "kernels.hpp"

const shim::cpu::IntegerKernels* const shim::cpu::integer_vnni = nullptr;
#endif
