#include "fused.hpp"
#include "packed.hpp"

namespace shim::cpu {
namespace {

/// The numbers that packed rows stand for, with a graph of MLX's for derivatives.
class Dequantize : public Fused {
  /// Elements of one task, a multiple of every group, and the floats that a task needs.
  static constexpr std::size_t part = 1024;
  static constexpr std::size_t mine = part + 2 * (part / 16 + 1);

 public:
  Dequantize(mx::Stream s, Graph graph, Packing packing)
      : Fused(s, std::move(graph)), packing_(packing) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    out.set_data(mx::allocator::malloc(out.nbytes()));
    std::vector<mx::array> in;
    for (const auto& input : inputs) {
      in.push_back(in_order(encoder, input));
    }
    const PackedStack stack(
        in[0], in[1], in.size() > 2 ? std::make_optional(in[2]) : std::nullopt, packing_, true);
    float* memory = scratch(encoder, threads() * mine);
    encoder.dispatch([stack,
                      memory,
                      k = kernels(),
                      // MLX rounds the product with the scale before it adds the bias.
                      rounded = float_type(in[1].dtype()).value_or(Float::f32),
                      to = out.data<char>(),
                      type = *float_type(out.dtype())] {
      const std::size_t columns = stack.stored_columns();
      const std::size_t parts = (columns + part - 1) / part;
      const std::size_t rows = stack.stored_rows();
      // Short rows share a task.
      const std::size_t together = std::max<std::size_t>(1, part / columns);
      for_each(
          (rows + together - 1) / together * parts, rows * columns >= parallel_elements,
          [&](std::size_t task, std::size_t thread) {
            float* line = memory + thread * mine;
            const std::size_t from = task % parts * part;
            const std::size_t count = std::min(part, columns - from);
            const std::size_t first = task / parts * together;
            for (std::size_t row = first; row < std::min(rows, first + together); ++row) {
              stack.unpack(line, row, from, count, rounded, line + part);
              if (rounded != Float::f32 && rounded != type) {
                k->round_to(line, rounded, count);
              }
              k->from_f32(to + (row * columns + from) * float_size(type), line, type, count);
            }
          });
    });
  }

  const char* name() const override {
    return "DequantizeCpu";
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    auto shape = inputs[0].shape();
    shape.back() = static_cast<int>(unpacked_size(inputs[1], packing_));
    return {shape};
  }

 private:
  Packing packing_;
};

} // namespace

mx::array dequantize(
    const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
    std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
    const std::optional<mx::array>& global_scale, std::optional<mx::Dtype> dtype, mx::Stream s) {
  const auto packing = kernels_for(s) == nullptr || global_scale
      ? std::nullopt
      : packing_of(w, scales, biases, group_size, bits, mode);
  const auto type =
      dtype.value_or(mode == "affine" ? scales.dtype() : static_cast<mx::Dtype>(mx::bfloat16));
  if (!packing || !float_type(type)) {
    return mx::dequantize(
        w, scales, biases, group_size, bits, mode, global_scale, dtype, s);
  }
  auto graph = [=](const std::vector<mx::array>& in) {
    return mx::dequantize(
        in[0], in[1], in.size() > 2 ? std::make_optional(in[2]) : std::nullopt, group_size, bits,
        mode, std::nullopt, dtype, s);
  };
  std::vector<mx::array> inputs{w, scales};
  if (biases) {
    inputs.push_back(*biases);
  }
  auto shape = w.shape();
  shape.back() = static_cast<int>(unpacked_size(scales, *packing));
  return mx::array(
      std::move(shape), type, std::make_shared<Dequantize>(s, std::move(graph), *packing),
      std::move(inputs));
}

} // namespace shim::cpu
