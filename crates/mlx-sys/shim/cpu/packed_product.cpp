#include "packed_product.hpp"

#include "fused.hpp"
#include "packed.hpp"

namespace shim::cpu {

mx::Shape batch_of(const mx::array& a) {
  return mx::Shape(a.shape().begin(), a.shape().end() - 2);
}

std::optional<mx::array> as_positions(const mx::array& indices, mx::Stream s) {
  if (!mx::issubdtype(indices.dtype(), mx::integer)) {
    return std::nullopt;
  }
  return mx::astype(indices, mx::uint32, s);
}

mx::array rows_gradient(
    mx::array gradient, const mx::array& x, const std::optional<mx::array>& lhs, mx::Stream s) {
  if (lhs) {
    const auto positions = mx::broadcast_to(*lhs, batch_of(gradient), s);
    const auto zeros = mx::zeros_like(x, s);
    const auto flat = x.ndim() == 2 ? mx::expand_dims(zeros, 0, s) : mx::flatten(zeros, 0, -3, s);
    const auto parts = mx::expand_dims(mx::astype(gradient, x.dtype(), s), -3, s);
    return mx::reshape(mx::scatter_add(flat, positions, parts, 0, s), x.shape(), s);
  }
  // In order: the axes along which x was repeated are summed.
  std::vector<int> repeated;
  const int missing = static_cast<int>(gradient.ndim()) - static_cast<int>(x.ndim());
  for (int axis = 0; axis + 2 < static_cast<int>(gradient.ndim()); ++axis) {
    if (axis < missing || (x.shape(axis - missing) == 1 && gradient.shape(axis) != 1)) {
      repeated.push_back(axis);
    }
  }
  if (!repeated.empty()) {
    gradient = mx::sum(gradient, repeated, true, s);
  }
  return mx::astype(mx::reshape(gradient, x.shape(), s), x.dtype(), s);
}

namespace {

/// What both operations are made of.
struct Plan {
  Packing packing;
  bool transpose;
  bool gathers; // by at least one of the two indices
  bool lhs, rhs;
  std::string mode;

  bool operator==(const Plan&) const = default;

  bool biased() const {
    return packing.code == Code::integer;
  }

  std::optional<mx::array> biases(const std::vector<mx::array>& in) const {
    return biased() ? std::make_optional(in[3]) : std::nullopt;
  }

  std::optional<mx::array> left(const std::vector<mx::array>& in) const {
    return lhs ? std::make_optional(in[3 + biased()]) : std::nullopt;
  }

  std::optional<mx::array> right(const std::vector<mx::array>& in) const {
    return rhs ? std::make_optional(in[3 + biased() + lhs]) : std::nullopt;
  }

  int group() const {
    return static_cast<int>(packing.group);
  }

  /// The shape of the items, which takes every operand in.
  mx::Shape items(const std::vector<mx::array>& in) const {
    if (!gathers && in[1].ndim() == 2) {
      return {};
    }
    const auto l = left(in), r = right(in);
    return mx::broadcast_shapes(l ? l->shape() : batch_of(in[0]), r ? r->shape() : batch_of(in[1]));
  }

  mx::Shape result(const std::vector<mx::array>& in) const {
    mx::Shape shape;
    if (!gathers && in[1].ndim() == 2) {
      shape = in[0].shape();
    } else {
      shape = items(in);
      shape.push_back(in[0].shape(-2));
      shape.push_back(0);
    }
    shape.back() = transpose ? in[1].shape(-2)
                             : static_cast<int>(unpacked_size(in[2], packing));
    return shape;
  }

  mx::array stock(const std::vector<mx::array>& in, mx::Stream s) const {
    if (!gathers) {
      return mx::quantized_matmul(
          in[0], in[1], in[2], biases(in), transpose, group(), packing.bits, mode, s);
    }
    return mx::gather_qmm(
        in[0], in[1], in[2], biases(in), left(in), right(in), transpose, group(), packing.bits,
        mode, std::nullopt, false, s);
  }

  /// The same through plain numbers, with `v` in place of an operand.
  mx::array dense(
      const std::vector<mx::array>& primals, int arg, const mx::array& v, mx::Stream s) const {
    auto in = primals;
    in[arg] = v;
    const auto numbers = mx::dequantize(
        in[1], in[2], biases(in), group(), packing.bits, mode, std::nullopt, std::nullopt, s);
    const auto dtype = mx::promote_types(in[0].dtype(), numbers.dtype());
    return gather_mm(
        mx::astype(in[0], dtype, s), mx::astype(numbers, dtype, s), left(in), right(in), false, s);
  }

  mx::array ours(const std::vector<mx::array>& in, bool transposed, mx::Stream s) const {
    if (!gathers) {
      return quantized_matmul(
          in[0], in[1], in[2], biases(in), transposed, group(), packing.bits, mode, s);
    }
    return gather_qmm(
        in[0], in[1], in[2], biases(in), left(in), right(in), transposed, group(), packing.bits,
        mode, std::nullopt, false, s);
  }
};

class PackedProduct : public Fused {
 public:
  PackedProduct(mx::Stream s, Plan plan)
      : Fused(s, [plan, s](const std::vector<mx::array>& in) { return plan.stock(in, s); }),
        plan_(std::move(plan)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    out.set_data(mx::allocator::malloc(out.nbytes()));
    std::vector<mx::array> in;
    for (const auto& input : inputs) {
      in.push_back(in_order(encoder, input));
    }
    const auto shape = plan_.items(in);
    PackedStack stack(in[1], in[2], plan_.biases(in), plan_.packing, plan_.transpose);
    const auto l = plan_.left(in), r = plan_.right(in);
    std::size_t count = 1;
    for (const int dim : shape) {
      count *= dim;
    }
    const std::size_t each = out.size() / (count * stack.n);
    Choice lhs = l ? Choice(*l, shape, in[0].size() / (each * stack.inner))
        : shape.empty() ? Choice(mx::Shape{}, shape)
                        : Choice(batch_of(in[0]), shape);
    Choice rhs = r ? Choice(*r, shape, stack.count) : Choice(batch_of(in[1]), shape);
    const Items items{
        .count = count,
        .each = each,
        .x = in[0].data<char>(),
        .x_type = *float_type(in[0].dtype()),
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
    };
    encoder.dispatch([stack, items, lhs = std::move(lhs), rhs = std::move(rhs)] {
      multiply(stack, items, lhs, rhs);
    });
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    std::vector<mx::array> gradients;
    for (const int arg : argnums) {
      if (arg > 1 && plan_.gathers && !plan_.transpose) {
        // MLX's own takes the matrices for transposed ones here.
        const auto dense = [&](const mx::array& v) { return plan_.dense(primals, arg, v, stream()); };
        gradients.push_back(mx::vjp(dense, primals[arg], cotangents[0]).second);
        continue;
      }
      if (arg != 0) {
        gradients.push_back(Fused::vjp(primals, cotangents, {arg}, outputs)[0]);
        continue;
      }
      auto in = primals;
      in[0] = cotangents[0];
      if (plan_.lhs) {
        // The cotangent has a matrix for each item already.
        in.erase(in.begin() + 3 + plan_.biased());
      }
      auto plan = plan_;
      plan.lhs = false;
      plan.gathers = plan.rhs;
      const auto gradient = plan.ours(in, !plan_.transpose, stream());
      gradients.push_back(rows_gradient(gradient, primals[0], plan_.left(primals), stream()));
    }
    return gradients;
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    if (argnums.size() != 1 || argnums[0] != 0) {
      return Fused::jvp(primals, tangents, argnums);
    }
    auto in = primals;
    in[0] = tangents[0];
    return {plan_.ours(in, plan_.transpose, stream())};
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override {
    const bool only_rows = std::all_of(axes.begin() + 1, axes.end(), [](int a) { return a < 0; });
    if (plan_.gathers || !only_rows || inputs[1].ndim() != 2) {
      return Fused::vmap(inputs, axes);
    }
    // Every axis but the last is a batch.
    auto in = inputs;
    in[0] = mx::moveaxis(in[0], axes[0], 0, stream());
    return {{plan_.ours(in, plan_.transpose, stream())}, {0}};
  }

  const char* name() const override {
    return plan_.gathers ? "GatherQmmCpu" : "QuantizedMatmulCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return plan_ == static_cast<const PackedProduct&>(other).plan_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {plan_.result(inputs)};
  }

 private:
  Plan plan_;
};

/// MLX divides by zero, and ends the process, where an operand is empty.
mx::array zeros_of(const mx::array& result, mx::Stream s) {
  return mx::zeros(result.shape(), result.dtype(), s);
}

bool empty(const std::optional<mx::array>& indices) {
  return indices && indices->size() == 0;
}

/// The inner dimension of the matrices.
int inner_of(const mx::array& w, const mx::array& scales, const Packing& packing, bool transpose) {
  return transpose ? static_cast<int>(unpacked_size(scales, packing)) : w.shape(-2);
}

mx::array product(Plan plan, std::vector<mx::array> inputs, mx::Stream s) {
  auto shape = plan.result(inputs);
  const auto dtype = plan.biased() ? mx::promote_types(inputs[0].dtype(), inputs[2].dtype())
                                   : inputs[0].dtype();
  return mx::array(
      std::move(shape), dtype, std::make_shared<PackedProduct>(s, std::move(plan)),
      std::move(inputs));
}

} // namespace

mx::array packed_matmul(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode, mx::Stream s) {
  const auto packing = kernels_for(s) == nullptr || x.ndim() < 1 || x.size() == 0 ||
          !float_type(x.dtype()) || (w.ndim() > 2 && x.ndim() <= 2)
      ? std::nullopt
      : packing_of(w, scales, biases, group_size, bits, mode);
  if (x.size() == 0 || w.size() == 0) {
    return zeros_of(
        mx::quantized_matmul(x, w, scales, biases, transpose, group_size, bits, mode, s), s);
  }
  if (!packing || x.shape(-1) != inner_of(w, scales, *packing, transpose)) {
    return mx::quantized_matmul(x, w, scales, biases, transpose, group_size, bits, mode, s);
  }
  std::vector<mx::array> inputs{x, w, scales};
  if (biases) {
    inputs.push_back(*biases);
  }
  return product(Plan{*packing, transpose, false, false, false, mode}, std::move(inputs), s);
}

mx::array gather_qmm(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, const std::optional<mx::array>& lhs_indices,
    const std::optional<mx::array>& rhs_indices, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode,
    const std::optional<mx::array>& global_scale, bool sorted_indices, mx::Stream s) {
  const auto stock = [&] {
    return mx::gather_qmm(
        x, w, scales, biases, lhs_indices, rhs_indices, transpose, group_size, bits, mode,
        global_scale, sorted_indices, s);
  };
  if (!lhs_indices && !rhs_indices && !global_scale) {
    return quantized_matmul(x, w, scales, biases, transpose, group_size, bits, mode, s);
  }
  if (x.size() == 0 || w.size() == 0 || empty(lhs_indices) || empty(rhs_indices)) {
    return zeros_of(stock(), s);
  }
  if (kernels_for(s) == nullptr || global_scale || x.ndim() < 2 || !float_type(x.dtype())) {
    return stock();
  }
  const auto packing = packing_of(w, scales, biases, group_size, bits, mode);
  if (!packing || x.shape(-1) != inner_of(w, scales, *packing, transpose)) {
    return stock();
  }
  std::vector<mx::array> inputs{x, w, scales};
  if (biases) {
    inputs.push_back(*biases);
  }
  for (const auto& indices : {lhs_indices, rhs_indices}) {
    if (!indices) {
      continue;
    }
    const auto positions = as_positions(*indices, s);
    if (!positions) {
      return stock();
    }
    inputs.push_back(*positions);
  }
  return product(
      Plan{
          *packing, transpose, true, lhs_indices.has_value(), rhs_indices.has_value(), mode},
      std::move(inputs), s);
}

} // namespace shim::cpu
