// Element-wise functions: included by kernels.inl in its namespace.

using shim::cpu::Binary;
using shim::cpu::Elementwise;
using shim::cpu::Unary;

/// `size` with the signs of `x`.
inline Vec with_sign(Vec size, Vec x) {
  Words s, w;
  std::memcpy(&s, &size, sizeof s);
  std::memcpy(&w, &x, sizeof w);
  w = (s & 0x7fffffffu) | (w & 0x80000000u);
  Vec v;
  std::memcpy(&v, &w, sizeof v);
  return v;
}

inline Vec magnitude(Vec x) {
  return with_sign(x, Vec{});
}

/// Within 1.3e-7 of the error function. The coefficients are minimax fits: of erf(x) / x in x² up
/// to 0.95, and beyond of the logarithm of 1 − erf(x) up to 4, where erf rounds to 1.
inline Vec error_function(Vec x) {
  const Vec size = magnitude(x);
  const Vec a = select(size > splat(4.0f), splat(4.0f), size);
  const Vec u = a * a;
  Vec near = splat(0x1.574ec6p-14f);
  near = near * u - 0x1.a88d8ap-11f;
  near = near * u + 0x1.549664p-8f;
  near = near * u - 0x1.b80962p-6f;
  near = near * u + 0x1.ce2dcap-4f;
  near = near * u - 0x1.812742p-2f;
  near = near * u + 0x1.20dd76p+0f;
  Vec far = splat(-0x1.580ea4p-22f);
  far = far * a - 0x1.1f9588p-16f;
  far = far * a + 0x1.b1d1a6p-12f;
  far = far * a - 0x1.0d6616p-8f;
  far = far * a + 0x1.99cfe6p-6f;
  far = far * a - 0x1.bb09dep-4f;
  far = far * a - 0x1.44501cp-1f;
  far = far * a - 0x1.212610p+0f;
  far = far * a + 0x1.657716p-13f;
  return with_sign(select(a < splat(0.95f), near * a, 1.0f - exponential(far)), x);
}

/// Within two units in the last place. Small arguments have a minimax fit of tanh(x) / x in x².
inline Vec hyperbolic_tangent(Vec x) {
  const Vec size = magnitude(x);
  const Vec a = select(size > splat(10.0f), splat(10.0f), size);
  const Vec u = a * a;
  Vec near = splat(-0x1.72eedcp-8f);
  near = near * u + 0x1.515cdep-6f;
  near = near * u - 0x1.b8153ep-5f;
  near = near * u + 0x1.110580p-3f;
  near = near * u - 0x1.555524p-2f;
  near = near * u + 1.0f;
  const Vec far = 1.0f - 2.0f / (exponential(a + a) + 1.0f);
  return with_sign(select(a < splat(0.625f), near * a, far), x);
}

template <Unary op>
inline Vec apply(Vec x) {
  if constexpr (op == Unary::exp) {
    return exponential(x);
  } else if constexpr (op == Unary::erf) {
    return error_function(x);
  } else if constexpr (op == Unary::tanh) {
    return hyperbolic_tangent(x);
  } else if constexpr (op == Unary::sigmoid) {
    return 1.0f / (exponential(-x) + 1.0f);
  } else if constexpr (op == Unary::silu) {
    return x / (exponential(-x) + 1.0f);
  } else if constexpr (op == Unary::gelu) {
    return x * 0.5f * (error_function(x * 0x1.6a09e6p-1f) + 1.0f);
  } else if constexpr (op == Unary::gelu_tanh) {
    const Vec inner = (x + x * x * x * 0.044715f) * 0x1.988454p-1f;
    return x * 0.5f * (hyperbolic_tangent(inner) + 1.0f);
  } else {
    static_assert(op == Unary::gelu_sigmoid);
    return x / (exponential(x * -1.702f) + 1.0f);
  }
}

template <Unary op>
void map(float* out, const float* x, size_t n) {
  size_t i = 0;
  for (; i + W <= n; i += W) {
    store(out + i, apply<op>(load(x + i)));
  }
  if (i < n) {
    store_part(out + i, apply<op>(load_part(x + i, n - i, 0)), n - i);
  }
}

void unary(Unary op, float* out, const float* x, size_t n) {
  switch (op) {
    case Unary::exp:
      return map<Unary::exp>(out, x, n);
    case Unary::erf:
      return map<Unary::erf>(out, x, n);
    case Unary::tanh:
      return map<Unary::tanh>(out, x, n);
    case Unary::sigmoid:
      return map<Unary::sigmoid>(out, x, n);
    case Unary::silu:
      return map<Unary::silu>(out, x, n);
    case Unary::gelu:
      return map<Unary::gelu>(out, x, n);
    case Unary::gelu_tanh:
      return map<Unary::gelu_tanh>(out, x, n);
    case Unary::gelu_sigmoid:
      return map<Unary::gelu_sigmoid>(out, x, n);
  }
}

template <Binary op>
void zip(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if constexpr (op == Binary::add) {
      out[i] = a[i] + b[i];
    } else if constexpr (op == Binary::subtract) {
      out[i] = a[i] - b[i];
    } else if constexpr (op == Binary::multiply) {
      out[i] = a[i] * b[i];
    } else {
      out[i] = a[i] / b[i];
    }
  }
}

void binary(Binary op, float* out, const float* a, const float* b, size_t n) {
  switch (op) {
    case Binary::add:
      return zip<Binary::add>(out, a, b, n);
    case Binary::subtract:
      return zip<Binary::subtract>(out, a, b, n);
    case Binary::multiply:
      return zip<Binary::multiply>(out, a, b, n);
    case Binary::divide:
      return zip<Binary::divide>(out, a, b, n);
  }
}

constexpr Elementwise elementwise_table = {unary, binary};
