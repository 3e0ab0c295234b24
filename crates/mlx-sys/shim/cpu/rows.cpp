// Operations on the rows of an array: norms, softmax, and the gated activation.
//
// In half precision they round wherever MLX's graph does, so that a model gives the same numbers
// with these kernels and without.
#include <cmath>

#include "fused.hpp"

namespace shim::cpu {
namespace {

/// Applies `row(out, x, thread)` to rows of `n` elements, in f32.
struct RowTask {
  const Kernels* k;
  const char* x;
  Float x_type;
  char* out;
  Float out_type;
  std::size_t rows, n;
  float* memory; // one row for each thread where a conversion is needed

  static std::size_t floats(std::size_t n) {
    return threads() * n;
  }

  template <typename Row>
  void run(Row&& row) const {
    // A task of about this many elements is worth the counting.
    const std::size_t each = std::max<std::size_t>(1, 4096 / n);
    const std::size_t tasks = (rows + each - 1) / each;
    for_each(tasks, rows * n >= parallel_elements, [&](std::size_t task, std::size_t thread) {
      const std::size_t end = std::min(rows, (task + 1) * each);
      for (std::size_t i = task * each; i < end; ++i) {
        const char* from = x + i * n * float_size(x_type);
        char* to = out + i * n * float_size(out_type);
        if (x_type == Float::f32 && out_type == Float::f32) {
          row(reinterpret_cast<float*>(to), reinterpret_cast<const float*>(from));
          continue;
        }
        float* line = memory + thread * n;
        k->to_f32(line, from, x_type, n);
        row(line, line);
        k->from_f32(to, line, out_type, n);
      }
    });
  }
};

class Norm : public Fused {
 public:
  /// Inputs: x, then a weight, then a bias, if there are any.
  Norm(mx::Stream s, Graph graph, bool centred, float eps)
      : Fused(s, std::move(graph)), centred_(centred), eps_(eps) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const std::size_t n = inputs[0].shape(-1);
    allocate_over(inputs[0], out);
    const auto x = in_order(encoder, inputs[0]);
    Floats w, b;
    if (inputs.size() > 1) {
      w = Floats(in_order(encoder, inputs[1]));
    }
    if (inputs.size() > 2) {
      b = Floats(in_order(encoder, inputs[2]));
    }
    float* memory = scratch(encoder, RowTask::floats(n) + 2 * n);
    const RowTask task{
        .k = kernels(),
        .x = x.data<char>(),
        .x_type = *float_type(x.dtype()),
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
        .rows = x.size() / n,
        .n = n,
        .memory = memory + 2 * n,
    };
    encoder.dispatch([task, w, b, memory, centred = centred_, eps = eps_] {
      const float* weight = w.read(task.k, memory);
      const float* bias = b.read(task.k, memory + task.n);
      task.run([&](float* to, const float* from) {
        const bool once = task.out_type == Float::f32; // No rounding between the steps.
        if (centred) {
          task.k->layer_norm(
              to, from, once ? weight : nullptr, once ? bias : nullptr, task.n, eps);
        } else {
          task.k->rms_norm(to, from, once ? weight : nullptr, task.n, eps);
        }
        if (!once && weight != nullptr) {
          task.k->round_to(to, task.out_type, task.n);
          task.k->multiply(to, to, weight, task.n);
        }
        if (!once && bias != nullptr) {
          task.k->round_to(to, task.out_type, task.n);
          for (std::size_t i = 0; i < task.n; ++i) {
            to[i] += bias[i];
          }
        }
      });
    });
  }

  const char* name() const override {
    return centred_ ? "LayerNormCpu" : "RmsNormCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const Norm&>(other);
    return centred_ == that.centred_ && eps_ == that.eps_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

 private:
  bool centred_;
  float eps_;
};

class Softmax : public Fused {
 public:
  Softmax(mx::Stream s, Graph graph) : Fused(s, std::move(graph)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const std::size_t n = inputs[0].shape(-1);
    allocate_over(inputs[0], out);
    const auto x = in_order(encoder, inputs[0]);
    const RowTask task{
        .k = kernels(),
        .x = x.data<char>(),
        .x_type = *float_type(x.dtype()),
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
        .rows = x.size() / n,
        .n = n,
        .memory = scratch(encoder, RowTask::floats(n)),
    };
    encoder.dispatch([task] {
      task.run([&](float* to, const float* from) { task.k->softmax(to, from, task.n, nullptr); });
    });
  }

  const char* name() const override {
    return "SoftmaxCpu";
  }

  bool is_equivalent(const mx::Primitive&) const override {
    return true;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }
};

class Swiglu : public Fused {
  /// Elements of one task.
  static constexpr std::size_t part = 2048;

 public:
  Swiglu(mx::Stream s, Graph graph) : Fused(s, std::move(graph)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    allocate_over(inputs[0], out);
    const auto gate = in_order(encoder, inputs[0]);
    const auto x = in_order(encoder, inputs[1]);
    float* memory = scratch(encoder, threads() * 3 * part);
    encoder.dispatch([k = kernels(),
                      g = gate.data<char>(),
                      x = x.data<char>(),
                      to = out.data<char>(),
                      type = *float_type(out.dtype()),
                      size = out.size(),
                      memory] {
      const std::size_t width = float_size(type);
      for_each(
          (size + part - 1) / part, size >= parallel_elements / 4,
          [&](std::size_t task, std::size_t thread) {
            const std::size_t at = task * part * width;
            const std::size_t count = std::min<std::size_t>(part, size - task * part);
            if (type == Float::f32) {
              k->swiglu(
                  reinterpret_cast<float*>(to + at), reinterpret_cast<const float*>(g + at),
                  reinterpret_cast<const float*>(x + at), count);
              return;
            }
            float* a = memory + thread * 3 * part;
            k->to_f32(a, g + at, type, count);
            k->to_f32(a + part, x + at, type, count);
            float* share = a + 2 * part;
            k->sigmoid(share, a, count);
            k->round_to(share, type, count);
            k->multiply(a, a, share, count);
            k->round_to(a, type, count);
            k->multiply(a, a, a + part, count);
            k->from_f32(to + at, a, type, count);
          });
    });
  }

  const char* name() const override {
    return "SwigluCpu";
  }

  bool is_equivalent(const mx::Primitive&) const override {
    return true;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }
};

/// Whether `v` is a vector of floats for rows of `x`.
bool fits_rows(const mx::array& x, const std::optional<mx::array>& v) {
  return !v || (v->ndim() == 1 && v->shape(0) == x.shape(-1) && float_type(v->dtype()));
}

} // namespace

mx::array rms_norm(
    const mx::array& x, const std::optional<mx::array>& weight, float eps, mx::Stream s) {
  if (kernels_for(s) == nullptr || x.ndim() == 0 || x.size() == 0 || !float_type(x.dtype()) ||
      !fits_rows(x, weight)) {
    return mx::fast::rms_norm(x, weight, eps, s);
  }
  auto graph = [eps, s](const std::vector<mx::array>& in) {
    return mx::fast::rms_norm(
        in[0], in.size() > 1 ? std::make_optional(in[1]) : std::nullopt, eps, s);
  };
  std::vector<mx::array> inputs{x};
  auto type = x.dtype();
  if (weight) {
    inputs.push_back(*weight);
    type = mx::promote_types(type, weight->dtype());
  }
  return mx::array(
      x.shape(), type, std::make_shared<Norm>(s, std::move(graph), false, eps), std::move(inputs));
}

mx::array layer_norm(
    const mx::array& x, const std::optional<mx::array>& weight,
    const std::optional<mx::array>& bias, float eps, mx::Stream s) {
  // A bias without a weight does not count for the dtype in MLX, which is left to MLX.
  if (kernels_for(s) == nullptr || x.ndim() == 0 || x.size() == 0 || !float_type(x.dtype()) ||
      !fits_rows(x, weight) || !fits_rows(x, bias) || (bias && !weight)) {
    return mx::fast::layer_norm(x, weight, bias, eps, s);
  }
  auto graph = [eps, s](const std::vector<mx::array>& in) {
    return mx::fast::layer_norm(
        in[0], in.size() > 1 ? std::make_optional(in[1]) : std::nullopt,
        in.size() > 2 ? std::make_optional(in[2]) : std::nullopt, eps, s);
  };
  std::vector<mx::array> inputs{x};
  auto type = x.dtype();
  for (const auto& more : {weight, bias}) {
    if (more) {
      inputs.push_back(*more);
      type = mx::promote_types(type, more->dtype());
    }
  }
  return mx::array(
      x.shape(), type, std::make_shared<Norm>(s, std::move(graph), true, eps), std::move(inputs));
}

mx::array softmax(
    const mx::array& a, const std::vector<int>& axes, bool precise, mx::Stream s) {
  const int last = static_cast<int>(a.ndim()) - 1;
  if (kernels_for(s) == nullptr || a.size() == 0 || !float_type(a.dtype()) || axes.size() != 1 ||
      last < 0 || (axes[0] != -1 && axes[0] != last)) {
    return mx::softmax(a, axes, precise, s);
  }
  auto graph = [axes, precise, s](const std::vector<mx::array>& in) {
    return mx::softmax(in[0], -1, precise, s);
  };
  return mx::array(
      a.shape(), a.dtype(), std::make_shared<Softmax>(s, std::move(graph)),
      std::vector<mx::array>{a});
}

mx::array swiglu(const mx::array& gate, const mx::array& x, mx::Stream s) {
  auto graph = [s](const std::vector<mx::array>& in) {
    const auto activated = mx::multiply(in[0], mx::sigmoid(in[0], s), s);
    return mx::multiply(activated, in[1], s);
  };
  if (kernels_for(s) == nullptr || gate.size() == 0 || gate.shape() != x.shape() ||
      gate.dtype() != x.dtype() || !float_type(x.dtype())) {
    return graph({gate, x});
  }
  return mx::array(
      x.shape(), x.dtype(), std::make_shared<Swiglu>(s, graph), std::vector<mx::array>{gate, x});
}

} // namespace shim::cpu
