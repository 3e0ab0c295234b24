// Element-wise operations on all threads, and activations in one pass instead of up to nine.
//
// In half precision activations round wherever the graph of MLX's operations does, so that a model
// gives the same numbers with these kernels and without.
#include "elementwise.hpp"

#include <algorithm>
#include <cmath>

#include "../record.hpp"
#include "fused.hpp"

namespace shim::cpu {
namespace {

/// Elements of one task.
constexpr std::size_t part = 2048;

/// Rows longer than this that repeat along the other operand are left to MLX.
constexpr std::size_t longest_period = 1 << 14;

const Elementwise& elementwise() {
  static const Elementwise* const chosen = kernels() == kernels_avx512 ? elementwise_avx512
      : kernels() == kernels_avx2                                      ? elementwise_avx2
                                                                       : elementwise_portable;
  return *chosen;
}

/// Calls `each(at, count, thread)` for parts of `size` elements.
template <typename Each>
void for_parts(std::size_t size, std::size_t step, bool parallel, Each&& each) {
  for_each((size + step - 1) / step, parallel, [&](std::size_t task, std::size_t thread) {
    each(task * step, std::min(step, size - task * step), thread);
  });
}

/// Whether two arrays hold their elements in the same order without gaps.
bool alike(const mx::array& a, const mx::array& b) {
  return (a.flags().row_contiguous && b.flags().row_contiguous) ||
      (a.flags().contiguous && b.flags().contiguous && a.strides() == b.strides());
}

/// Gives `out` the layout of `in`, and its memory if nothing else needs that.
void allocate_like(const mx::array& in, mx::array& out) {
  if (in.is_donatable() && in.itemsize() == out.itemsize()) {
    out.copy_shared_buffer(in);
  } else {
    out.set_data(
        mx::allocator::malloc(in.data_size() * out.itemsize()), in.data_size(), in.strides(),
        in.flags());
  }
}

/// A number as elements of `type` hold it.
mx::array number(double value, const mx::array& like) {
  return mx::array(value, like.dtype());
}

/// What the activations mean, in operations that have kernels of their own.
mx::array activation_graph(Unary op, const mx::array& x, mx::Stream s) {
  const auto times = [&](const mx::array& a, double factor) {
    return multiply(a, number(factor, x), s);
  };
  switch (op) {
    case Unary::silu:
      return multiply(x, sigmoid(x, s), s);
    case Unary::gelu: {
      const auto share = add(erf(times(x, M_SQRT1_2), s), number(1, x), s);
      return divide(multiply(x, share, s), number(2, x), s);
    }
    case Unary::gelu_tanh: {
      const auto cubed = multiply(x, mx::square(x, s), s);
      const auto inner = times(add(x, times(cubed, 0.044715), s), std::sqrt(2 / M_PI));
      return multiply(times(x, 0.5), add(tanh(inner, s), number(1, x), s), s);
    }
    default:
      return multiply(x, sigmoid(times(x, 1.702), s), s);
  }
}

/// A function of each element.
class UnaryCpu : public Fused {
 public:
  UnaryCpu(mx::Stream s, Graph graph, Unary op) : Fused(s, std::move(graph)), op_(op) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const bool dense = inputs[0].flags().contiguous;
    if (dense) {
      allocate_like(inputs[0], out);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    const auto x = dense ? inputs[0] : in_order(encoder, inputs[0]);
    const Float type = *float_type(x.dtype());
    float* memory = type == Float::f32 ? nullptr : scratch(encoder, threads() * 3 * part);
    encoder.dispatch([op = op_,
                      k = kernels(),
                      from = x.data<char>(),
                      to = out.data<char>(),
                      size = x.data_size(),
                      type,
                      memory] {
      const std::size_t width = float_size(type);
      for_parts(size, part, size >= parallel_elements / 4, [&](auto at, auto count, auto thread) {
        const char* in = from + at * width;
        if (type == Float::f32) {
          elementwise().unary(
              op, reinterpret_cast<float*>(to + at * width), reinterpret_cast<const float*>(in),
              count);
          return;
        }
        float* line = memory + thread * 3 * part;
        k->to_f32(line, in, type, count);
        half(op, k, line, line + part, line + 2 * part, type, count);
        k->from_f32(to + at * width, line, type, count);
      });
    });
  }

  // The function of each element is the same whatever the axes.
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override;

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    return {multiply(cotangents[0], slope(primals, outputs[0], stream()), stream())};
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>&) override;

  // Graphs as text are the same on every device.
  const char* name() const override {
    switch (op_) {
      case Unary::exp:
        return "Exp";
      case Unary::erf:
        return "Erf";
      case Unary::tanh:
        return "Tanh";
      case Unary::sigmoid:
        return "Sigmoid";
      case Unary::silu:
        return "SiluCpu";
      case Unary::gelu:
        return "GeluCpu";
      case Unary::gelu_tanh:
        return "GeluTanhCpu";
      case Unary::gelu_sigmoid:
        return "GeluSigmoidCpu";
    }
    return "UnaryCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return op_ == static_cast<const UnaryCpu&>(other).op_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

 private:
  /// The steps of the graph, each rounded. The result replaces `x`.
  static void half(
      Unary op, const Kernels* k, float* x, float* a, float* b, Float type, std::size_t n) {
    const auto rounded = [&](float* to, auto&& value) {
      for (std::size_t i = 0; i < n; ++i) {
        to[i] = value(i);
      }
      k->round_to(to, type, n);
    };
    const auto constant = [&](double value) {
      float number = static_cast<float>(value);
      k->round_to(&number, type, 1);
      return number;
    };
    const auto function = [&](Unary f, float* to) {
      elementwise().unary(f, to, to, n);
      k->round_to(to, type, n);
    };
    switch (op) {
      case Unary::silu:
        std::copy(x, x + n, a);
        function(Unary::sigmoid, a);
        k->multiply(x, x, a, n);
        return;
      case Unary::gelu: {
        const float root = constant(M_SQRT1_2);
        rounded(a, [&](std::size_t i) { return x[i] * root; });
        function(Unary::erf, a);
        rounded(a, [&](std::size_t i) { return a[i] + 1.0f; });
        rounded(x, [&](std::size_t i) { return x[i] * a[i]; });
        rounded(x, [&](std::size_t i) { return x[i] * 0.5f; });
        return;
      }
      case Unary::gelu_tanh: {
        const float cubic = constant(0.044715), outer = constant(std::sqrt(2 / M_PI));
        rounded(a, [&](std::size_t i) { return x[i] * x[i]; });
        rounded(a, [&](std::size_t i) { return x[i] * a[i]; });
        rounded(a, [&](std::size_t i) { return a[i] * cubic; });
        rounded(a, [&](std::size_t i) { return x[i] + a[i]; });
        rounded(a, [&](std::size_t i) { return a[i] * outer; });
        function(Unary::tanh, a);
        rounded(a, [&](std::size_t i) { return a[i] + 1.0f; });
        rounded(b, [&](std::size_t i) { return x[i] * 0.5f; });
        rounded(x, [&](std::size_t i) { return b[i] * a[i]; });
        return;
      }
      case Unary::gelu_sigmoid: {
        const float factor = constant(1.702);
        rounded(a, [&](std::size_t i) { return x[i] * factor; });
        function(Unary::sigmoid, a);
        rounded(x, [&](std::size_t i) { return x[i] * a[i]; });
        return;
      }
      default:
        elementwise().unary(op, x, x, n);
        return;
    }
  }

  /// The derivative at each element, where it is short to say; else that of the graph.
  mx::array slope(
      const std::vector<mx::array>& primals, const mx::array& y, mx::Stream s) const {
    const auto& x = primals[0];
    const auto one = number(1, x);
    switch (op_) {
      case Unary::exp:
        return y;
      case Unary::erf:
        return multiply(exp(mx::negative(mx::square(x, s), s), s), number(M_2_SQRTPI, x), s);
      case Unary::tanh:
        return subtract(one, mx::square(y, s), s);
      case Unary::sigmoid:
        return multiply(y, subtract(one, y, s), s);
      default: {
        const auto graph = [op = op_, s](const std::vector<mx::array>& in) {
          return std::vector<mx::array>{activation_graph(op, in[0], s)};
        };
        return mx::vjp(graph, {x}, {mx::ones_like(x, s)}).second[0];
      }
    }
  }

  Unary op_;
};

mx::array unary(Unary op, const mx::array& x, Graph graph, mx::Stream s) {
  return mx::array(
      x.shape(), x.dtype(), std::make_shared<UnaryCpu>(s, std::move(graph), op),
      std::vector<mx::array>{x});
}

std::vector<mx::array> UnaryCpu::jvp(
    const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
    const std::vector<int>&) {
  const auto y = unary(op_, primals[0], graph_, stream());
  return {multiply(tangents[0], slope(primals, y, stream()), stream())};
}

std::pair<std::vector<mx::array>, std::vector<int>> UnaryCpu::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  return {{unary(op_, inputs[0], graph_, stream())}, axes};
}

bool fits(const mx::array& x, mx::Stream s) {
  return kernels_for(s) != nullptr && x.size() > 0 && float_type(x.dtype());
}

mx::array activation(Unary op, const mx::array& x, mx::Stream s) {
  const auto graph = [op, s](const std::vector<mx::array>& in) {
    return activation_graph(op, in[0], s);
  };
  if (!fits(x, s)) {
    // Numbers are to be of a floating-point type.
    const auto type = mx::issubdtype(x.dtype(), mx::inexact) ? x.dtype() : mx::float32;
    return graph({mx::astype(x, type, s)});
  }
  return unary(op, x, graph, s);
}

/// An operand of a binary operation: all elements, or a row of them that repeats.
struct Operand {
  const char* data;
  std::size_t period; // 0 for all elements

  /// `count` elements from `at` on, in `line` if they need a conversion.
  const float* read(
      const Kernels* k, Float type, const float* row, std::size_t at, std::size_t count,
      float* line) const {
    if (period != 0) {
      return row;
    }
    const char* from = data + at * float_size(type);
    if (type == Float::f32) {
      return reinterpret_cast<const float*>(from);
    }
    k->to_f32(line, from, type, count);
    return line;
  }

  /// Fills `row` with the period over and over.
  void repeat(const Kernels* k, Float type, float* row, std::size_t count) const {
    if (period != 0) {
      k->to_f32(row, data, type, period);
      for (std::size_t i = period; i < count; ++i) {
        row[i] = row[i - period];
      }
    }
  }
};

/// How many elements of `b` repeat along `a`, 0 if their shapes are equal.
std::optional<std::size_t> period_of(const mx::array& a, const mx::array& b) {
  if (a.shape() == b.shape()) {
    return 0;
  }
  std::size_t axis = b.ndim();
  std::size_t period = 1;
  for (; axis > 0; --axis) {
    const auto from = a.ndim() - (b.ndim() - axis);
    if (from == 0 || from > a.ndim() || b.shape(axis - 1) != a.shape(from - 1)) {
      break;
    }
    period *= b.shape(axis - 1);
  }
  for (; axis > 0; --axis) {
    if (b.shape(axis - 1) != 1 || a.ndim() < b.ndim()) {
      return std::nullopt;
    }
  }
  return period <= longest_period ? std::make_optional(period) : std::nullopt;
}

/// `a` broadcast to `shape`, in order.
mx::array expanded(mx::cpu::CommandEncoder& encoder, const mx::array& a, const mx::Shape& shape) {
  mx::Strides strides(shape.size(), 0);
  const auto ahead = shape.size() - a.ndim();
  for (std::size_t axis = 0; axis < a.ndim(); ++axis) {
    strides[ahead + axis] = a.shape(axis) == 1 ? 0 : a.strides(axis);
  }
  mx::array view(shape, a.dtype(), nullptr, {});
  view.copy_shared_buffer(
      a, std::move(strides), {.contiguous = false, .row_contiguous = false, .col_contiguous = false},
      a.data_size());
  return in_order(encoder, view);
}

class BinaryCpu : public Fused {
 public:
  BinaryCpu(mx::Stream s, Graph graph, Binary op) : Fused(s, std::move(graph)), op_(op) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    // A function compiled for all shapes may meet others than those that this was chosen for.
    const bool first_repeats = inputs[0].size() < inputs[1].size();
    const auto& whole = inputs[first_repeats ? 1 : 0];
    const auto& other = inputs[first_repeats ? 0 : 1];
    const auto found = whole.shape() == out.shape() ? period_of(whole, other) : std::nullopt;
    const std::size_t period = found.value_or(0);
    const bool as_is = found &&
        (period == 0 ? alike(whole, other) && whole.size() == whole.data_size()
                     : whole.flags().row_contiguous);
    const mx::array* over = nullptr;
    if (as_is && period == 0 && !whole.is_donatable() && other.is_donatable()) {
      over = &other;
    } else if (as_is) {
      over = &whole;
    }
    if (over != nullptr) {
      allocate_like(*over, out);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    const auto x = as_is ? whole
        : found          ? in_order(encoder, whole)
                         : expanded(encoder, whole, out.shape());
    const auto y = as_is && period == 0 ? other
        : found                         ? in_order(encoder, other)
                                        : expanded(encoder, other, out.shape());
    Operand a{x.data<char>(), 0}, b{y.data<char>(), period};
    if (first_repeats) {
      std::swap(a, b);
    }
    // Whole periods in each task.
    const std::size_t step = period == 0 ? part : period * std::max<std::size_t>(1, part / period);
    float* memory = scratch(encoder, step + threads() * 3 * step);
    encoder.dispatch([op = op_,
                      k = kernels(),
                      a,
                      b,
                      to = out.data<char>(),
                      type = *float_type(out.dtype()),
                      size = out.size(),
                      step,
                      memory] {
      a.repeat(k, type, memory, std::min(step, size));
      b.repeat(k, type, memory, std::min(step, size));
      for_parts(size, step, size >= parallel_elements, [&](auto at, auto count, auto thread) {
        float* line = memory + step + thread * 3 * step;
        const float* left = a.read(k, type, memory, at, count, line);
        const float* right = b.read(k, type, memory, at, count, line + step);
        char* place = to + at * float_size(type);
        if (type == Float::f32) {
          elementwise().binary(op, reinterpret_cast<float*>(place), left, right, count);
          return;
        }
        elementwise().binary(op, line + 2 * step, left, right, count);
        k->from_f32(place, line + 2 * step, type, count);
      });
    });
  }

  const char* name() const override {
    switch (op_) {
      case Binary::add:
        return "AddCpu";
      case Binary::subtract:
        return "SubtractCpu";
      case Binary::multiply:
        return "MultiplyCpu";
      case Binary::divide:
        return "DivideCpu";
    }
    return "BinaryCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return op_ == static_cast<const BinaryCpu&>(other).op_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {mx::broadcast_shapes(inputs[0].shape(), inputs[1].shape())};
  }

 private:
  Binary op_;
};

template <typename Stock>
mx::array binary(
    Binary op, const mx::array& a, const mx::array& b, mx::Stream s, Stock&& stock) {
  const auto& whole = a.size() >= b.size() ? a : b;
  if (whole.size() < parallel_elements || a.dtype() != b.dtype() || !fits(a, s) ||
      !fits(b, s)) {
    return stock(a, b, s);
  }
  if (!period_of(whole, &whole == &b ? a : b)) {
    return stock(a, b, s);
  }
  auto graph = [stock, s](const std::vector<mx::array>& in) { return stock(in[0], in[1], s); };
  return mx::array(
      whole.shape(), whole.dtype(),
      std::make_shared<BinaryCpu>(s, std::move(graph), op),
      std::vector<mx::array>{a, b});
}

} // namespace

#define SHIM_UNARY(NAME)                                                          \
  mx::array NAME(const mx::array& a, mx::Stream s) {                              \
    const auto graph = [s](const std::vector<mx::array>& in) {                    \
      return mx::NAME(in[0], s);                                                  \
    };                                                                            \
    return fits(a, s) ? unary(Unary::NAME, a, graph, s) : mx::NAME(a, s);         \
  }
SHIM_UNARY(exp)
SHIM_UNARY(erf)
SHIM_UNARY(tanh)
SHIM_UNARY(sigmoid)
#undef SHIM_UNARY

mx::array silu(const mx::array& x, mx::Stream s) {
  return activation(Unary::silu, x, s);
}

mx::array gelu(const mx::array& x, mx::Stream s) {
  return activation(Unary::gelu, x, s);
}

mx::array gelu_tanh(const mx::array& x, mx::Stream s) {
  return activation(Unary::gelu_tanh, x, s);
}

mx::array gelu_sigmoid(const mx::array& x, mx::Stream s) {
  return activation(Unary::gelu_sigmoid, x, s);
}

mx::array add(const mx::array& a, const mx::array& b, mx::Stream s) {
  return binary(Binary::add, a, b, s, [](const auto& a, const auto& b, auto s) {
    return shim::add(a, b, s);
  });
}

#define SHIM_BINARY(NAME)                                                         \
  mx::array NAME(const mx::array& a, const mx::array& b, mx::Stream s) {          \
    return binary(Binary::NAME, a, b, s, [](const auto& a, const auto& b, auto s) { \
      return mx::NAME(a, b, s);                                                   \
    });                                                                           \
  }
SHIM_BINARY(subtract)
SHIM_BINARY(multiply)
SHIM_BINARY(divide)
#undef SHIM_BINARY

} // namespace shim::cpu
