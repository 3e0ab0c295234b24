#include <cstring>

#include "fused.hpp"
#include "kernels_packed.hpp"
#include "packed_product.hpp"
#include "stacked.hpp"

namespace shim::cpu {
namespace {

/// Dense matrices of any strides.
class DenseStack : public Stack {
 public:
  explicit DenseStack(const mx::array& b)
      : Stack(b.size() / (static_cast<std::size_t>(b.shape(-1)) * b.shape(-2)), b.shape(-1), b.shape(-2)),
        k_(kernels()),
        data_(b.data<char>()),
        type_(*float_type(b.dtype())),
        size_(static_cast<std::int64_t>(float_size(type_))),
        row_(b.strides(-2)),
        col_(b.strides(-1)),
        batch_(b.shape().begin(), b.shape().end() - 2),
        strides_(b.strides().begin(), b.strides().end() - 2) {}

  std::size_t few_rows() const override {
    return row_ == 1 || col_ == 1 ? 8 : 0;
  }

  std::size_t few_columns() const override {
    return row_ == 1 ? 32 : 256;
  }

  std::size_t arranged_bytes() const override {
    return (inner * sizeof(float) + 63) / 64 * 64;
  }

  std::size_t few_scratch() const override {
    return few_columns();
  }

  void arrange(char* to, float*, const float* row) const override {
    std::memcpy(to, row, inner * sizeof(float));
  }

  void few(const FewRows& rows) const override {
    const auto* x = reinterpret_cast<const float*>(rows.x);
    const std::size_t stride = arranged_bytes() / sizeof(float);
    if (row_ == 1) {
      k_->dot(
          at(rows.matrix, 0, rows.first), type_, col_, rows.count, x, stride, rows.m, inner,
          rows.out, few_columns());
      return;
    }
    const std::size_t width = few_columns();
    std::memset(rows.out, 0, rows.m * width * sizeof(float));
    for (std::size_t p = 0; p < inner; ++p) {
      k_->to_f32(rows.scratch, at(rows.matrix, p, rows.first), type_, rows.count);
      k_->packed->add_scaled(rows.out, width, rows.scratch, x + p, stride, rows.m, rows.count);
    }
  }

  void pack(
      const Blocks& how, std::size_t matrix, void* to, std::size_t column, std::size_t columns,
      std::size_t from, std::size_t steps, float*) const override {
    how.pack_b(to, at(matrix, from, column), type_, row_, col_, steps, columns);
  }

  /// Tiles hold bf16 as it is.
  const Blocks& blocks(Float x_type) const override {
    const auto* tiles = type_ == Float::bf16 && x_type == Float::bf16 ? tile_kernels() : nullptr;
    return tiles != nullptr ? tiles->whole : k_->blocks;
  }

 private:
  const char* at(std::size_t matrix, std::size_t row, std::size_t column) const {
    std::int64_t offset = std::int64_t(row) * row_ + std::int64_t(column) * col_;
    for (std::size_t axis = batch_.size(); axis-- > 0;) {
      offset += std::int64_t(matrix % batch_[axis]) * strides_[axis];
      matrix /= batch_[axis];
    }
    return data_ + offset * size_;
  }

  const Kernels* k_;
  const char* data_;
  Float type_;
  std::int64_t size_, row_, col_;
  mx::Shape batch_;
  mx::Strides strides_;
};

struct Gathered {
  bool lhs, rhs;

  bool operator==(const Gathered&) const = default;

  std::optional<mx::array> left(const std::vector<mx::array>& in) const {
    return lhs ? std::make_optional(in[2]) : std::nullopt;
  }

  std::optional<mx::array> right(const std::vector<mx::array>& in) const {
    return rhs ? std::make_optional(in[2 + lhs]) : std::nullopt;
  }

  mx::Shape items(const std::vector<mx::array>& in) const {
    const auto l = left(in), r = right(in);
    return mx::broadcast_shapes(l ? l->shape() : batch_of(in[0]), r ? r->shape() : batch_of(in[1]));
  }

  mx::Shape result(const std::vector<mx::array>& in) const {
    auto shape = items(in);
    shape.push_back(in[0].shape(-2));
    shape.push_back(in[1].shape(-1));
    return shape;
  }

  /// MLX's CPU back end has it for f32 only.
  mx::array stock(const std::vector<mx::array>& in, mx::Stream s) const {
    const auto product = mx::gather_mm(
        mx::astype(in[0], mx::float32, s), mx::astype(in[1], mx::float32, s), left(in), right(in),
        false, s);
    return mx::astype(product, in[0].dtype(), s);
  }
};

class GatherProduct : public Fused {
 public:
  GatherProduct(mx::Stream s, Gathered gathered)
      : Fused(s, [gathered, s](const std::vector<mx::array>& in) { return gathered.stock(in, s); }),
        gathered_(gathered) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto in = inputs;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (i != 1) {
        in[i] = in_order(encoder, in[i]);
      }
    }
    const auto shape = gathered_.items(in);
    DenseStack stack(in[1]);
    const auto l = gathered_.left(in), r = gathered_.right(in);
    const std::size_t each = in[0].shape(-2);
    Choice lhs = l ? Choice(*l, shape, in[0].size() / (each * stack.inner))
                   : Choice(batch_of(in[0]), shape);
    Choice rhs = r ? Choice(*r, shape, stack.count) : Choice(batch_of(in[1]), shape);
    const Items items{
        .count = out.size() / (each * stack.n),
        .each = each,
        .x = in[0].data<char>(),
        .x_type = *float_type(in[0].dtype()),
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
    };
    encoder.dispatch(
        [stack = std::move(stack), items, lhs = std::move(lhs), rhs = std::move(rhs)] {
          multiply(stack, items, lhs, rhs);
        });
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    std::vector<mx::array> gradients;
    for (const int arg : argnums) {
      if (arg != 0) {
        gradients.push_back(Fused::vjp(primals, cotangents, {arg}, outputs)[0]);
        continue;
      }
      const auto bt = mx::swapaxes(primals[1], -1, -2, stream());
      const auto right = gathered_.right(primals);
      const auto gradient = right
          ? gather_mm(cotangents[0], bt, std::nullopt, right, false, stream())
          : matmul(cotangents[0], bt, stream());
      gradients.push_back(rows_gradient(gradient, primals[0], gathered_.left(primals), stream()));
    }
    return gradients;
  }

  const char* name() const override {
    return "GatherMmCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return gathered_ == static_cast<const GatherProduct&>(other).gathered_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {gathered_.result(inputs)};
  }

 private:
  Gathered gathered_;
};

} // namespace

mx::array gather_mm(
    const mx::array& a, const mx::array& b, const std::optional<mx::array>& lhs_indices,
    const std::optional<mx::array>& rhs_indices, bool sorted_indices, mx::Stream s) {
  const auto stock = [&] {
    return mx::gather_mm(a, b, lhs_indices, rhs_indices, sorted_indices, s);
  };
  if (!lhs_indices && !rhs_indices) {
    return matmul(a, b, s);
  }
  const auto empty = [](const std::optional<mx::array>& i) { return i && i->size() == 0; };
  if (kernels_for(s) == nullptr || empty(lhs_indices) || empty(rhs_indices) || a.ndim() < 2 || b.ndim() < 2 || a.size() == 0 || b.size() == 0 ||
      a.dtype() != b.dtype() || !float_type(a.dtype()) || a.shape(-1) != b.shape(-2)) {
    return stock();
  }
  std::vector<mx::array> inputs{a, b};
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
  const Gathered gathered{lhs_indices.has_value(), rhs_indices.has_value()};
  auto shape = gathered.result(inputs);
  return mx::array(
      std::move(shape), a.dtype(), std::make_shared<GatherProduct>(s, gathered),
      std::move(inputs));
}

} // namespace shim::cpu
