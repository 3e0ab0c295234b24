// Included by kernels.inl: codes in E2M1 (fp4) and E4M3 (fp8), as the OCP Microscaling
// specification has them, and what products with packed matrices need besides.

using shim::cpu::Code;
using shim::cpu::CodedDot;
using shim::cpu::Scale;

// A vector of floats with as many words, whatever the lanes.
template <typename V, typename U>
inline V fp4_of(U codes) {
  const U size = codes & 7;
  // A zero exponent has no leading one. It is added and taken away again: processors stumble over
  // subnormal floats.
  const U small = (U)(size < 2);
  const U bits = (size << 22) + ((small & (1u << 23)) + (126u << 23));
  const U one = small & 0x3f800000u;
  V value, less;
  std::memcpy(&value, &bits, sizeof value);
  std::memcpy(&less, &one, sizeof less);
  value -= less;
  U result;
  std::memcpy(&result, &value, sizeof result);
  result |= (codes & 8) << 28;
  std::memcpy(&value, &result, sizeof value);
  return value;
}

/// Code j of each word.
inline Vec fp4_position(Words words, size_t j) {
  const Words codes = words >> (std::uint32_t)(4 * j);
#if defined(__AVX512F__)
  const __m512 table = _mm512_setr_ps(
      0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f,
      -4.0f, -6.0f);
  return (Vec)_mm512_permutexvar_ps((__m512i)codes, table);
#elif defined(__AVX2__)
  const __m256 table = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256 size = _mm256_permutevar8x32_ps(table, (__m256i)codes);
  const __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32((__m256i)codes, 3), 31);
  return (Vec)_mm256_xor_ps(size, _mm256_castsi256_ps(sign));
#else
  return fp4_of<Vec, Words>(codes);
#endif
}

void decode_fp4(float* out, const std::uint32_t* words, size_t n) {
  constexpr Eight shifts = {0, 4, 8, 12, 16, 20, 24, 28};
  for (size_t i = 0; i < n; i += 8) {
    const Eight codes = (Eight{} + words[i / 8]) >> shifts;
    const auto values = fp4_of<EightFloats, Eight>(codes);
    std::memcpy(out + i, &values, sizeof values);
  }
}

// What `fp8_at` leaves out, for the sums to be multiplied by once.
#if defined(__F16C__)
constexpr float fp8_factor = 256.0f;
#else
constexpr float fp8_factor = 1.0f;
#endif

#if defined(__F16C__)
/// The bits of half-precision floats 256 times smaller; NaN stays NaN.
template <typename S>
inline S fp8_halves(S codes) {
  const S size = codes & 127;
  return (size << 7) | (((size + 1) >> 7) << 14) | ((codes & 128) << 8);
}
#endif

/// W numbers over `fp8_factor`.
inline Vec fp8_at(const std::uint8_t* p) {
#if defined(__AVX512F__)
  typedef std::uint16_t Shorts __attribute__((vector_size(32)));
  const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return (Vec)_mm512_cvtph_ps((__m256i)fp8_halves((Shorts)codes));
#elif defined(__F16C__)
  typedef std::uint16_t Shorts __attribute__((vector_size(16)));
  const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return (Vec)_mm256_cvtph_ps((__m128i)fp8_halves((Shorts)codes));
#else
  typedef std::uint8_t Bytes __attribute__((vector_size(W)));
  Bytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  const Words codes = __builtin_convertvector(bytes, Words);
  const Words size = codes & 127;
  const Words small = (Words)(size < 8);
  const Words bits = (size << 20) + ((small & (1u << 23)) + (120u << 23));
  const Words least = small & 0x3c800000u; // 2⁻⁶
  Vec value, less;
  std::memcpy(&value, &bits, sizeof value);
  std::memcpy(&less, &least, sizeof less);
  value -= less;
  Words result;
  std::memcpy(&result, &value, sizeof result);
  result |= ((Words)(size == 127) & 0x7fc00000u) | ((codes & 128) << 24);
  std::memcpy(&value, &result, sizeof value);
  return value;
#endif
}

void decode_fp8(float* out, const std::uint8_t* codes, size_t n) {
  size_t i = 0;
  for (; i + W <= n; i += W) {
    store(out + i, fp8_at(codes + i) * fp8_factor);
  }
  if (i < n) {
    std::uint8_t last[W] = {};
    float values[W];
    std::memcpy(last, codes + i, n - i);
    store(values, fp8_at(last) * fp8_factor);
    std::memcpy(out + i, values, (n - i) * sizeof(float));
  }
}

void decode(float* out, const std::uint32_t* row, Code code, int bits, size_t from, size_t n) {
  switch (code) {
    case Code::integer:
      return unpack(out, row, bits, from, n);
    case Code::fp4:
      return decode_fp4(out, row + from / 8, n);
    case Code::fp8:
      return decode_fp8(out, reinterpret_cast<const std::uint8_t*>(row) + from, n);
  }
}

void decode_scales(float* out, const void* in, Scale scale, size_t n) {
  const auto* bytes = static_cast<const std::uint8_t*>(in);
  switch (scale) {
    case Scale::f32:
      return to_f32(out, in, Float::f32, n);
    case Scale::f16:
      return to_f32(out, in, Float::f16, n);
    case Scale::bf16:
      return to_f32(out, in, Float::bf16, n);
    case Scale::e8m0:
      for (size_t i = 0; i < n; ++i) {
        // Exponent 0 is 2⁻¹²⁷, a subnormal float; 255 becomes infinity, as in MLX.
        const std::uint32_t exponent = std::uint32_t(bytes[i]) << 23;
        const std::uint32_t bits_of = exponent > 0x00400000u ? exponent : 0x00400000u;
        std::memcpy(out + i, &bits_of, sizeof bits_of);
      }
      return;
    case Scale::e4m3:
      return decode_fp8(out, bytes, n);
  }
}

void scale_groups(
    float* x, const float* scales, const float* biases, size_t group, size_t from, size_t n,
    Float type) {
  for (size_t i = 0; i < n; i += W) {
    store(x + i, load(x + i) * scales[(from + i) / group]);
  }
  if (biases == nullptr) {
    return;
  }
  if (type != Float::f32) {
    round_to(x, type, n);
  }
  for (size_t i = 0; i < n; i += W) {
    store(x + i, load(x + i) + biases[(from + i) / group]);
  }
}

template <size_t M>
void fp4_row(
    const CodedDot& q, const std::uint32_t* row, const float* scales, const float* x,
    float* totals) {
  const size_t each = q.group / 8;
  Vec acc[M] = {};
  size_t at = 0;
  const auto step = [&](Words words, size_t word) {
    Vec part[M] = {};
    const float* xs = x + word * 8;
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      const Vec v = fp4_position(words, j);
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

template <size_t M>
void fp8_row(
    const CodedDot& q, const std::uint32_t* row, const float* scales, const float* x,
    float* totals) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(row);
  Vec acc[M][2] = {};
  for (size_t g = 0; g < q.groups; ++g) {
    const Vec s = splat(scales[g]);
    for (size_t i = g * q.group; i < (g + 1) * q.group; i += 2 * W) {
      const Vec v0 = fp8_at(codes + i) * s, v1 = fp8_at(codes + i + W) * s;
#pragma GCC unroll 4
      for (size_t m = 0; m < M; ++m) {
        acc[m][0] += v0 * load(x + m * q.x_stride + i);
        acc[m][1] += v1 * load(x + m * q.x_stride + i + W);
      }
    }
  }
  for (size_t m = 0; m < M; ++m) {
    totals[m] = sum(acc[m][0] + acc[m][1]) * fp8_factor;
  }
}

template <size_t M>
void coded_rows(const CodedDot& q, size_t first) {
  float* scales = q.scratch;
  // Lanes past the last group are multiplied by zeros.
  std::memset(scales + q.groups, 0, 32 * sizeof(float));
  const float* x = static_cast<const float*>(q.x) + first * q.x_stride;
  for (size_t r = 0; r < q.rows; ++r) {
    decode_scales(scales, q.scales + r * q.groups, q.scale, q.groups);
    const std::uint32_t* row = q.weights + r * q.words;
    float totals[M];
    if (q.code == Code::fp4) {
      fp4_row<M>(q, row, scales, x, totals);
    } else {
      fp8_row<M>(q, row, scales, x, totals);
    }
    for (size_t m = 0; m < M; ++m) {
      q.out[(first + m) * q.out_stride + r] = totals[m];
    }
  }
}

void coded_dot(const CodedDot& q) {
  size_t m = 0;
  for (; m + 4 <= q.m; m += 4) {
    coded_rows<4>(q, m);
  }
  switch (q.m - m) {
    case 3:
      return coded_rows<3>(q, m);
    case 2:
      return coded_rows<2>(q, m);
    case 1:
      return coded_rows<1>(q, m);
    default:
      return;
  }
}

void add_scaled(
    float* out, size_t out_stride, const float* line, const float* by, size_t by_stride, size_t m,
    size_t n) {
  for (size_t i = 0; i < m; ++i) {
    const Vec factor = splat(by[i * by_stride]);
    float* to = out + i * out_stride;
    size_t j = 0;
    for (; j + W <= n; j += W) {
      store(to + j, load(to + j) + factor * load(line + j));
    }
    for (; j < n; ++j) {
      to[j] += by[i * by_stride] * line[j];
    }
  }
}

void add_products(float* out, const float* a, const float* b, size_t n) {
  size_t i = 0;
  for (; i + W <= n; i += W) {
    store(out + i, load(out + i) + load(a + i) * load(b + i));
  }
  for (; i < n; ++i) {
    out[i] += a[i] * b[i];
  }
}

constexpr shim::cpu::PackedKernels packed_table = {
    decode, decode_scales, scale_groups, coded_dot, add_scaled, add_products,
};
