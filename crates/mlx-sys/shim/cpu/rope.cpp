// Rotary position encoding.
#include <cmath>

#include "fused.hpp"

namespace shim::cpu {
namespace {

/// e to the power of `x`, with the polynomial of the Cephes library as MLX evaluates it: a far
/// position multiplies the smallest difference, and would tell the two apart.
float power_of_e(float x) {
  const float y = x * 1.442695f;
  const float whole = std::floor(y + 0.5f);
  const float rest = y - whole;
  float p = 1.535336188319500e-4f;
  for (const float c :
       {1.339887440266574e-3f, 9.618437357674640e-3f, 5.550332471162809e-2f,
        2.402264791363012e-1f, 6.931472028550421e-1f, 1.0f}) {
    p = std::fma(p, rest, c);
  }
  return std::ldexp(p, static_cast<int>(whole));
}

/// The positions of one call, and the periods of its pairs.
struct Angles {
  std::vector<std::int64_t> offsets; // one, or one for each sequence
  std::size_t length, half;
  float base, scale;
  Float type; // that the results are rounded to, as MLX does
  std::vector<float> periods; // instead of the base, if any

  bool operator==(const Angles&) const = default;
};

/// Cosines and sines, [offset][position][pair] each. Kept until other angles are asked for: all
/// layers of a model ask for the same.
struct Table {
  Angles angles;
  std::vector<float> cosines, sines;

  static const Table& of(Angles angles) {
    static thread_local Table table;
    if (table.angles != angles || table.cosines.empty()) {
      table.fill(angles);
      table.angles = std::move(angles);
    }
    return table;
  }

 private:
  void fill(const Angles& a) {
    cosines.resize(a.offsets.size() * a.length * a.half);
    sines.resize(cosines.size());
    std::vector<float> speeds(a.half);
    const float step = std::log(a.base) / static_cast<float>(a.half);
    for (std::size_t i = 0; i < a.half; ++i) {
      speeds[i] = a.periods.empty() ? power_of_e(-static_cast<float>(i) * step)
                                    : 1.0f / a.periods[i];
    }
    for_each(
        a.offsets.size() * a.length, cosines.size() >= 4096, [&](std::size_t at, std::size_t) {
          const std::int64_t position =
              a.offsets[at / a.length] + static_cast<std::int64_t>(at % a.length);
          const float scaled = static_cast<float>(position) * a.scale;
          for (std::size_t i = 0; i < a.half; ++i) {
            const float angle = scaled * speeds[i];
            cosines[at * a.half + i] = std::cos(angle);
            sines[at * a.half + i] = std::sin(angle);
          }
          kernels()->round_to(cosines.data() + at * a.half, a.type, a.half);
          kernels()->round_to(sines.data() + at * a.half, a.type, a.half);
        });
  }
};

/// Turns the pairs of `x`, and rounds each product; `memory` has room for four of each pair.
void rotate_rounded(
    const Kernels* k, float* x, const float* cosines, const float* sines, std::size_t half,
    bool traditional, Float type, float* memory) {
  const std::size_t step = traditional ? 2 : 1;
  const std::size_t apart = traditional ? 1 : half;
  for (std::size_t i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    memory[i] = a * cosines[i];
    memory[half + i] = b * sines[i];
    memory[2 * half + i] = a * sines[i];
    memory[3 * half + i] = b * cosines[i];
  }
  k->round_to(memory, type, 4 * half);
  for (std::size_t i = 0; i < half; ++i) {
    x[i * step] = memory[i] - memory[half + i];
    x[i * step + apart] = memory[2 * half + i] + memory[3 * half + i];
  }
}

class Rope : public Fused {
 public:
  /// Inputs: x, the offset, and the periods if there are any.
  Rope(mx::Stream s, Graph graph, int dims, bool traditional, float base, float scale)
      : Fused(s, std::move(graph)),
        dims_(dims),
        traditional_(traditional),
        base_(base),
        scale_(scale) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    allocate_over(inputs[0], out);
    const bool rows = inputs[0].strides(-1) == 1 || inputs[0].shape(-1) == 1;
    const auto x = rows ? inputs[0] : in_order(encoder, inputs[0]);
    const auto offset = in_order(encoder, inputs[1]);
    Floats periods;
    if (inputs.size() > 2) {
      periods = Floats(in_order(encoder, inputs[2]));
    }
    const std::size_t width = x.shape(-1);
    float* memory = scratch(encoder, threads() * 3 * width);
    encoder.dispatch([k = kernels(),
                      from = x.data<char>(),
                      shape = x.shape(),
                      strides = x.strides(),
                      type = *float_type(x.dtype()),
                      to = out.data<char>(),
                      offset = offset.data<std::int32_t>(),
                      // MLX reads offsets of four bytes by their sign.
                      is_signed = offset.dtype() == mx::int32,
                      offsets = offset.size(),
                      total = x.size(),
                      dims = static_cast<std::size_t>(dims_),
                      traditional = traditional_,
                      base = base_,
                      scale = scale_,
                      periods,
                      memory] {
      const std::size_t width = shape.back();
      const std::size_t length = shape[shape.size() - 2];
      Angles angles{
          .offsets = {},
          .length = length,
          .half = dims / 2,
          .base = base,
          .scale = scale,
          .type = type,
          .periods = std::vector<float>(periods.count),
      };
      for (std::size_t i = 0; i < offsets; ++i) {
        angles.offsets.push_back(
            is_signed ? std::int64_t(offset[i]) : std::int64_t(std::uint32_t(offset[i])));
      }
      if (periods.count > 0) {
        k->to_f32(angles.periods.data(), periods.data, periods.type, periods.count);
      }
      const Table& table = Table::of(std::move(angles));
      const std::size_t half = dims / 2;
      const std::size_t rows = total / width;
      const std::size_t per_sequence = rows / shape[0];
      const std::size_t size = float_size(type);
      const std::size_t each = std::max<std::size_t>(1, 2048 / width);
      for_each(
          (rows + each - 1) / each, total >= parallel_elements,
          [&](std::size_t task, std::size_t thread) {
            const std::size_t end = std::min(rows, (task + 1) * each);
            for (std::size_t row = task * each; row < end; ++row) {
              std::size_t rest = row;
              std::int64_t at = 0;
              for (std::size_t axis = shape.size() - 1; axis-- > 0;) {
                at += std::int64_t(rest % shape[axis]) * strides[axis];
                rest /= shape[axis];
              }
              const char* in = from + at * std::int64_t(size);
              char* result = to + row * width * size;
              const std::size_t sequence = offsets > 1 ? row / per_sequence : 0;
              const std::size_t angle = (sequence * length + row % length) * half;
              const float* cosines = table.cosines.data() + angle;
              const float* sines = table.sines.data() + angle;
              // Only whole rows may be turned where they are.
              float* line = memory + thread * 3 * width;
              const float* values = line;
              if (type == Float::f32 && in != result) {
                values = reinterpret_cast<const float*>(in);
              } else {
                k->to_f32(line, in, type, width);
              }
              float* turned = type == Float::f32 ? reinterpret_cast<float*>(result) : line;
              if (type == Float::f32) {
                k->rotate(turned, values, cosines, sines, half, traditional);
              } else {
                rotate_rounded(k, line, cosines, sines, half, traditional, type, line + width);
              }
              if (turned != values && dims < width) {
                std::copy(values + dims, values + width, turned + dims);
              }
              if (type != Float::f32) {
                k->from_f32(result, line, type, width);
              }
            }
          });
    });
  }

  const char* name() const override {
    return "RopeCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const Rope&>(other);
    return dims_ == that.dims_ && traditional_ == that.traditional_ && base_ == that.base_ &&
        scale_ == that.scale_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

 private:
  int dims_;
  bool traditional_;
  float base_, scale_;
};

} // namespace

mx::array rope(
    const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
    const mx::array& offset, const std::optional<mx::array>& freqs, mx::Stream s) {
  const bool offsets = offset.ndim() <= 1 &&
      (offset.dtype() == mx::int32 || offset.dtype() == mx::uint32);
  const bool periods = freqs ? freqs->ndim() == 1 && freqs->shape(0) == dims / 2 &&
          float_type(freqs->dtype()) && !base
                             : base.has_value();
  if (kernels_for(s) == nullptr || x.ndim() < 3 || x.size() == 0 || !float_type(x.dtype()) ||
      !offsets || (offset.size() != 1 && offset.size() != static_cast<std::size_t>(x.shape(0))) ||
      dims <= 0 || dims % 2 != 0 || dims > x.shape(-1) || !periods) {
    return mx::fast::rope(x, dims, traditional, base, scale, offset, freqs, s);
  }
  auto graph = [dims, traditional, base, scale, s](const std::vector<mx::array>& in) {
    return mx::fast::rope(
        in[0], dims, traditional, base, scale, in[1],
        in.size() > 2 ? std::make_optional(in[2]) : std::nullopt, s);
  };
  std::vector<mx::array> inputs{x, offset};
  if (freqs) {
    inputs.push_back(*freqs);
  }
  return mx::array(
      x.shape(), x.dtype(),
      std::make_shared<Rope>(
          s, std::move(graph), dims, traditional, base.value_or(1.0f), scale),
      std::move(inputs));
}

mx::array rope(
    const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
    int offset, const std::optional<mx::array>& freqs, mx::Stream s) {
  return rope(x, dims, traditional, base, scale, mx::array(offset, mx::int32), freqs, s);
}

} // namespace shim::cpu
