#include <array>
#include <cstring>

#include "fused.hpp"
#include "kernels_packed.hpp"
#include "product.hpp"

namespace shim::cpu {
namespace {

/// What MLX's operation is given besides the operands.
struct Moves {
  std::vector<int> stride, padding_lo, padding_hi, dilation, input_dilation;
  int groups;
  bool flip;

  bool operator==(const Moves&) const = default;

  mx::array stock(const std::vector<mx::array>& in, mx::Stream s) const {
    return mx::conv_general(
        in[0], in[1], stride, padding_lo, padding_hi, dilation, input_dilation, groups, flip, s);
  }
};

/// One of the three spatial axes; those that an operand lacks have one element and one tap.
struct Axis {
  std::int64_t in = 1, taps = 1, out = 1;
  std::int64_t stride = 1, padding = 0, dilation = 1, input_dilation = 1;
  bool flip = false;

  /// Where tap `t` of output `o` reads; −1 for a zero.
  std::int64_t source(std::int64_t o, std::int64_t t) const {
    const std::int64_t at = o * stride - padding + (flip ? taps - 1 - t : t) * dilation;
    if (at < 0 || at % input_dilation != 0) {
      return -1;
    }
    return at / input_dilation < in ? at / input_dilation : -1;
  }

  /// Whether neighbouring taps read neighbours.
  bool dense() const {
    return dilation == 1 && input_dilation == 1 && !flip;
  }
};

struct Task {
  const Kernels* k;
  std::array<Axis, 3> axes;
  std::size_t batch, channels, groups, outputs; // outputs: of all groups
  const char* x;
  const char* w; // [outputs, taps.., channels / groups]
  Float type;
  char* out;
  float* memory;

  std::size_t group_channels() const {
    return channels / groups;
  }
  std::size_t group_outputs() const {
    return outputs / groups;
  }
  std::size_t taps() const {
    return axes[0].taps * axes[1].taps * axes[2].taps;
  }
  std::size_t pixels() const {
    return batch * axes[0].out * axes[1].out * axes[2].out;
  }
  std::size_t inner() const {
    return taps() * group_channels();
  }
  bool parallel() const {
    return pixels() * inner() * group_outputs() * groups >= parallel_from;
  }

  /// The image of a pixel, and its place in the output.
  std::array<std::int64_t, 4> place(std::size_t pixel) const {
    std::array<std::int64_t, 4> at;
    for (std::size_t axis = 3; axis-- > 0;) {
      at[axis + 1] = static_cast<std::int64_t>(pixel % axes[axis].out);
      pixel /= axes[axis].out;
    }
    at[0] = static_cast<std::int64_t>(pixel);
    return at;
  }

  // As a matrix product: rows are the patches that pixels see, columns are outputs.

  std::size_t row_block() const {
    const std::size_t share = pixels() / (4 * threads()) / k->mr;
    return std::max<std::size_t>(1, std::min<std::size_t>(share, 96 / k->mr)) * k->mr;
  }
  std::size_t panels() const {
    return (group_outputs() + k->nr - 1) / k->nr;
  }
  std::size_t panel_block() const {
    return std::min<std::size_t>(panels(), 512 / k->nr);
  }
  std::size_t packed_weights() const {
    return inner() * panels() * k->nr;
  }
  std::size_t mine() const {
    return inner_block + row_block() * (inner_block + panel_block() * k->nr);
  }
  std::size_t product_floats() const {
    return groups * packed_weights() + threads() * mine();
  }

  void run_product() const {
    for_each(groups * panels(), parallel(), [&](std::size_t task, std::size_t) {
      pack_weights(task / panels(), task % panels());
    });
    const std::size_t rows = row_block();
    const std::size_t row_tasks = (pixels() + rows - 1) / rows;
    const std::size_t column_tasks = (panels() + panel_block() - 1) / panel_block();
    for_each(
        groups * column_tasks * row_tasks, parallel(), [&](std::size_t task, std::size_t thread) {
          const std::size_t group = task / (row_tasks * column_tasks);
          const std::size_t panel = task / row_tasks % column_tasks * panel_block();
          float* scratch = memory + groups * packed_weights() + thread * mine();
          multiply(group, panel, task % row_tasks * rows, scratch);
        });
  }

  float* weights_of(std::size_t group, std::size_t panel, std::size_t from, std::size_t depth) const {
    return memory + group * packed_weights() + (from * panels() + panel * depth) * k->nr;
  }

  void pack_weights(std::size_t group, std::size_t panel) const {
    const std::size_t width = k->nr, size = float_size(type);
    const std::size_t first = group * group_outputs() + panel * width;
    const std::size_t count = std::min(width, group_outputs() - panel * width);
    for (std::size_t from = 0; from < inner(); from += inner_block) {
      const std::size_t depth = std::min(inner_block, inner() - from);
      k->blocks.pack_b(
          weights_of(group, panel, from, depth), w + (first * inner() + from) * size, type, 1,
          static_cast<std::int64_t>(inner()), depth, count);
    }
  }

  void multiply(std::size_t group, std::size_t panel, std::size_t first, float* scratch) const {
    const std::size_t mr = k->mr, nr = k->nr;
    const std::size_t rows = std::min(row_block(), pixels() - first);
    const std::size_t blocks = (rows + mr - 1) / mr;
    const std::size_t end = std::min(panels(), panel + panel_block());
    const std::size_t width = panel_block() * nr;
    float* line = scratch;
    float* patches = line + inner_block;
    float* c = patches + row_block() * inner_block;
    for (std::size_t from = 0; from < inner(); from += inner_block) {
      const std::size_t depth = std::min(inner_block, inner() - from);
      if (rows < blocks * mr) {
        std::memset(patches + (blocks - 1) * mr * depth, 0, mr * depth * sizeof(float));
      }
      for (std::size_t i = 0; i < rows; ++i) {
        patch(line, group, first + i, from, depth);
        float* to = patches + i / mr * mr * depth + i % mr;
        for (std::size_t p = 0; p < depth; ++p) {
          to[p * mr] = line[p];
        }
      }
      for (std::size_t j = panel; j < end; ++j) {
        const float* b = weights_of(group, j, from, depth);
        for (std::size_t i = 0; i < blocks; ++i) {
          k->block(
              patches + i * mr * depth, b, c + i * mr * width + (j - panel) * nr, width, depth,
              from > 0);
        }
      }
    }
    const std::size_t column = panel * nr;
    const std::size_t count = std::min(width, group_outputs() - column);
    for (std::size_t i = 0; i < rows; ++i) {
      const std::size_t at = (first + i) * outputs + group * group_outputs() + column;
      k->from_f32(out + at * float_size(type), c + i * width, type, count);
    }
  }

  const char* input(
      std::int64_t image, std::int64_t z, std::int64_t y, std::int64_t x_at,
      std::size_t channel) const {
    const std::int64_t pixel = ((image * axes[0].in + z) * axes[1].in + y) * axes[2].in + x_at;
    return x + (pixel * static_cast<std::int64_t>(channels) + static_cast<std::int64_t>(channel)) *
        static_cast<std::int64_t>(float_size(type));
  }

  /// Elements `from..from + depth` of the patch that a pixel sees: taps, then channels.
  void patch(
      float* to, std::size_t group, std::size_t pixel, std::size_t from, std::size_t depth) const {
    const auto [image, oz, oy, ox] = place(pixel);
    const std::size_t channel = group * group_channels();
    // A run is what lies together in memory: the taps of a line, or the channels of a tap.
    const bool lines = groups == 1 && axes[2].dense();
    const std::size_t run = lines ? axes[2].taps * channels : group_channels();
    for (std::size_t at = from; at < from + depth;) {
      const std::size_t index = at / run, start = at % run;
      const std::size_t count = std::min(run - start, from + depth - at);
      const auto tap = static_cast<std::int64_t>(lines ? index : index / axes[2].taps);
      const std::int64_t z = axes[0].source(oz, tap / axes[1].taps);
      const std::int64_t y = axes[1].source(oy, tap % axes[1].taps);
      float* place_of_run = to + (at - from);
      at += count;
      if (z < 0 || y < 0) {
        std::memset(place_of_run, 0, count * sizeof(float));
        continue;
      }
      if (!lines) {
        const std::int64_t x_at =
            axes[2].source(ox, static_cast<std::int64_t>(index) % axes[2].taps);
        if (x_at < 0) {
          std::memset(place_of_run, 0, count * sizeof(float));
        } else {
          k->to_f32(place_of_run, input(image, z, y, x_at, channel + start), type, count);
        }
        continue;
      }
      // Of elements start..start + count of the line, those inside the input.
      const std::int64_t left = ox * axes[2].stride - axes[2].padding;
      const auto size = static_cast<std::int64_t>(channels);
      const auto begin = static_cast<std::int64_t>(start);
      const std::int64_t stop = begin + static_cast<std::int64_t>(count);
      const std::int64_t low = std::clamp(-left * size, begin, stop);
      const std::int64_t high = std::clamp((axes[2].in - left) * size, low, stop);
      std::memset(place_of_run, 0, static_cast<std::size_t>(low - begin) * sizeof(float));
      if (high > low) {
        k->to_f32(
            place_of_run + (low - begin),
            input(image, z, y, 0, 0) + (left * size + low) * std::int64_t(float_size(type)), type,
            static_cast<std::size_t>(high - low));
      }
      std::memset(
          place_of_run + (high - begin), 0, static_cast<std::size_t>(stop - high) * sizeof(float));
    }
  }

  // One channel in and out of each group: a weighted sum of pixels.

  std::size_t depthwise_floats() const {
    return taps() * channels + threads() * 2 * channels;
  }

  void run_depthwise() const {
    float* weights = memory; // [taps, channels]
    float* rest = weights + taps() * channels;
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t t = 0; t < taps(); ++t) {
        k->to_f32(weights + t * channels + c, w + (c * taps() + t) * float_size(type), type, 1);
      }
    }
    constexpr std::size_t together = 16;
    const std::size_t tasks = (pixels() + together - 1) / together;
    for_each(tasks, parallel(), [&](std::size_t task, std::size_t thread) {
      float* sums = rest + thread * 2 * channels;
      const std::size_t end = std::min(pixels(), (task + 1) * together);
      for (std::size_t pixel = task * together; pixel < end; ++pixel) {
        weigh(sums, weights, pixel);
        k->from_f32(out + pixel * channels * float_size(type), sums, type, channels);
      }
    });
  }

  void weigh(float* sums, const float* weights, std::size_t pixel) const {
    float* values = sums + channels;
    const auto [image, oz, oy, ox] = place(pixel);
    std::memset(sums, 0, channels * sizeof(float));
    for (std::int64_t tz = 0; tz < axes[0].taps; ++tz) {
      const std::int64_t z = axes[0].source(oz, tz);
      for (std::int64_t ty = 0; ty < axes[1].taps; ++ty) {
        const std::int64_t y = axes[1].source(oy, ty);
        for (std::int64_t tx = 0; tx < axes[2].taps; ++tx) {
          const std::int64_t x_at = axes[2].source(ox, tx);
          if (z < 0 || y < 0 || x_at < 0) {
            continue;
          }
          const char* from = input(image, z, y, x_at, 0);
          const auto* pixel_values = reinterpret_cast<const float*>(from);
          if (type != Float::f32) {
            k->to_f32(values, from, type, channels);
            pixel_values = values;
          }
          const std::size_t tap = (tz * axes[1].taps + ty) * axes[2].taps + tx;
          k->packed->add_products(sums, pixel_values, weights + tap * channels, channels);
        }
      }
    }
  }
};

class Convolve : public Fused {
 public:
  Convolve(mx::Stream s, Moves moves)
      : Fused(s, [moves, s](const std::vector<mx::array>& in) { return moves.stock(in, s); }),
        moves_(std::move(moves)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    out.set_data(mx::allocator::malloc(out.nbytes()));
    const auto x = in_order(encoder, inputs[0]);
    const auto w = in_order(encoder, inputs[1]);
    Task task{
        .k = kernels(),
        .axes = {},
        .batch = static_cast<std::size_t>(x.shape(0)),
        .channels = static_cast<std::size_t>(x.shape(-1)),
        .groups = static_cast<std::size_t>(moves_.groups),
        .outputs = static_cast<std::size_t>(w.shape(0)),
        .x = x.data<char>(),
        .w = w.data<char>(),
        .type = *float_type(out.dtype()),
        .out = out.data<char>(),
        .memory = nullptr,
    };
    const int spatial = static_cast<int>(x.ndim()) - 2;
    for (int i = 0; i < spatial; ++i) {
      task.axes[3 - spatial + i] = Axis{
          .in = x.shape(i + 1),
          .taps = w.shape(i + 1),
          .out = out.shape(i + 1),
          .stride = moves_.stride[i],
          .padding = moves_.padding_lo[i],
          .dilation = moves_.dilation[i],
          .input_dilation = moves_.input_dilation[i],
          .flip = moves_.flip,
      };
    }
    const bool depthwise = task.group_channels() == 1 && task.group_outputs() == 1;
    task.memory =
        scratch(encoder, depthwise ? task.depthwise_floats() : task.product_floats());
    encoder.dispatch([task, depthwise] { depthwise ? task.run_depthwise() : task.run_product(); });
  }

  const char* name() const override {
    return "ConvolutionCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return moves_ == static_cast<const Convolve&>(other).moves_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {moves_.stock(inputs, stream()).shape()};
  }

 private:
  Moves moves_;
};

} // namespace

mx::array conv_general(
    const mx::array& input, const mx::array& weight, const std::vector<int>& stride,
    const std::vector<int>& padding_lo, const std::vector<int>& padding_hi,
    const std::vector<int>& dilation, const std::vector<int>& input_dilation, int groups,
    bool flip, mx::Stream s) {
  Moves moves{stride, padding_lo, padding_hi, dilation, input_dilation, groups, flip};
  // MLX judges the operands, and knows the shape of the result.
  auto stock = moves.stock({input, weight}, s);
  const std::size_t spatial = input.ndim() - 2;
  const auto whole = [&](const std::vector<int>& v) {
    return v.size() == spatial && std::all_of(v.begin(), v.end(), [](int i) { return i >= 0; });
  };
  // Groups of few outputs each leave most of a block empty.
  const bool wide = groups == 1 || weight.shape(0) / groups >= 8 ||
      (groups == input.shape(-1) && groups == weight.shape(0));
  if (kernels_for(s) == nullptr || input.dtype() != weight.dtype() || !float_type(input.dtype()) ||
      stock.size() == 0 || input.size() == 0 || !wide || !whole(stride) || !whole(padding_lo) ||
      !whole(padding_hi) || !whole(dilation) || !whole(input_dilation)) {
    return stock;
  }
  return mx::array(
      stock.shape(), stock.dtype(), std::make_shared<Convolve>(s, std::move(moves)),
      std::vector<mx::array>{input, weight});
}

} // namespace shim::cpu
