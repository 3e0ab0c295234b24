#include <cmath>

#include "packed_product.hpp"
#include "product.hpp"

namespace shim::cpu {
namespace {

struct Layout {
  int group;
  int bits;
};

/// Rows of `x` up to which each row of the matrix is unpacked once for all of them in registers.
constexpr std::size_t few_rows = 8;

/// The kernels in integers, where rows are long enough for them to pay.
const IntegerKernels* integers_for(std::size_t inner) {
  return inner >= 256 ? integer_kernels() : nullptr;
}

/// x · wᵀ for affine quantised `w`; the operands are in order.
struct Task {
  const Kernels* k;
  const void* x;
  Float x_type;
  const std::uint32_t* w;
  const void* scales;
  const void* biases;
  Float scale_type;
  void* out;
  Float out_type;
  std::size_t m, n, inner;
  Layout layout;
  float* memory;

  std::size_t groups() const {
    return inner / layout.group;
  }
  std::size_t words() const {
    return inner * layout.bits / 32;
  }
  /// Rows of the matrix in one task.
  std::size_t rows_at_once() const {
    return task_rows(n, 4 * words() + 2 * groups() * float_size(scale_type));
  }

  // Few rows: [arranged x][sums of groups][per thread: scratch of the kernel].
  static std::size_t few_floats(std::size_t m, std::size_t inner, Layout layout) {
    const std::size_t groups = inner / layout.group;
    if (const auto* integers = integers_for(inner)) {
      return m * integers->arranged_bytes(inner, layout.bits) / sizeof(float) + inner + m * groups;
    }
    return m * arranged_floats(inner) + inner + m * groups + threads() * scratch_floats(groups);
  }

  void few() const {
    const std::size_t stride = arranged_floats(inner);
    float* arranged = memory;
    float* line = arranged + m * stride;
    float* sums = line + inner;
    float* rest = sums + m * groups();
    const std::size_t x_size = float_size(x_type);
    for (std::size_t i = 0; i < m; ++i) {
      k->to_f32(line, static_cast<const char*>(x) + i * inner * x_size, x_type, inner);
      k->arrange(arranged + i * stride, line, inner, layout.bits);
      for (std::size_t g = 0; g < groups(); ++g) {
        float total = 0;
        for (int j = 0; j < layout.group; ++j) {
          total += line[g * layout.group + j];
        }
        sums[i * groups() + g] = total;
      }
    }
    const std::size_t rows = rows_at_once();
    const std::size_t scale_size = float_size(scale_type);
    const std::size_t out_size = float_size(out_type);
    for_each((n + rows - 1) / rows, m * n * inner >= parallel_from, [&](std::size_t task, std::size_t thread) {
      const std::size_t first = task * rows;
      const std::size_t count = std::min(rows, n - first);
      float results[few_rows * most_rows];
      const std::size_t at = first * groups() * scale_size;
      k->quantized_dot(QuantizedDot{
          .weights = w + first * words(),
          .words = words(),
          .scales = static_cast<const char*>(scales) + at,
          .biases = static_cast<const char*>(biases) + at,
          .scale_type = scale_type,
          .groups = groups(),
          .group = layout.group,
          .bits = layout.bits,
          .x = arranged,
          .x_stride = stride,
          .sums = sums,
          .m = m,
          .out = results,
          .out_stride = rows,
          .rows = count,
          .scratch = rest + thread * scratch_floats(groups()),
      });
      for (std::size_t i = 0; i < m; ++i) {
        k->from_f32(
            static_cast<char*>(out) + (i * n + first) * out_size, results + i * rows, out_type,
            count);
      }
    });
  }

  // The same in integers: [arranged x][one x][sums of groups].
  void few_integers(const IntegerKernels* integers) const {
    const std::size_t stride = integers->arranged_bytes(inner, layout.bits);
    auto* arranged = reinterpret_cast<char*>(memory);
    float* line = memory + m * stride / sizeof(float);
    float* sums = line + inner;
    for (std::size_t i = 0; i < m; ++i) {
      const char* row = static_cast<const char*>(x) + i * inner * float_size(x_type);
      const float* values = line;
      if (x_type == Float::f32) {
        values = reinterpret_cast<const float*>(row);
      } else {
        k->to_f32(line, row, x_type, inner);
      }
      integers->arrange(
          arranged + i * stride, sums + i * groups(), values, inner, layout.bits, layout.group);
    }
    const std::size_t rows = rows_at_once();
    for_each((n + rows - 1) / rows, m * n * inner >= parallel_from, [&](std::size_t task, std::size_t) {
      const std::size_t first = task * rows;
      const std::size_t count = std::min(rows, n - first);
      float results[few_rows * most_rows];
      const std::size_t at = first * groups() * float_size(scale_type);
      integers->dot(IntegerDot{
          .weights = w + first * words(),
          .words = words(),
          .scales = static_cast<const char*>(scales) + at,
          .biases = static_cast<const char*>(biases) + at,
          .scale_type = scale_type,
          .groups = groups(),
          .group = static_cast<std::size_t>(layout.group),
          .bits = layout.bits,
          .x = arranged,
          .x_stride = stride,
          .sums = sums,
          .m = m,
          .out = results,
          .out_stride = rows,
          .rows = count,
      });
      for (std::size_t i = 0; i < m; ++i) {
        k->from_f32(
            static_cast<char*>(out) + (i * n + first) * float_size(out_type), results + i * rows,
            out_type, count);
      }
    });
  }

  /// Tiles hold bf16 as it is, and codes times scales in two parts.
  const Blocks& how() const {
    const auto* tiles = x_type == Float::bf16 ? tile_kernels() : nullptr;
    return tiles != nullptr ? tiles->half : k->blocks;
  }

  Product product() const {
    return {how(), m, n, inner, false};
  }

  // Many rows: [per thread: columns before packing, scales and biases of one][product].
  std::size_t thread_floats() const {
    return (how().columns * how().depth + 2 * groups() + 15) / 16 * 16;
  }

  std::size_t many_floats() const {
    return threads() * thread_floats() + product().floats();
  }

  void many() const {
    const Blocks& blocks = how();
    const std::size_t scale_size = float_size(scale_type);
    product().run(
        memory + threads() * thread_floats(), m * n * inner >= parallel_from, {},
        [&](void* to, std::size_t row, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t) {
          const char* block = static_cast<const char*>(x) + (row * inner + from) * float_size(x_type);
          blocks.pack_a(to, block, x_type, 1, static_cast<std::int64_t>(inner), steps, count);
        },
        [&](void* to, std::size_t column, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t thread) {
          float* lines = memory + thread * thread_floats();
          float* row_scales = lines + blocks.columns * blocks.depth;
          float* row_biases = row_scales + groups();
          const std::size_t g = from / layout.group;
          const std::size_t gs = (steps + layout.group - 1) / layout.group;
          for (std::size_t j = 0; j < count; ++j) {
            const std::size_t at = ((column + j) * groups() + g) * scale_size;
            k->to_f32(row_scales + g, static_cast<const char*>(scales) + at, scale_type, gs);
            k->to_f32(row_biases + g, static_cast<const char*>(biases) + at, scale_type, gs);
            k->dequantize(
                lines + j * blocks.depth, w + (column + j) * words(), row_scales, row_biases,
                layout.group, layout.bits, from, steps);
          }
          const auto depth = static_cast<std::int64_t>(blocks.depth);
          blocks.pack_b(to, lines, Float::f32, 1, depth, steps, count);
        },
        [&](std::size_t row, std::size_t first, std::size_t count, float* values) {
          k->from_f32(
              static_cast<char*>(out) + (row * n + first) * float_size(out_type), values, out_type,
              count);
        });
  }
};

class QuantizedProduct : public mx::UnaryPrimitive {
 public:
  QuantizedProduct(mx::Stream s, Layout layout) : UnaryPrimitive(s), layout_(layout) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    out.set_data(mx::allocator::malloc(out.nbytes()));
    const auto x = in_order(encoder, inputs[0]);
    const auto w = in_order(encoder, inputs[1]);
    const auto scales = in_order(encoder, inputs[2]);
    const auto biases = in_order(encoder, inputs[3]);
    const std::size_t inner = x.shape(-1);
    Task task{
        .k = kernels(),
        .x = x.data<char>(),
        .x_type = *float_type(x.dtype()),
        .w = w.data<std::uint32_t>(),
        .scales = scales.data<char>(),
        .biases = biases.data<char>(),
        .scale_type = *float_type(scales.dtype()),
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
        .m = x.size() / inner,
        .n = static_cast<std::size_t>(w.shape(0)),
        .inner = inner,
        .layout = layout_,
        .memory = nullptr,
    };
    if (task.m <= few_rows) {
      task.memory = scratch(encoder, Task::few_floats(task.m, inner, layout_));
      encoder.dispatch([task] {
        if (const auto* integers = integers_for(task.inner)) {
          task.few_integers(integers);
        } else {
          task.few();
        }
      });
    } else {
      task.memory = scratch(encoder, task.many_floats());
      encoder.dispatch([task] { task.many(); });
    }
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("[quantized_matmul] a CPU kernel was placed on a GPU");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    std::vector<mx::array> gradients;
    for (const int arg : argnums) {
      if (arg == 0) {
        const auto w = mx::dequantize(
            primals[1], primals[2], primals[3], layout_.group, layout_.bits, "affine", std::nullopt,
            cotangents[0].dtype(), stream());
        gradients.push_back(mx::astype(
            matmul(cotangents[0], w, stream()), primals[0].dtype(), stream()));
        continue;
      }
      // The others have a graph of MLX's own.
      const auto stock = [&](const mx::array& v) {
        auto inputs = primals;
        inputs[arg] = v;
        return product(inputs);
      };
      gradients.push_back(mx::vjp(stock, primals[arg], cotangents[0]).second);
    }
    return gradients;
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    if (argnums.size() != 1 || argnums[0] != 0) {
      throw std::runtime_error("[quantized_matmul] there is no JVP for the quantized matrix");
    }
    auto inputs = primals;
    inputs[0] = tangents[0];
    return {quantized_matmul(
        inputs[0], inputs[1], inputs[2], inputs[3], true, layout_.group, layout_.bits, "affine",
        stream())};
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override {
    if (axes[1] >= 0 || axes[2] >= 0 || axes[3] >= 0) {
      throw std::runtime_error("[quantized_matmul] only the first operand can be vmapped");
    }
    // Every axis but the last is a batch.
    const auto x = mx::moveaxis(inputs[0], axes[0], 0, stream());
    return {
        {quantized_matmul(
            x, inputs[1], inputs[2], inputs[3], true, layout_.group, layout_.bits, "affine",
            stream())},
        {0}};
  }

  const char* name() const override {
    return "QuantizedMatmul";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const QuantizedProduct&>(other);
    return layout_.group == that.layout_.group && layout_.bits == that.layout_.bits;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    auto shape = inputs[0].shape();
    shape.back() = inputs[1].shape(0);
    return {shape};
  }

 private:
  mx::array product(const std::vector<mx::array>& inputs) {
    return mx::quantized_matmul(
        inputs[0], inputs[1], inputs[2], inputs[3], true, layout_.group, layout_.bits, "affine",
        stream());
  }

  Layout layout_;
};

/// Whether the operands are what `Task` takes. MLX answers for the others, errors included.
bool fits(
    const mx::array& x, const mx::array& w, const mx::array& scales, const mx::array& biases,
    Layout layout) {
  const bool bits = (layout.bits >= 1 && layout.bits <= 6) || layout.bits == 8;
  const bool group = layout.group == 32 || layout.group == 64 || layout.group == 128;
  if (!bits || !group || x.ndim() < 1 || w.ndim() != 2 || scales.ndim() != 2 || x.size() == 0 ||
      w.size() == 0 || w.dtype() != mx::uint32 || scales.dtype() != biases.dtype() ||
      scales.shape() != biases.shape() || !float_type(x.dtype()) || !float_type(scales.dtype())) {
    return false;
  }
  const std::int64_t inner = x.shape(-1);
  return inner % layout.group == 0 && w.shape(1) == inner * layout.bits / 32 &&
      scales.shape(0) == w.shape(0) && scales.shape(1) == inner / layout.group;
}

} // namespace

mx::array quantized_matmul(
    const mx::array& x, const mx::array& w, const mx::array& scales,
    const std::optional<mx::array>& biases, bool transpose, std::optional<int> group_size,
    std::optional<int> bits, const std::string& mode, mx::Stream s) {
  const Layout layout{group_size.value_or(64), bits.value_or(4)};
  if (kernels_for(s) == nullptr || mode != "affine" || !transpose || !biases ||
      !fits(x, w, scales, *biases, layout)) {
    return packed_matmul(x, w, scales, biases, transpose, group_size, bits, mode, s);
  }
  auto shape = x.shape();
  shape.back() = w.shape(0);
  return mx::array(
      std::move(shape), mx::promote_types(x.dtype(), scales.dtype()),
      std::make_shared<QuantizedProduct>(s, layout), {x, w, scales, *biases});
}

} // namespace shim::cpu
