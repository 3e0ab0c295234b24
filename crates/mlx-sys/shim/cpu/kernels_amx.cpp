// Products in tiles of bf16: AMX. CMakeLists.txt asks the compiler for the level.
//
// A block is 32 × 32 results in four tiles. Panels hold, for each 32 steps, two tiles of `a`, 16 rows
// of 32 steps, and two of each part of `b`, 16 pairs of steps of 16 columns.
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>

#include "kernels.hpp"

namespace {

using shim::cpu::Blocks;
using shim::cpu::Float;
using shim::cpu::TileKernels;
using std::size_t;

/// Steps of a tile, and of a packed panel.
constexpr size_t K = 32;
constexpr size_t DEPTH = 512;
constexpr size_t TILE = 1024; // bytes

struct alignas(64) Configuration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Configuration) == 64);

// A constant, because compilers do not see that the instruction reads all of it, and would leave
// out the writing of a variable.
constexpr Configuration configuration;

void enter() {
  _tile_loadconfig(&configuration);
}

void leave() {
  _tile_release();
}

/// 32 floats as bf16, and what that leaves of them.
struct Line {
  __m512i large, small;
};

inline __m512i narrowed(__m512 low, __m512 high) {
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

inline __m512 widened(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

template <int PARTS>
inline Line split(__m512 low, __m512 high) {
  Line line;
  line.large = narrowed(low, high);
  if constexpr (PARTS == 2) {
    const __m512 l = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(line.large)));
    const __m512 h = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(line.large, 1)));
    line.small = narrowed(l, h);
  } else {
    line.small = line.large;
  }
  return line;
}

inline __mmask16 first(size_t n) {
  return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
}

inline __mmask32 first_halves(size_t n) {
  return n >= 32 ? ~__mmask32(0) : (__mmask32(1) << n) - 1;
}

inline float one(const void* in, Float type, std::int64_t at) {
  if (type == Float::f32) {
    return static_cast<const float*>(in)[at];
  }
  const std::uint16_t h = static_cast<const std::uint16_t*>(in)[at];
  if (type == Float::f16) {
    return _cvtsh_ss(h);
  }
  const std::uint32_t bits = std::uint32_t(h) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}

/// `n` elements, at most 32, that lie `step` apart; the rest is zero.
template <int PARTS>
inline Line read(const void* in, Float type, std::int64_t at, std::int64_t step, size_t n) {
  if (step == 1) {
    if (type == Float::bf16) {
      const auto* from = static_cast<const std::uint16_t*>(in) + at;
      return {_mm512_maskz_loadu_epi16(first_halves(n), from), _mm512_setzero_si512()};
    }
    const __mmask16 low = first(n), high = n > 16 ? first(n - 16) : __mmask16(0);
    if (type == Float::f32) {
      const float* from = static_cast<const float*>(in) + at;
      return split<PARTS>(
          _mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from + 16));
    }
    const auto* from = static_cast<const std::uint16_t*>(in) + at;
    const __m512i halves = _mm512_maskz_loadu_epi16(first_halves(n), from);
    return split<PARTS>(
        _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
        _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
  }
  alignas(64) float values[32] = {};
  for (size_t p = 0; p < n; ++p) {
    values[p] = one(in, type, at + std::int64_t(p) * step);
  }
  return split<PARTS>(_mm512_load_ps(values), _mm512_load_ps(values + 16));
}

/// Each round turns the bits of (row, lane) by one place; after four, lanes are rows.
inline void transpose(__m512i (&v)[16]) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  for (int round = 0; round < 4; ++round) {
    __m512i next[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = _mm512_permutex2var_epi32(v[i], low, v[i + 8]);
      next[2 * i + 1] = _mm512_permutex2var_epi32(v[i], high, v[i + 8]);
    }
    __builtin_memcpy(v, next, sizeof next);
  }
}

void pack_a(
    void* out, const void* in, Float type, std::int64_t step, std::int64_t next, size_t steps,
    size_t count) {
  auto* to = static_cast<char*>(out);
  for (size_t p = 0; p < steps; p += K, to += 2 * TILE) {
    const size_t n = steps - p < K ? steps - p : K;
    for (size_t j = 0; j < 32; ++j) {
      const std::int64_t at = std::int64_t(p) * step + std::int64_t(j) * next;
      const __m512i line =
          j < count ? read<1>(in, type, at, step, n).large : _mm512_setzero_si512();
      _mm512_store_si512(to + j / 16 * TILE + j % 16 * 64, line);
    }
  }
}

template <int PARTS>
void pack_b(
    void* out, const void* in, Float type, std::int64_t step, std::int64_t next, size_t steps,
    size_t count) {
  auto* to = static_cast<char*>(out);
  for (size_t p = 0; p < steps; p += K) {
    const size_t n = steps - p < K ? steps - p : K;
    for (size_t tile = 0; tile < 2; ++tile, to += TILE) {
      const size_t from = 16 * tile;
      if (PARTS == 1 && type == Float::bf16 && next == 1) {
        // Neighbours in memory are columns: two steps are interleaved.
        const auto* halves = static_cast<const std::uint16_t*>(in) + from;
        const __mmask16 kept = count <= from ? __mmask16(0) : first(count - from);
        for (size_t pair = 0; pair < 16; ++pair) {
          const auto line = [&](size_t at) {
            const auto* line = halves + std::int64_t(p + at) * step;
            return _mm512_cvtepu16_epi32(
                _mm256_maskz_loadu_epi16(at < n ? kept : __mmask16(0), line));
          };
          _mm512_store_si512(
              to + pair * 64,
              _mm512_or_si512(line(2 * pair), _mm512_slli_epi32(line(2 * pair + 1), 16)));
        }
        continue;
      }
      __m512i large[16], small[16];
      for (size_t j = 0; j < 16; ++j) {
        Line line{_mm512_setzero_si512(), _mm512_setzero_si512()};
        if (from + j < count) {
          const std::int64_t at = std::int64_t(p) * step + std::int64_t(from + j) * next;
          line = read<PARTS>(in, type, at, step, n);
        }
        large[j] = line.large;
        small[j] = line.small;
      }
      transpose(large);
      for (size_t pair = 0; pair < 16; ++pair) {
        _mm512_store_si512(to + pair * 64, large[pair]);
      }
      if constexpr (PARTS == 2) {
        transpose(small);
        for (size_t pair = 0; pair < 16; ++pair) {
          _mm512_store_si512(to + 2 * TILE + pair * 64, small[pair]);
        }
      }
    }
    to += 2 * TILE * (PARTS - 1);
  }
}

template <int B>
void multiply(
    const void* a, const void* b, float* c, size_t ldc, size_t steps, bool accumulate) {
  const size_t stride = ldc * sizeof(float);
  // Nor do they see that loads of tiles read memory.
  asm volatile("" ::: "memory");
  if (accumulate) {
    _tile_loadd(0, c, stride);
    _tile_loadd(1, c + 16, stride);
    _tile_loadd(2, c + 16 * ldc, stride);
    _tile_loadd(3, c + 16 * ldc + 16, stride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const auto* from_a = static_cast<const char*>(a);
  const auto* from_b = static_cast<const char*>(b);
  for (size_t p = 0; p < steps; p += K) {
    _tile_loadd(4, from_a, 64);
    _tile_loadd(5, from_a + TILE, 64);
    if constexpr (B == 2) {
      _tile_loadd(6, from_b + 2 * TILE, 64);
      _tile_loadd(7, from_b + 3 * TILE, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_loadd(6, from_b, 64);
    _tile_loadd(7, from_b + TILE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    from_a += 2 * TILE;
    from_b += 2 * TILE * B;
  }
  _tile_stored(0, c, stride);
  _tile_stored(1, c + 16, stride);
  _tile_stored(2, c + 16 * ldc, stride);
  _tile_stored(3, c + 16 * ldc + 16, stride);
  asm volatile("" ::: "memory");
}

template <int B>
constexpr Blocks blocks = {
    32, 32, DEPTH, 32 * DEPTH * 2, B * 32 * DEPTH * 2, pack_a, pack_b<B>, multiply<B>, enter, leave,
};

constexpr TileKernels table = {blocks<1>, blocks<2>};

} // namespace

const shim::cpu::TileKernels* const shim::cpu::tiles_amx = &table;
#else
#include "kernels.hpp"

const shim::cpu::TileKernels* const shim::cpu::tiles_amx = nullptr;
#endif
