#include "product.hpp"

namespace shim::cpu {
namespace {

/// Rows of `a` up to which each row of a transposed `b` is read once for all of them.
constexpr std::size_t few_rows = 8;

/// One operand: its elements' type, and how far apart they are along its last two axes.
struct Matrix {
  const char* data;
  Float type;
  std::int64_t row, col;
  mx::Shape batch;
  mx::Strides batch_strides;

  explicit Matrix(const mx::array& a)
      : data(a.data<char>()),
        type(*float_type(a.dtype())),
        row(a.strides(-2)),
        col(a.strides(-1)),
        batch(a.shape().begin(), a.shape().end() - 2),
        batch_strides(a.strides().begin(), a.strides().end() - 2) {}

  const char* at(std::size_t index) const {
    std::int64_t offset = 0;
    for (std::size_t axis = batch.size(); axis-- > 0;) {
      offset += std::int64_t(index % batch[axis]) * batch_strides[axis];
      index /= batch[axis];
    }
    return data + offset * static_cast<std::int64_t>(float_size(type));
  }

  const char* at(std::size_t index, std::size_t i, std::size_t j) const {
    return at(index) +
        (std::int64_t(i) * row + std::int64_t(j) * col) * static_cast<std::int64_t>(float_size(type));
  }
};

/// alpha · a · b + beta · c for each matrix of the batch, accumulated in f32.
struct Task {
  const Kernels* k;
  std::size_t m, n, inner;
  Matrix a, b;
  std::optional<Matrix> c;
  float alpha, beta;
  char* out;
  Float out_type;
  std::size_t batch;
  float* memory;

  /// The vectors of a product with few rows are read from f32 rows.
  bool few() const {
    return m <= few_rows && b.row == 1;
  }

  /// Tiles hold bf16 as it is.
  const Blocks& how() const {
    const auto* tiles = a.type == Float::bf16 ? tile_kernels() : nullptr;
    return tiles != nullptr && m > few_rows ? tiles->whole : k->blocks;
  }

  Product product() const {
    return {how(), m, n, inner, false};
  }

  /// Many small products are computed at once, a thread each.
  bool each_alone() const {
    return batch >= 2 * threads() && work() < (1 << 21);
  }

  std::size_t floats() const {
    if (few()) {
      return batch * m * inner;
    }
    return (each_alone() ? threads() : 1) * whole_lines(product().floats());
  }

  static std::size_t whole_lines(std::size_t floats) {
    return (floats + 15) / 16 * 16;
  }

  /// Of one product.
  std::size_t work() const {
    return m * n * inner;
  }

  /// Writes `count` results of a row from column `first` on.
  void finish(std::size_t item, std::size_t row, std::size_t first, std::size_t count, float* values) const {
    if (c) {
      const auto size = static_cast<std::int64_t>(float_size(c->type));
      const char* from = c->at(item) + (std::int64_t(row) * c->row + std::int64_t(first) * c->col) * size;
      float line[64];
      for (std::size_t at = 0; at < count; at += std::size(line)) {
        const std::size_t n = std::min(std::size(line), count - at);
        const char* old = from + std::int64_t(at) * c->col * size;
        if (c->col == 1) {
          k->to_f32(line, old, c->type, n);
        } else {
          for (std::size_t i = 0; i < n; ++i) {
            k->to_f32(line + i, old + std::int64_t(i) * c->col * size, c->type, 1);
          }
        }
        for (std::size_t i = 0; i < n; ++i) {
          values[at + i] = alpha * values[at + i] + beta * line[i];
        }
      }
    }
    const std::size_t at = (item * m + row) * n + first;
    k->from_f32(out + at * float_size(out_type), values, out_type, count);
  }

  void run() const {
    if (few()) {
      run_few();
    } else if (each_alone()) {
      const std::size_t floats = whole_lines(product().floats());
      for_each(batch, batch * work() >= parallel_from, [&](std::size_t item, std::size_t thread) {
        run_blocks(item, memory + thread * floats, false);
      });
    } else {
      for (std::size_t item = 0; item < batch; ++item) {
        run_blocks(item, memory, work() >= parallel_from);
      }
    }
  }

  void run_few() const {
    const auto size = static_cast<std::int64_t>(float_size(a.type));
    for (std::size_t item = 0; item < batch; ++item) {
      for (std::size_t i = 0; i < m; ++i) {
        float* to = memory + (item * m + i) * inner;
        const char* from = a.at(item) + std::int64_t(i) * a.row * size;
        if (a.col == 1) {
          k->to_f32(to, from, a.type, inner);
          continue;
        }
        for (std::size_t p = 0; p < inner; ++p) {
          k->to_f32(to + p, from + std::int64_t(p) * a.col * size, a.type, 1);
        }
      }
    }
    const std::size_t columns = task_rows(n, inner * float_size(b.type));
    const std::size_t tasks = (n + columns - 1) / columns;
    for_each(batch * tasks, batch * work() >= parallel_from, [&](std::size_t task, std::size_t) {
      const std::size_t item = task / tasks;
      const std::size_t first = task % tasks * columns;
      const std::size_t count = std::min(columns, n - first);
      float results[few_rows * most_rows];
      k->dot(
          b.at(item) + std::int64_t(first) * b.col * std::int64_t(float_size(b.type)), b.type, b.col,
          count, memory + item * m * inner, inner, m, inner, results, columns);
      for (std::size_t i = 0; i < m; ++i) {
        finish(item, i, first, count, results + i * columns);
      }
    });
  }

  void run_blocks(std::size_t item, float* space, bool parallel) const {
    const Blocks& blocks = how();
    product().run(
        space, parallel, {},
        [&](void* to, std::size_t row, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t) {
          blocks.pack_a(to, a.at(item, row, from), a.type, a.col, a.row, steps, count);
        },
        [&](void* to, std::size_t column, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t) {
          blocks.pack_b(to, b.at(item, from, column), b.type, b.row, b.col, steps, count);
        },
        [&](std::size_t row, std::size_t first, std::size_t count, float* values) {
          finish(item, row, first, count, values);
        });
  }
};

/// The matrix product of half-precision operands of equal batch axes; with a third operand of the
/// result's shape, `alpha · a · b + beta · c`.
class HalfProduct : public mx::UnaryPrimitive {
 public:
  HalfProduct(mx::Stream s, bool adds, float alpha, float beta)
      : UnaryPrimitive(s), adds_(adds), alpha_(alpha), beta_(beta) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    out.set_data(mx::allocator::malloc(out.nbytes()));
    const auto& a = inputs[0];
    const auto& b = inputs[1];
    const std::size_t m = a.shape(-2), n = b.shape(-1), inner = a.shape(-1);
    Task task{
        .k = kernels(),
        .m = m,
        .n = n,
        .inner = inner,
        .a = Matrix(a),
        .b = Matrix(b),
        .c = adds_ ? std::make_optional<Matrix>(inputs[2]) : std::nullopt,
        .alpha = alpha_,
        .beta = beta_,
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
        .batch = out.size() / (m * n),
        .memory = nullptr,
    };
    task.memory = scratch(encoder, task.floats());
    encoder.dispatch([task = std::move(task)] { task.run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("[matmul] a CPU kernel was placed on a GPU");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    std::vector<mx::array> gradients;
    for (const int arg : argnums) {
      if (arg == 2) {
        gradients.push_back(scaled(cotangents[0], beta_));
      } else if (arg == 0) {
        const auto bt = mx::swapaxes(primals[1], -1, -2, stream());
        gradients.push_back(scaled(matmul(cotangents[0], bt, stream()), alpha_));
      } else {
        const auto at = mx::swapaxes(primals[0], -1, -2, stream());
        gradients.push_back(scaled(matmul(at, cotangents[0], stream()), alpha_));
      }
    }
    return gradients;
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    std::optional<mx::array> total;
    for (std::size_t i = 0; i < argnums.size(); ++i) {
      const auto& t = tangents[i];
      const auto part = argnums[i] == 2 ? scaled(t, beta_)
          : argnums[i] == 0             ? scaled(matmul(t, primals[1], stream()), alpha_)
                                        : scaled(matmul(primals[0], t, stream()), alpha_);
      total = total ? mx::add(*total, part, stream()) : part;
    }
    return {*total};
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override {
    // The mapped axis becomes the first batch axis; operands without it broadcast.
    std::vector<mx::array> batched;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      batched.push_back(
          axes[i] < 0 ? mx::expand_dims(inputs[i], 0, stream())
                      : mx::moveaxis(inputs[i], axes[i], 0, stream()));
    }
    return {
        {adds_ ? addmm(batched[2], batched[0], batched[1], alpha_, beta_, stream())
               : matmul(batched[0], batched[1], stream())},
        {0}};
  }

  const char* name() const override {
    return adds_ ? "AddMM" : "Matmul";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const HalfProduct&>(other);
    return adds_ == that.adds_ && alpha_ == that.alpha_ && beta_ == that.beta_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    auto shape = inputs[0].shape();
    shape.back() = inputs[1].shape(-1);
    return {shape};
  }

 private:
  mx::array scaled(const mx::array& a, float by) {
    return by == 1.0f ? a : mx::multiply(a, mx::array(by, a.dtype()), stream());
  }

  bool adds_;
  float alpha_, beta_;
};

bool fits(const mx::array& a, const mx::array& b) {
  return (a.dtype() == mx::float16 || a.dtype() == mx::bfloat16) && b.dtype() == a.dtype() &&
      a.ndim() >= 2 && b.ndim() >= 2 && a.shape(-1) == b.shape(-2) && a.size() > 0 && b.size() > 0;
}

mx::Shape batch_of(const mx::array& a) {
  return mx::Shape(a.shape().begin(), a.shape().end() - 2);
}

mx::array with_batch(const mx::array& a, mx::Shape batch, mx::Stream s) {
  if (batch == batch_of(a)) {
    return a;
  }
  batch.push_back(a.shape(-2));
  batch.push_back(a.shape(-1));
  return mx::broadcast_to(a, batch, s);
}

mx::array product(
    const mx::array& a, const mx::array& b, const std::optional<mx::array>& c, float alpha,
    float beta, mx::Stream s) {
  // Rows of all batches meet one matrix: a single product. Only where that needs no copy.
  if (!c && b.ndim() == 2 && a.ndim() > 2) {
    const auto flat = mx::flatten(a, 0, -2, s);
    auto batch = batch_of(a);
    batch.push_back(a.shape(-2));
    return mx::unflatten(product(flat, b, c, alpha, beta, s), 0, batch, s);
  }
  const auto batch = mx::broadcast_shapes(batch_of(a), batch_of(b));
  auto shape = batch;
  shape.push_back(a.shape(-2));
  shape.push_back(b.shape(-1));
  std::vector<mx::array> inputs{with_batch(a, batch, s), with_batch(b, batch, s)};
  if (c) {
    inputs.push_back(mx::broadcast_to(*c, shape, s));
  }
  return mx::array(
      std::move(shape), a.dtype(),
      std::make_shared<HalfProduct>(s, c.has_value(), alpha, beta), std::move(inputs));
}

} // namespace

mx::array matmul(const mx::array& a, const mx::array& b, mx::Stream s) {
  if (kernels_for(s) == nullptr || !fits(a, b)) {
    return mx::matmul(a, b, s);
  }
  return product(a, b, std::nullopt, 1.0f, 1.0f, s);
}

mx::array addmm(
    const mx::array& c, const mx::array& a, const mx::array& b, float alpha, float beta,
    mx::Stream s) {
  // A larger `c` would broadcast the product, which MLX refuses or not: it decides.
  if (kernels_for(s) == nullptr || !fits(a, b) || c.dtype() != a.dtype() ||
      c.ndim() > std::max(a.ndim(), b.ndim()) || c.size() == 0) {
    // MLX first repeats a vector `c` for all rows, on one thread.
    if (kernels_for(s) != nullptr && alpha == 1.0f && beta == 1.0f && c.ndim() == 1 &&
        a.ndim() > 1 && b.ndim() == 2 && c.shape(0) == b.shape(1) &&
        a.shape(-1) == b.shape(0) && a.dtype() == mx::float32 && b.dtype() == mx::float32 &&
        c.dtype() == mx::float32) {
      return add(mx::matmul(a, b, s), c, s);
    }
    return mx::addmm(c, a, b, alpha, beta, s);
  }
  const auto batch = mx::broadcast_shapes(batch_of(a), batch_of(b));
  auto shape = batch;
  shape.push_back(a.shape(-2));
  shape.push_back(b.shape(-1));
  if (mx::broadcast_shapes(c.shape(), shape) != shape) {
    return mx::addmm(c, a, b, alpha, beta, s);
  }
  return product(a, b, c, alpha, beta, s);
}

} // namespace shim::cpu
