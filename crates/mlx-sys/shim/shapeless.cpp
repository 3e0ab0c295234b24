// Graphs that were traced for one shape and are replayed for another.
//
// MLX's shapeless replay gives each operation its new inputs and works out the shape of its
// result. It repeats none of the checks that building the operation would make: matrices need not
// fit, parts of a concatenation may overrun it, indices were limited to another length. So the
// graph of each call is looked through before anything is computed.
//
// A reduction over axes of size 1 stays in such a graph, because they may be longer next time; the
// kernels read past their plan when nothing is left to reduce.
#include "shapeless.hpp"

#include <algorithm>
#include <iterator>
#include <sstream>
#include <string_view>
#include <unordered_set>

namespace shim {

namespace {

using Shapes = std::vector<mx::Shape>;

/// Each element of the result comes from the elements at its place, so shapes must be equal.
constexpr std::string_view elementwise[] = {
    "Abs", "Add", "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTan2", "ArcTanh",
    "AsType", "BitwiseAnd", "BitwiseInvert", "BitwiseOr", "BitwiseXor", "Ceil", "Conjugate",
    "Contiguous", "Copy", "Cos", "Cosh", "Divide", "Equal", "Erf", "ErfInv", "Exp", "Expm1",
    "Floor", "FloorDivide", "Full", "GeluCpu", "GeluSigmoidCpu",
    "GeluTanhCpu", "Greater", "GreaterEqual", "Imag", "LeftShift", "Less",
    "LessEqual", "Log", "Log10", "Log1p", "Log2", "LogAddExp", "LogicalAnd", "LogicalNot",
    "LogicalOr", "Maximum", "Minimum", "Multiply", "NaNEqual", "Negative", "NotEqual", "Power",
    "Real", "Remainder", "RightShift", "Round", "Rsqrt", "Select", "Sigmoid", "Sign", "SiluCpu",
    "Sin",
    "Sinh", "Sqrt", "Square", "StopGradient", "Subtract", "SwigluCpu", "Tan", "Tanh",
};
/// The same, but an input may repeat along the result.
constexpr std::string_view repeating[] = {"AddCpu", "DivideCpu", "MultiplyCpu", "SubtractCpu"};
/// The same elements in another shape.
constexpr std::string_view rearranging[] = {
    "ExpandDims", "Flatten", "Reshape", "Squeeze", "Transpose", "Unflatten",
};
/// `mx::Reduce` by its kinds.
constexpr std::string_view reductions[] = {"And", "Max", "Min", "Or", "Prod", "Sum"};
/// Axes that shrink to one, or none that does.
constexpr std::string_view reducing[] = {
    "And", "ArgReduce", "ArgSort", "LogSumExp", "Max", "Min", "Or", "Prod", "Softmax",
    "SoftmaxCpu", "Sort", "Sum",
};
constexpr std::string_view normalising[] = {
    "LayerNorm", "LayerNormCpu", "RMSNorm", "RmsNormCpu",
};

template <size_t N>
bool contains(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool any_empty(const Shapes& shapes) {
  return std::any_of(shapes.begin(), shapes.end(), [](const mx::Shape& shape) {
    return std::find(shape.begin(), shape.end(), 0) != shape.end();
  });
}

size_t count(const mx::Shape& shape) {
  size_t product = 1;
  for (auto dim : shape) {
    product *= static_cast<size_t>(dim);
  }
  return product;
}

/// Whether `from` broadcasts to exactly `to`.
bool broadcasts(const mx::Shape& from, const mx::Shape& to) {
  if (from.size() > to.size()) {
    return false;
  }
  for (size_t axis = 1; axis <= from.size(); ++axis) {
    const auto dim = from[from.size() - axis];
    if (dim != 1 && dim != to[to.size() - axis]) {
      return false;
    }
  }
  return true;
}

/// Whether the shapes agree on all axes but `axis` and those after it.
bool same_before(const mx::Shape& a, const mx::Shape& b, size_t end) {
  return a.size() >= end && b.size() >= end && std::equal(a.begin(), a.begin() + end, b.begin());
}

bool fits_product(const Shapes& in, const mx::Shape& out) {
  const auto &a = in[0], &b = in[1];
  const size_t n = a.size();
  return n >= 2 && b.size() == n && same_before(a, b, n - 2) && a[n - 1] == b[n - 2] &&
      out.size() == n && same_before(a, out, n - 1) && out[n - 1] == b[n - 1] &&
      (in.size() < 3 || in[2] == out);
}

bool fits_concatenation(const Shapes& in, const mx::Shape& out) {
  size_t joined = 0;
  for (size_t axis = 0; axis < out.size(); ++axis) {
    int64_t sum = 0;
    bool equal = true;
    for (const auto& part : in) {
      if (part.size() != out.size()) {
        return false;
      }
      sum += part[axis];
      equal &= part[axis] == out[axis];
    }
    if (!equal) {
      ++joined;
      if (sum != out[axis]) {
        return false;
      }
    }
  }
  return joined <= 1;
}

bool fits_attention(const Shapes& in, const mx::Shape& out) {
  if (in.size() != 3) {
    return false;
  }
  const auto &q = in[0], &k = in[1], &v = in[2];
  if (q.size() != 4 || k.size() != 4 || v.size() != 4) {
    return false;
  }
  return q[0] == k[0] && q[0] == v[0] && k[1] == v[1] && q[1] % k[1] == 0 && k[2] == v[2] &&
      q[2] <= k[2] && q[3] == k[3] && out == mx::Shape{q[0], q[1], q[2], v[3]};
}

/// Whether only the first `moving` inputs differ from those traced.
bool rest_unchanged(const Shapes& now, const Shapes& then, size_t moving) {
  return now.size() == then.size() &&
      std::equal(now.begin() + std::min(moving, now.size()), now.end(),
                 then.begin() + std::min(moving, then.size()));
}

/// Whether an operation may run on other shapes than it was traced with.
bool fits(
    const mx::Primitive& primitive, const Shapes& in, const Shapes& outs, const TracedShapes* then) {
  const std::string_view name = primitive.name();
  const auto& out = outs[0];
  const auto all = [&](auto&& holds) { return std::all_of(in.begin(), in.end(), holds); };
  if (then == nullptr) {
    // MLX makes fused kernels after the trace.
    return dynamic_cast<const mx::Compiled*>(&primitive) != nullptr && std::all_of(outs.begin(), outs.end(), [&](const mx::Shape& o) { return o == out; }) &&
        all([&](const mx::Shape& shape) { return broadcasts(shape, out); });
  }
  if (name == "NumberOfElements") {
    return true;
  }
  if (in.empty() || outs.size() != 1) {
    return false;
  }
  if (contains(elementwise, name)) {
    return all([&](const mx::Shape& shape) { return shape == out; });
  }
  if (contains(repeating, name)) {
    return all([&](const mx::Shape& shape) { return broadcasts(shape, out); });
  }
  if (name == "Broadcast") {
    return broadcasts(in[0], out);
  }
  if (name == "BroadcastAxes") {
    return in[0].size() <= out.size() && broadcasts(in[0], out);
  }
  if (name == "Concatenate") {
    return fits_concatenation(in, out);
  }
  if (any_empty(in)) {
    return false;
  }
  if (contains(rearranging, name)) {
    return count(in[0]) == count(out);
  }
  if (contains(reducing, name)) {
    return in[0].size() == out.size() && std::equal(
        out.begin(), out.end(), in[0].begin(), [](int o, int i) { return o == 1 || o == i; });
  }
  if (contains(normalising, name)) {
    return in[0] == out && std::all_of(in.begin() + 1, in.end(), [&](const mx::Shape& shape) {
      return shape.empty() || (shape.size() == 1 && shape[0] == out.back());
    });
  }
  if (name == "Matmul" || name == "AddMM") {
    return in.size() >= 2 && fits_product(in, out);
  }
  if (name == "AttentionCpu" || name == "ScaledDotProductAttention") {
    return fits_attention(in, out);
  }
  if (name == "RoPE" || name == "RopeCpu") {
    const auto& x = in[0];
    return x == out && rest_unchanged(in, then->inputs, 1) && x.size() == then->inputs[0].size() &&
        x.back() == then->inputs[0].back() &&
        (in.size() < 2 || count(in[1]) == 1 || x[0] == then->inputs[0][0]);
  }
  if (name == "QuantizedMatmul" || name == "QuantizedMatmulCpu") {
    return in[0].back() == then->inputs[0].back() && in[1].size() == 2 &&
        rest_unchanged(in, then->inputs, 1) && same_before(in[0], out, in[0].size() - 1);
  }
  if (name == "Gather") {
    // Indices were limited to the traced length, and slices have the traced sizes.
    return in[0] == then->inputs[0] && std::all_of(in.begin() + 1, in.end(), [&](const auto& i) {
      return i == in[1];
    });
  }
  if (name == "GatherAxis") {
    const size_t axis = static_cast<const mx::GatherAxis&>(primitive).state();
    if (in[0].size() != in[1].size() || axis >= out.size() || in[1] != out ||
        in[0][axis] != then->inputs[0][axis]) {
      return false;
    }
    for (size_t other = 0; other < out.size(); ++other) {
      if (other != axis && in[0][other] != in[1][other]) {
        return false;
      }
    }
    return true;
  }
  return false;
}

/// Gives the operation's input as its result.
void skip(const mx::array& a) {
  const auto& in = a.inputs()[0];
  const auto stream = a.primitive().stream();
  const auto same = in.dtype() == a.dtype() ? mx::copy(in, stream) : mx::astype(in, a.dtype(), stream);
  a.primitive_ptr() = same.primitive_ptr();
}

Shapes shapes_of(const std::vector<mx::array>& arrays) {
  Shapes shapes;
  for (const auto& a : arrays) {
    shapes.push_back(a.shape());
  }
  return shapes;
}

/// Calls `visit` once for each operation between `inputs` and `outputs`.
template <typename Visit>
void each_operation(
    const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs, Visit&& visit) {
  std::unordered_set<std::uintptr_t> seen;
  for (const auto& input : inputs) {
    seen.insert(input.id());
  }
  std::vector<const mx::array*> open;
  const auto push = [&](const mx::array& a) {
    if (a.has_primitive() && seen.insert(a.id()).second) {
      for (const auto& sibling : a.siblings()) {
        seen.insert(sibling.id());
      }
      open.push_back(&a);
    }
  };
  for (const auto& output : outputs) {
    push(output);
  }
  while (!open.empty()) {
    const auto& a = *open.back();
    open.pop_back();
    visit(a);
    for (const auto& input : a.inputs()) {
      push(input);
    }
  }
}

bool same_arrays(const std::vector<mx::array>& a, const std::vector<mx::array>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.id() == y.id();
  });
}

/// The shapeless call that this thread is in.
struct Call {
  explicit Call(const std::vector<mx::array>* inputs) : inputs(inputs), outer(current) {
    current = this;
  }
  Call(const Call&) = delete;
  ~Call() {
    current = outer;
  }

  const std::vector<mx::array>* inputs;
  Call* outer;
  /// Whether MLX passed the arguments themselves on, rather than placeholders for a trace.
  bool plain = false;

  static thread_local Call* current;
};

thread_local Call* Call::current = nullptr;

void write(std::ostringstream& text, const Shapes& shapes) {
  for (size_t i = 0; i < shapes.size(); ++i) {
    text << (i > 0 ? ", " : "") << shapes[i];
  }
}

} // namespace

void Traces::record(
    const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs) {
  std::lock_guard lock(mutex_);
  std::erase_if(nodes_, [](const auto& node) { return node.second.primitive.expired(); });
  each_operation(inputs, outputs, [&](const mx::array& a) {
    nodes_[a.primitive_ptr().get()] = {
        a.primitive_ptr(), shapes_of(a.inputs()), shapes_of(a.outputs())};
  });
}

void Traces::check(
    const std::vector<mx::array>& inputs,
    const std::vector<mx::array>& outputs,
    const char* op,
    const char* advice) const {
  std::lock_guard lock(mutex_);
  each_operation(inputs, outputs, [&](const mx::array& a) {
    const auto found = nodes_.find(a.primitive_ptr().get());
    const bool known = found != nodes_.end() && !found->second.primitive.expired();
    const TracedShapes* then = known ? &found->second : nullptr;
    const auto in = shapes_of(a.inputs()), out = shapes_of(a.outputs());
    if (contains(reductions, a.primitive().name()) && in.size() == 1 && in[0] == out[0]) {
      skip(a);
      return;
    }
    if (then != nullptr && in == then->inputs && out == then->outputs) {
      return;
    }
    if (fits(a.primitive(), in, out, then)) {
      return;
    }
    std::ostringstream text;
    text << "[" << op << "] " << a.primitive().name() << " cannot be replayed for other shapes: inputs ";
    write(text, in);
    if (then != nullptr) {
      text << ", traced with ";
      write(text, then->inputs);
    }
    text << ". " << advice;
    throw std::invalid_argument(text.str());
  });
}

ArraysFunction shapeless(const ArraysFunction& f, std::uintptr_t id) {
  auto traces = std::make_shared<Traces>();
  auto traced = [f, traces](const std::vector<mx::array>& inputs) {
    Call* call = Call::current;
    const bool plain =
        call == nullptr || call->inputs == nullptr || same_arrays(*call->inputs, inputs);
    if (plain && call != nullptr) {
      call->plain = true;
    }
    // Calls from within are no part of this one.
    Call inside(nullptr);
    auto outputs = f(inputs);
    if (!plain) {
      traces->record(inputs, outputs);
    }
    return outputs;
  };
  auto compiled = mx::detail::compile(traced, id, true);
  return [compiled, traces](const std::vector<mx::array>& inputs) {
    Call call(&inputs);
    auto outputs = compiled(inputs);
    if (!call.plain) {
      traces->check(inputs, outputs, "compile", "Compile this function without `shapeless`");
    }
    return outputs;
  };
}

} // namespace shim
