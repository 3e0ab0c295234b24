// Products of few vectors with fp4 codes, in integers: AVX-512 with VNNI and VBMI. CMakeLists.txt
// asks the compiler for the level.
//
// Twice a number in E2M1 is an integer from −12 to 12. With 12 added it is the unsigned byte that
// VNNI wants; the sums of each group of the vector, times 12, are taken away in the end. The
// vectors are arranged as in kernels_vnni.cpp.
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>

#include "kernels_packed.hpp"

namespace {

using shim::cpu::CodedDot;
using shim::cpu::Scale;
using std::size_t;

constexpr size_t step_codes = 128;
/// Of an arranged vector: high and low parts for both codes of 64 bytes, then 16 scales.
constexpr size_t step_bytes = 2 * 128 + 64;

inline __mmask16 first(size_t n) {
  return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
}

inline __mmask64 first_bytes(size_t n) {
  return n >= 64 ? ~__mmask64(0) : (__mmask64(1) << n) - 1;
}

/// The scales from `at` on in the lanes of the mask, and finite numbers in the others.
template <Scale scale>
inline __m512 numbers(const std::uint8_t* scales, size_t at, __mmask16 mask) {
  const __m128i bytes = _mm_maskz_loadu_epi8(mask, scales + at);
  if constexpr (scale == Scale::e8m0) {
    const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 23);
    return _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x00400000)));
  } else {
    const __m256i codes = _mm256_cvtepu8_epi16(bytes);
    const __m256i size = _mm256_and_si256(codes, _mm256_set1_epi16(127));
    const __m256i nan = _mm256_slli_epi16(
        _mm256_srli_epi16(_mm256_add_epi16(size, _mm256_set1_epi16(1)), 7), 14);
    const __m256i sign =
        _mm256_slli_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(128)), 8);
    const __m256i halves =
        _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(size, 7), nan), sign);
    return _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0f));
  }
}

template <Scale scale, size_t R, size_t M>
inline void some_rows(const CodedDot& q, size_t row, size_t first_vector) {
  const __m512i values = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m512i low_bits = _mm512_set1_epi8(15);
  constexpr size_t lanes = scale == Scale::e8m0 ? 4 : 2; // that share a scale
  constexpr size_t loaded = 16 / lanes;
  const __m512i place = _mm512_srli_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), lanes == 4 ? 2 : 1);
  const size_t row_bytes = q.words * 4;
  const size_t steps = (row_bytes + 63) / 64;

  const std::uint8_t *codes[R], *scales[R];
  __m512 acc[R][M];
  for (size_t r = 0; r < R; ++r) {
    codes[r] = reinterpret_cast<const std::uint8_t*>(q.weights + (row + r) * q.words);
    scales[r] = q.scales + (row + r) * q.groups;
    for (size_t m = 0; m < M; ++m) {
      acc[r][m] = _mm512_setzero_ps();
    }
  }
  const auto* x = static_cast<const unsigned char*>(q.x) + first_vector * q.x_stride;
  const auto step = [&](size_t at, __mmask64 code_mask, __mmask16 scale_mask) {
    const unsigned char* xs = x + at * step_bytes;
#pragma GCC unroll 2
    for (size_t r = 0; r < R; ++r) {
      const __m512i packed = _mm512_maskz_loadu_epi8(code_mask, codes[r] + at * 64);
      const __m512i even = _mm512_shuffle_epi8(values, _mm512_and_si512(packed, low_bits));
      const __m512i odd = _mm512_shuffle_epi8(
          values, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low_bits));
      const __m512 by_row =
          _mm512_permutexvar_ps(place, numbers<scale>(scales[r], at * loaded, scale_mask));
#pragma GCC unroll 4
      for (size_t m = 0; m < M; ++m) {
        const unsigned char* xm = xs + m * q.x_stride;
        __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), even, _mm512_loadu_si512(xm));
        __m512i low =
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), even, _mm512_loadu_si512(xm + 64));
        high = _mm512_dpbusd_epi32(high, odd, _mm512_loadu_si512(xm + 128));
        low = _mm512_dpbusd_epi32(low, odd, _mm512_loadu_si512(xm + 192));
        const __m512i total = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
        const __m512 by = _mm512_mul_ps(by_row, _mm512_loadu_ps(xm + 256));
        acc[r][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), by, acc[r][m]);
      }
    }
  };
  for (size_t at = 0; at + 1 < steps; ++at) {
    step(at, ~__mmask64(0), first(loaded));
    for (size_t r = 0; r < R; ++r) {
      _mm_prefetch(reinterpret_cast<const char*>(codes[r] + at * 64 + 4096), _MM_HINT_T1);
    }
  }
  // The last step may be short. The vector is zero there.
  const size_t left = q.groups - (steps - 1) * loaded;
  step(steps - 1, first_bytes(row_bytes - (steps - 1) * 64), first(left < loaded ? left : loaded));

  const float* sums = q.sums + first_vector * q.groups;
  for (size_t g = 0; g < q.groups; g += 16) {
    const __mmask16 mask = first(q.groups - g);
    for (size_t m = 0; m < M; ++m) {
      const __m512 sum = _mm512_mul_ps(
          _mm512_maskz_loadu_ps(mask, sums + m * q.groups + g), _mm512_set1_ps(-12.0f));
      for (size_t r = 0; r < R; ++r) {
        acc[r][m] = _mm512_fmadd_ps(numbers<scale>(scales[r], g, mask), sum, acc[r][m]);
      }
    }
  }
  for (size_t r = 0; r < R; ++r) {
    for (size_t m = 0; m < M; ++m) {
      q.out[(first_vector + m) * q.out_stride + row + r] = 0.5f * _mm512_reduce_add_ps(acc[r][m]);
    }
  }
}

template <Scale scale, size_t M>
void rows_of(const CodedDot& q, size_t first_vector) {
  constexpr size_t R = M == 1 ? 2 : 1;
  size_t row = 0;
  for (; row + R <= q.rows; row += R) {
    some_rows<scale, R, M>(q, row, first_vector);
  }
  for (; row < q.rows; ++row) {
    some_rows<scale, 1, M>(q, row, first_vector);
  }
}

template <Scale scale>
void dot_as(const CodedDot& q) {
  size_t m = 0;
  for (; m + 4 <= q.m; m += 4) {
    rows_of<scale, 4>(q, m);
  }
  switch (q.m - m) {
    case 3:
      return rows_of<scale, 3>(q, m);
    case 2:
      return rows_of<scale, 2>(q, m);
    case 1:
      return rows_of<scale, 1>(q, m);
    default:
      return;
  }
}

void dot(const CodedDot& q) {
  if (q.scale == Scale::e8m0) {
    dot_as<Scale::e8m0>(q);
  } else {
    dot_as<Scale::e4m3>(q);
  }
}

} // namespace

void (*const shim::cpu::fp4_vnni)(const CodedDot&) = dot;
#else
#include "kernels_packed.hpp"

void (*const shim::cpu::fp4_vnni)(const CodedDot&) = nullptr;
#endif
