// Row-wise functions: the other half of kernels.inl, which includes this file in its namespace.

inline Vec select(Ints mask, Vec yes, Vec no) {
  return mask ? yes : no;
}

inline Vec larger(Vec a, Vec b) {
  return select(a > b, a, b);
}

inline float largest(Vec v) {
  float top = v[0];
  for (size_t i = 1; i < W; ++i) {
    top = v[i] > top ? v[i] : top;
  }
  return top;
}

/// e to the power of each element, within two units in the last place. Underflows to zero; NaN
/// stays NaN.
inline Vec exponential(Vec x) {
  const Vec low = splat(-87.33654f), high = splat(88.72283f);
  const Ints under = x < low, over = x > high;
  Vec v = select(under, low, x);
  v = select(over, high, v);
  // Adding this constant rounds to the nearest integer, which is left in the low bits.
  const Vec magic = splat(0x1.8p23f);
  const Vec shifted = v * 0x1.715476p+0f + magic;
  const Vec n = shifted - magic;
  const Vec r = v - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
  Vec p = splat(0x1.6850e4p-10f);
  p = p * r + 0x1.123bccp-7f;
  p = p * r + 0x1.555b98p-5f;
  p = p * r + 0x1.55548ep-3f;
  p = p * r + 0x1.fffff8p-2f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2ⁿ in two steps, since n reaches 128.
  const Ints whole = __builtin_convertvector(n, Ints);
  const Ints half = whole >> 1;
  const Ints first = (half + 127) << 23, second = (whole - half + 127) << 23;
  Vec a, b;
  std::memcpy(&a, &first, sizeof a);
  std::memcpy(&b, &second, sizeof b);
  const Vec y = p * a * b;
  return select(under, Vec{}, select(over, splat(__builtin_inff()), y));
}

/// The last `n` elements, with `rest` in the lanes after them.
inline Vec load_part(const float* p, size_t n, float rest) {
  Vec v = splat(rest);
  std::memcpy(&v, p, n * sizeof(float));
  return v;
}

inline void store_part(float* p, Vec v, size_t n) {
  std::memcpy(p, &v, n * sizeof(float));
}

inline Vec to_bfloat_and_back(Vec v) {
  Words w;
  std::memcpy(&w, &v, sizeof w);
  w = (w + 0x7fff + ((w >> 16) & 1)) & 0xffff0000u;
  Vec rounded;
  std::memcpy(&rounded, &w, sizeof rounded);
  return select(v == v, rounded, v);
}

void round_to(float* x, Float type, size_t n) {
  size_t i = 0;
  switch (type) {
    case Float::f32:
      return;
    case Float::f16: {
      std::uint16_t halves[64];
      for (; i < n; i += 64) {
        const size_t count = n - i < 64 ? n - i : 64;
        from_f32(halves, x + i, type, count);
        to_f32(x + i, halves, type, count);
      }
      return;
    }
    case Float::bf16:
      for (; i + W <= n; i += W) {
        store(x + i, to_bfloat_and_back(load(x + i)));
      }
      if (i < n) {
        store_part(x + i, to_bfloat_and_back(load_part(x + i, n - i, 0)), n - i);
      }
      return;
  }
}

void multiply(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    out[i] = a[i] * b[i];
  }
}

void rms_norm(float* out, const float* x, const float* w, size_t n, float eps) {
  Vec squares{};
  size_t i = 0;
  for (; i + W <= n; i += W) {
    const Vec v = load(x + i);
    squares += v * v;
  }
  float total = sum(squares);
  for (; i < n; ++i) {
    total += x[i] * x[i];
  }
  const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  for (i = 0; i + W <= n; i += W) {
    const Vec v = load(x + i) * scale;
    store(out + i, w == nullptr ? v : v * load(w + i));
  }
  for (; i < n; ++i) {
    out[i] = w == nullptr ? x[i] * scale : x[i] * scale * w[i];
  }
}

void layer_norm(
    float* out, const float* x, const float* w, const float* b, size_t n, float eps) {
  Vec totals{};
  size_t i = 0;
  for (; i + W <= n; i += W) {
    totals += load(x + i);
  }
  float total = sum(totals);
  for (; i < n; ++i) {
    total += x[i];
  }
  const float mean = total / static_cast<float>(n);
  Vec squares{};
  for (i = 0; i + W <= n; i += W) {
    const Vec v = load(x + i) - mean;
    squares += v * v;
  }
  total = sum(squares);
  for (; i < n; ++i) {
    total += (x[i] - mean) * (x[i] - mean);
  }
  const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  for (i = 0; i + W <= n; i += W) {
    Vec v = (load(x + i) - mean) * scale;
    v = w == nullptr ? v : v * load(w + i);
    store(out + i, b == nullptr ? v : v + load(b + i));
  }
  for (; i < n; ++i) {
    float v = (x[i] - mean) * scale;
    v = w == nullptr ? v : v * w[i];
    out[i] = b == nullptr ? v : v + b[i];
  }
}

void softmax(float* out, const float* x, size_t n, const float* sink) {
  const float lowest = -__builtin_inff();
  Vec tops = splat(lowest);
  size_t i = 0;
  for (; i + W <= n; i += W) {
    tops = larger(load(x + i), tops);
  }
  if (i < n) {
    tops = larger(load_part(x + i, n - i, lowest), tops);
  }
  float top = largest(tops);
  if (sink != nullptr && *sink > top) {
    top = *sink;
  }
  Vec totals{};
  for (i = 0; i + W <= n; i += W) {
    const Vec v = exponential(load(x + i) - top);
    totals += v;
    store(out + i, v);
  }
  if (i < n) {
    const Vec v = exponential(load_part(x + i, n - i, lowest) - top);
    totals += v;
    store_part(out + i, v, n - i);
  }
  float total = sum(totals);
  if (sink != nullptr) {
    total += exponential(splat(*sink - top))[0];
  }
  const float scale = 1.0f / total;
  for (i = 0; i + W <= n; i += W) {
    store(out + i, load(out + i) * scale);
  }
  for (; i < n; ++i) {
    out[i] *= scale;
  }
}

void swiglu(float* out, const float* gate, const float* x, size_t n) {
  const auto step = [](Vec g, Vec v) { return g / (exponential(-g) + 1.0f) * v; };
  size_t i = 0;
  for (; i + W <= n; i += W) {
    store(out + i, step(load(gate + i), load(x + i)));
  }
  if (i < n) {
    store_part(out + i, step(load_part(gate + i, n - i, 0), load_part(x + i, n - i, 0)), n - i);
  }
}

void sigmoid(float* out, const float* x, size_t n) {
  const auto step = [](Vec v) { return 1.0f / (exponential(-v) + 1.0f); };
  size_t i = 0;
  for (; i + W <= n; i += W) {
    store(out + i, step(load(x + i)));
  }
  if (i < n) {
    store_part(out + i, step(load_part(x + i, n - i, 0)), n - i);
  }
}

void rotate(
    float* out, const float* x, const float* cosines, const float* sines, size_t half,
    bool traditional) {
  if (traditional) {
    for (size_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      out[2 * i] = a * cosines[i] - b * sines[i];
      out[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
    return;
  }
  size_t i = 0;
  for (; i + W <= half; i += W) {
    const Vec a = load(x + i), b = load(x + half + i);
    const Vec c = load(cosines + i), s = load(sines + i);
    store(out + i, a * c - b * s);
    store(out + half + i, a * s + b * c);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = a * cosines[i] - b * sines[i];
    out[half + i] = a * sines[i] + b * cosines[i];
  }
}

/// Adds up W vectors: lane i of the result is the sum of vector i.
inline Vec sums(Vec* v) {
#if LANES == 16
  for (size_t i = 0; i < 8; ++i) {
    const __m512 a = (__m512)v[i], b = (__m512)v[i + 8];
    v[i] = (Vec)_mm512_shuffle_f32x4(a, b, 0x44) + (Vec)_mm512_shuffle_f32x4(a, b, 0xee);
  }
  for (size_t i = 0; i < 4; ++i) {
    const __m512 a = (__m512)v[i], b = (__m512)v[i + 4];
    v[i] = (Vec)_mm512_shuffle_f32x4(a, b, 0x88) + (Vec)_mm512_shuffle_f32x4(a, b, 0xdd);
  }
  for (size_t i = 0; i < 2; ++i) {
    const __m512 a = (__m512)v[i], b = (__m512)v[i + 2];
    v[i] = (Vec)_mm512_shuffle_ps(a, b, 0x44) + (Vec)_mm512_shuffle_ps(a, b, 0xee);
  }
  const __m512 a = (__m512)v[0], b = (__m512)v[1];
  const Vec mixed = (Vec)_mm512_shuffle_ps(a, b, 0x88) + (Vec)_mm512_shuffle_ps(a, b, 0xdd);
  // The steps above leave the sums in an order of their own.
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return (Vec)_mm512_permutexvar_ps(order, (__m512)mixed);
#else
  float totals[W];
  for (size_t i = 0; i < W; ++i) {
    totals[i] = sum(v[i]);
  }
  return load(totals);
#endif
}

template <Float type>
void scores_as(
    float* out, const float* q, const void* keys, size_t stride, size_t n, size_t d) {
  const size_t size = type == Float::f32 ? 4 : 2;
  const auto* row = static_cast<const char*>(keys);
  const size_t whole = d / W * W;
  size_t s = 0;
  for (; s + W <= n; s += W) {
    Vec acc[W] = {};
    for (size_t j = 0; j < whole; j += W) {
      const Vec x = load(q + j);
#pragma GCC unroll 16
      for (size_t i = 0; i < W; ++i) {
        acc[i] += x * load_as<type>(row + (s + i) * stride * size, j);
      }
    }
    Vec total = sums(acc);
    if (whole < d) {
      for (size_t i = 0; i < W; ++i) {
        for (size_t j = whole; j < d; ++j) {
          total[i] += q[j] * load_one<type>(row + (s + i) * stride * size, j);
        }
      }
    }
    store(out + s, total);
  }
  for (; s < n; ++s) {
    Vec acc{};
    for (size_t j = 0; j < whole; j += W) {
      acc += load(q + j) * load_as<type>(row + s * stride * size, j);
    }
    float total = sum(acc);
    for (size_t j = whole; j < d; ++j) {
      total += q[j] * load_one<type>(row + s * stride * size, j);
    }
    out[s] = total;
  }
}

void scores(
    float* out, const float* q, const void* keys, Float type, size_t stride, size_t n, size_t d) {
  switch (type) {
    case Float::f32:
      return scores_as<Float::f32>(out, q, keys, stride, n, d);
    case Float::f16:
      return scores_as<Float::f16>(out, q, keys, stride, n, d);
    case Float::bf16:
      return scores_as<Float::bf16>(out, q, keys, stride, n, d);
  }
}

template <Float type, size_t C>
void weighted_columns(
    float* out, const float* p, const char* values, size_t stride, size_t n, size_t from) {
  const size_t size = type == Float::f32 ? 4 : 2;
  Vec acc[2][C] = {};
  size_t s = 0;
  for (; s + 2 <= n; s += 2) {
    const char* row = values + s * stride * size;
    const Vec a = splat(p[s]), b = splat(p[s + 1]);
#pragma GCC unroll 8
    for (size_t c = 0; c < C; ++c) {
      acc[0][c] += a * load_as<type>(row, from + c * W);
      acc[1][c] += b * load_as<type>(row + stride * size, from + c * W);
    }
  }
  if (s < n) {
    for (size_t c = 0; c < C; ++c) {
      acc[0][c] += splat(p[s]) * load_as<type>(values + s * stride * size, from + c * W);
    }
  }
  for (size_t c = 0; c < C; ++c) {
    store(out + from + c * W, acc[0][c] + acc[1][c]);
  }
}

template <Float type>
void weighted_as(
    float* out, const float* p, const void* values, size_t stride, size_t n, size_t d) {
  const size_t size = type == Float::f32 ? 4 : 2;
  const auto* bytes = static_cast<const char*>(values);
  size_t j = 0;
  for (; j + 4 * W <= d; j += 4 * W) {
    weighted_columns<type, 4>(out, p, bytes, stride, n, j);
  }
  for (; j + W <= d; j += W) {
    weighted_columns<type, 1>(out, p, bytes, stride, n, j);
  }
  for (; j < d; ++j) {
    float total = 0;
    for (size_t s = 0; s < n; ++s) {
      total += p[s] * load_one<type>(bytes + s * stride * size, j);
    }
    out[j] = total;
  }
}

void weighted(
    float* out, const float* p, const void* values, Float type, size_t stride, size_t n,
    size_t d) {
  switch (type) {
    case Float::f32:
      return weighted_as<Float::f32>(out, p, values, stride, n, d);
    case Float::f16:
      return weighted_as<Float::f16>(out, p, values, stride, n, d);
    case Float::bf16:
      return weighted_as<Float::bf16>(out, p, values, stride, n, d);
  }
}

void softmax_columns(float* scores, size_t n, size_t seen, const float* sink, float* scales) {
  const Vec lowest = splat(-__builtin_inff());
  Ints lane;
  for (size_t i = 0; i < W; ++i) {
    lane[i] = static_cast<std::int32_t>(i);
  }
  for (size_t half = 0; half < 2; ++half) {
    float* column = scores + half * W;
    Vec top = sink == nullptr ? lowest : splat(*sink);
    const size_t all = seen < n ? seen : n;
    for (size_t s = 0; s < all; ++s) {
      top = larger(load(column + s * NR), top);
    }
    for (size_t s = all; s < n; ++s) {
      // Row `seen + i` is first seen by column i + 1.
      const Ints hidden = lane + std::int32_t(half * W) <= Ints{} + std::int32_t(s - seen);
      const Vec v = select(hidden, lowest, load(column + s * NR));
      store(column + s * NR, v);
      top = larger(v, top);
    }
    Vec total = sink == nullptr ? Vec{} : exponential(splat(*sink) - top);
    for (size_t s = 0; s < n; ++s) {
      const Vec v = exponential(load(column + s * NR) - top);
      store(column + s * NR, v);
      total += v;
    }
    store(scales + half * W, splat(1.0f) / total);
  }
}
