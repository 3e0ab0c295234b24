// Products of few vectors with a quantised matrix, in integers: AVX2.
// CMakeLists.txt asks the compiler for the level.
//
// A vector is written as x = s · q with q of 16 bits and one scale s for the few elements that meet
// in a lane: close to f32 beside weights of 8 bits at most, and a few times faster than unpacking
// the weights to floats. Codes stay where they lie in their 16 bits: a code further left gives a
// product that is larger by a power of two, which a shift of the sum takes back exactly.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#include <cstring>

#include "kernels.hpp"

namespace {

using shim::cpu::Float;
using shim::cpu::IntegerDot;
using shim::cpu::IntegerKernels;
using std::size_t;

/// Codes in 16 bits; those that straddle bytes are brought there in pairs first.
constexpr size_t codes_in_word(int bits) {
  return bits == 2 ? 8 : bits == 4 ? 4 : 2;
}

/// Elements of a step: 16 words of codes.
constexpr size_t step_elements(int bits) {
  return 16 * codes_in_word(bits);
}

/// Bytes of an arranged vector for a step: for each code of a word, 16 numbers of 16 bits; then the
/// 8 scales of the lanes.
constexpr size_t step_bytes_of(size_t codes) {
  return 32 * codes + 32;
}

constexpr size_t step_bytes(int bits) {
  return step_bytes_of(codes_in_word(bits));
}

size_t arranged_bytes(size_t k, int bits) {
  const size_t steps = (k + step_elements(bits) - 1) / step_elements(bits);
  return (steps * step_bytes(bits) + 63) / 64 * 64;
}

inline float total(__m256 v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

inline __m128 largest(__m128 v) {
  v = _mm_max_ps(v, _mm_shuffle_ps(v, v, 0xb1));
  return _mm_max_ps(v, _mm_shuffle_ps(v, v, 0x4e));
}

inline int whole_sum(__m128i v) {
  v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

/// Two numbers of 16 bits in each lane.
inline __m128i pairs(__m128i low, __m128i high) {
  return _mm_blend_epi16(low, _mm_slli_epi32(high, 16), 0xaa);
}

/// `P` codes of a word, so 2 · P elements of a lane: the first P in the lower halves.
template <size_t P>
void arrange_as(unsigned char* out, float* sums, const float* x, size_t k, size_t group) {
  constexpr size_t run = 2 * P, quarters = run / 4;
  float sum = 0;
  for (size_t base = 0; base < k; base += 8 * run, out += step_bytes_of(P)) {
    alignas(32) int q[P][8] = {};
    alignas(32) float scales[8] = {};
    for (size_t lane = 0; lane < 8; ++lane) {
      const size_t at = base + lane * run;
      if (at >= k) { // Groups, and so rows, are multiples of a run.
        break;
      }
      __m128 v[quarters];
      __m128 top = _mm_setzero_ps(), odd = top;
      for (size_t i = 0; i < quarters; ++i) {
        v[i] = _mm_loadu_ps(x + at + 4 * i);
        top = _mm_max_ps(top, _mm_andnot_ps(_mm_set1_ps(-0.0f), v[i]));
        odd = _mm_add_ps(odd, _mm_mul_ps(v[i], _mm_setzero_ps()));
      }
      if (_mm_movemask_ps(_mm_cmpunord_ps(odd, odd)) != 0) {
        // Infinities and NaNs make the scale, and with it the result, NaN.
        scales[lane] = __builtin_nanf("");
        top = _mm_setzero_ps();
      }
      const float most = _mm_cvtss_f32(largest(top));
      if (most > 0x1p-100f) {
        const __m128 by = _mm_set1_ps(32767.0f / most);
        __m128i n[quarters];
        __m128i whole = _mm_setzero_si128();
        for (size_t i = 0; i < quarters; ++i) {
          n[i] = _mm_cvtps_epi32(_mm_mul_ps(v[i], by));
          whole = _mm_add_epi32(whole, n[i]);
        }
        scales[lane] = most * (1.0f / 32767.0f);
        // The sums are of the rounded values, so that the offsets of the weights cancel.
        sum += scales[lane] * static_cast<float>(whole_sum(whole));
        alignas(16) int both[4];
        if constexpr (P == 2) {
          const __m128i two = pairs(n[0], _mm_shuffle_epi32(n[0], 0x4e));
          _mm_store_si128(reinterpret_cast<__m128i*>(both), two);
          q[0][lane] = both[0];
          q[1][lane] = both[1];
        } else {
          for (size_t i = 0; i < P / 4; ++i) {
            const __m128i four = pairs(n[i], n[P / 4 + i]);
            _mm_store_si128(reinterpret_cast<__m128i*>(both), four);
            for (size_t j = 0; j < 4; ++j) {
              q[4 * i + j][lane] = both[j];
            }
          }
        }
      }
      if ((at + run) % group == 0) {
        *sums++ = sum;
        sum = 0;
      }
    }
    std::memcpy(out, q, sizeof q);
    std::memcpy(out + sizeof q, scales, sizeof scales);
  }
}

void arrange(void* out, float* sums, const float* x, size_t k, int bits, size_t group) {
  auto* to = static_cast<unsigned char*>(out);
  switch (codes_in_word(bits)) {
    case 8:
      return arrange_as<8>(to, sums, x, k, group);
    case 4:
      return arrange_as<4>(to, sums, x, k, group);
    default:
      return arrange_as<2>(to, sums, x, k, group);
  }
}

/// Eight numbers from `at` on.
template <Float type>
inline __m256 numbers(const void* p, size_t at) {
  if constexpr (type == Float::f32) {
    return _mm256_loadu_ps(static_cast<const float*>(p) + at);
  } else {
    const auto* h = static_cast<const std::uint16_t*>(p) + at;
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(h));
    if constexpr (type == Float::f16) {
      return _mm256_cvtph_ps(v);
    } else {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
    }
  }
}

/// `n` numbers from `at` on as floats, and zeros up to eight more. A call of memcpy would take longer
/// than a short row's products.
template <Float type>
inline void read(float* out, const void* p, size_t at, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, numbers<type>(p, at + i));
  }
  if (type == Float::f32) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i left = _mm256_set1_epi32(static_cast<int>(n - i));
    const __m256i mask = _mm256_cmpgt_epi32(left, lane);
    const float* from = static_cast<const float*>(p) + at + i;
    _mm256_storeu_ps(out + i, _mm256_maskload_ps(from, mask));
    return;
  }
  alignas(16) std::uint16_t rest[8] = {};
  const auto* from = static_cast<const std::uint16_t*>(p) + at + i;
  size_t done = 0;
  if ((n & 4) != 0) {
    std::memcpy(rest, from, 8);
    done = 4;
  }
  if ((n & 2) != 0) {
    std::memcpy(rest + done, from + done, 4);
    done += 2;
  }
  if ((n & 1) != 0) {
    rest[done] = from[done];
  }
  _mm256_storeu_ps(out + i, numbers<type>(rest, 0));
}

/// Where the two bytes lie that hold a pair of straddling codes, and the factor that shifts the pair
/// to the upper end of its word. Eight pairs take `2 · bits` bytes.
template <int bits>
struct Pairs {
  alignas(32) unsigned char from[32];
  alignas(32) short factors[16];

  constexpr Pairs() : from(), factors() {
    for (int i = 0; i < 16; ++i) {
      const int bit = i % 8 * 2 * bits;
      const bool inside = bit / 8 + 1 < 2 * bits;
      from[2 * i] = static_cast<unsigned char>(bit / 8);
      from[2 * i + 1] = inside ? static_cast<unsigned char>(bit / 8 + 1) : 0x80; // zero
      factors[i] = static_cast<short>(1 << (16 - 2 * bits - bit % 8));
    }
  }
};

/// The codes of a step in 16 words.
template <int bits>
inline __m256i words_of(const unsigned char* codes) {
  if constexpr (bits == 2 || bits == 4 || bits == 8) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  } else {
    static constexpr Pairs<bits> pairs;
    const auto* low = reinterpret_cast<const __m128i*>(codes);
    const auto* high = reinterpret_cast<const __m128i*>(codes + 2 * bits);
    const __m256i bytes = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);
    const __m256i words = _mm256_shuffle_epi8(
        bytes, _mm256_load_si256(reinterpret_cast<const __m256i*>(pairs.from)));
    return _mm256_mullo_epi16(
        words, _mm256_load_si256(reinterpret_cast<const __m256i*>(pairs.factors)));
  }
}

/// Bytes that `words_of` reads, of which a step's codes are the first.
template <int bits>
constexpr size_t bytes_read = bits == 2 || bits == 4 || bits == 8 ? 32 : 2 * bits + 16;

/// Code j of each word, further left by `place` bits.
template <int bits>
struct Codes {
  static constexpr size_t P = codes_in_word(bits);
  static constexpr bool straddling = bits != 2 && bits != 4 && bits != 8;
  /// The first code's place; the others follow.
  static constexpr int start = straddling ? 16 - 2 * bits : 0;

  static constexpr int place(size_t j) {
    return j + 1 == P ? 0 : start + static_cast<int>(j) * bits;
  }

  static __m256i at(__m256i words, size_t j) {
    if (j + 1 == P) {
      return _mm256_srli_epi16(words, 16 - bits);
    }
    const int mask = ((1 << bits) - 1) << place(j);
    return _mm256_and_si256(words, _mm256_set1_epi16(static_cast<short>(mask)));
  }
};

/// Groups whose scales are read at once.
constexpr size_t some_groups = 64;

/// Weights come from memory once in each step of a decode loop, faster than the processor would
/// fetch them unasked: how many bytes ahead to ask for codes, and for scales and biases.
constexpr size_t codes_ahead = 2048, scales_ahead = 512;

/// R rows of the matrix times M vectors.
template <int bits, Float type, size_t R, size_t M>
inline void some_rows(const IntegerDot& q, size_t row, size_t first) {
  using C = Codes<bits>;
  constexpr size_t P = C::P, E = step_elements(bits);
  constexpr size_t step_size = E * bits / 8;
  constexpr size_t size = type == Float::f32 ? 4 : 2;
  const size_t row_bytes = q.words * 4;
  // Steps that do not read past the row, and all of them.
  const size_t inside =
      row_bytes < bytes_read<bits> ? 0 : (row_bytes - bytes_read<bits>) / step_size + 1;
  const size_t steps = (row_bytes + step_size - 1) / step_size;
  const int shift = __builtin_ctzll(q.group) - __builtin_ctzll(E);
  const auto* codes = reinterpret_cast<const unsigned char*>(q.weights + row * q.words);
  const char* scales = static_cast<const char*>(q.scales) + row * q.groups * size;
  const char* biases = static_cast<const char*>(q.biases) + row * q.groups * size;
  const auto* x = static_cast<const unsigned char*>(q.x) + first * q.x_stride;
  const float* sums = q.sums + first * q.groups;
  __m256 acc[R][M];
  for (size_t r = 0; r < R; ++r) {
    for (size_t m = 0; m < M; ++m) {
      acc[r][m] = _mm256_setzero_ps();
    }
  }

  const auto step = [&](size_t r, __m256i words, __m256 scale, const unsigned char* xs) {
    __m256i code[P];
#pragma GCC unroll 8
    for (size_t j = 0; j < P; ++j) {
      code[j] = C::at(words, j);
    }
#pragma GCC unroll 4
    for (size_t m = 0; m < M; ++m) {
      const unsigned char* xm = xs + m * q.x_stride;
      const auto product = [&](size_t j) {
        const auto* numbers = reinterpret_cast<const __m256i*>(xm + 32 * j);
        return _mm256_madd_epi16(code[j], _mm256_loadu_si256(numbers));
      };
      // The last code lies at the right end of its word; the others come down there in turn.
      __m256i sum = product(P - 2);
#pragma GCC unroll 8
      for (size_t j = P - 2; j > 0; --j) {
        sum = _mm256_add_epi32(_mm256_srai_epi32(sum, C::place(j) - C::place(j - 1)), product(j - 1));
      }
      if constexpr (C::start != 0) {
        sum = _mm256_srai_epi32(sum, C::start);
      }
      sum = _mm256_add_epi32(sum, product(P - 1));
      const __m256 by =
          _mm256_mul_ps(scale, _mm256_loadu_ps(reinterpret_cast<const float*>(xm + 32 * P)));
      acc[r][m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), by, acc[r][m]);
    }
  };

  for (size_t g0 = 0; g0 < q.groups; g0 += some_groups) {
    const size_t count = q.groups - g0 < some_groups ? q.groups - g0 : some_groups;
    float line[R][some_groups + 8];
    for (size_t r = 0; r < R; ++r) {
      for (size_t at = 0; at < count * size; at += 64) {
        const size_t ahead = (r * q.groups + g0) * size + at + scales_ahead;
        _mm_prefetch(scales + ahead, _MM_HINT_T0);
        _mm_prefetch(biases + ahead, _MM_HINT_T0);
      }
      read<type>(line[r], scales + r * q.groups * size, g0, count);
    }
    const size_t from = g0 * q.group / E;
    const size_t to = g0 + count == q.groups ? steps : (g0 + count) * q.group / E;
    const size_t safe = inside < to ? inside : to;
    const auto run = [&](auto scale_of) {
      const unsigned char* here = codes + from * step_size;
      const unsigned char* xs = x + from * step_bytes(bits);
      size_t i = 0;
      for (; from + i < safe; ++i, here += step_size, xs += step_bytes(bits)) {
        _mm_prefetch(here + codes_ahead, _MM_HINT_T0);
        if constexpr (R == 2) {
          _mm_prefetch(here + row_bytes + codes_ahead, _MM_HINT_T0);
        }
#pragma GCC unroll 2
        for (size_t r = 0; r < R; ++r) {
          step(r, words_of<bits>(here + r * row_bytes), scale_of(line[r], i), xs);
        }
      }
      for (; from + i < to; ++i, here += step_size, xs += step_bytes(bits)) {
        const size_t left = row_bytes - (from + i) * step_size;
        for (size_t r = 0; r < R; ++r) {
          alignas(32) unsigned char last[64] = {};
          std::memcpy(last, here + r * row_bytes, left < step_size ? left : step_size);
          step(r, words_of<bits>(last), scale_of(line[r], i), xs);
        }
      }
    };
    if (shift == 0) {
      run([](const float* s, size_t i) { return _mm256_broadcast_ss(s + i); });
    } else if (shift > 0) {
      run([shift](const float* s, size_t i) { return _mm256_broadcast_ss(s + (i >> shift)); });
    } else if (shift == -1) {
      run([](const float* s, size_t i) {
        const __m128 two = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(s + 2 * i)));
        return _mm256_set_m128(_mm_shuffle_ps(two, two, 0x55), _mm_shuffle_ps(two, two, 0x00));
      });
    } else {
      run([](const float* s, size_t i) {
        const __m128 four = _mm_loadu_ps(s + 4 * i);
        return _mm256_set_m128(_mm_shuffle_ps(four, four, 0xfa), _mm_shuffle_ps(four, four, 0x50));
      });
    }
    for (size_t r = 0; r < R; ++r) {
      read<type>(line[r], biases + r * q.groups * size, g0, count);
      for (size_t m = 0; m < M; ++m) {
        const float* s = sums + m * q.groups + g0;
        size_t g = 0;
        for (; g + 8 <= count; g += 8) {
          acc[r][m] =
              _mm256_fmadd_ps(_mm256_loadu_ps(line[r] + g), _mm256_loadu_ps(s + g), acc[r][m]);
        }
        __m128 rest = _mm_setzero_ps();
        for (; g < count; ++g) {
          rest = _mm_fmadd_ss(_mm_load_ss(line[r] + g), _mm_load_ss(s + g), rest);
        }
        acc[r][m] = _mm256_add_ps(acc[r][m], _mm256_zextps128_ps256(rest));
      }
    }
  }
  for (size_t r = 0; r < R; ++r) {
    for (size_t m = 0; m < M; ++m) {
      q.out[(first + m) * q.out_stride + row + r] = total(acc[r][m]);
    }
  }
}

template <int bits, Float type, size_t M>
void rows_of(const IntegerDot& q, size_t first) {
  constexpr size_t R = M <= 2 ? 2 : 1;
  size_t row = 0;
  for (; row + R <= q.rows; row += R) {
    some_rows<bits, type, R, M>(q, row, first);
  }
  for (; row < q.rows; ++row) {
    some_rows<bits, type, 1, M>(q, row, first);
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

const shim::cpu::IntegerKernels* const shim::cpu::integer_avx2 = &table;
#else
#include "kernels.hpp"

const shim::cpu::IntegerKernels* const shim::cpu::integer_avx2 = nullptr;
#endif
