// Scaled dot-product attention.
//
// In half precision it rounds wherever MLX's graph does, so that a model gives the same numbers
// with this kernel and without.
#include <cmath>
#include <limits>

#include "fused.hpp"
#include "support.hpp"

namespace shim::cpu {
namespace {

/// A four-dimensional operand of which the last axis is contiguous.
struct Heads {
  const char* data;
  Float type;
  std::int64_t batch, head, row; // strides in elements

  explicit Heads(const mx::array& a)
      : data(a.data<char>()),
        type(*float_type(a.dtype())),
        batch(a.strides(0)),
        head(a.strides(1)),
        row(a.strides(2)) {}

  const char* at(std::size_t b, std::size_t h, std::size_t i) const {
    const auto offset =
        std::int64_t(b) * batch + std::int64_t(h) * head + std::int64_t(i) * row;
    return data + offset * std::int64_t(float_size(type));
  }
};

/// What is added to a score, or which scores count.
struct Mask {
  const char* data;
  std::optional<Float> type; // nothing for booleans
  std::int64_t strides[4];

  explicit Mask(const mx::array& a) : data(a.data<char>()), type(float_type(a.dtype())) {
    std::copy(a.strides().begin(), a.strides().end(), strides);
  }

  /// Applies one row, to scores that are `step` apart.
  void apply(
      const Kernels* k, Float score_type, float* scores, std::size_t step, std::size_t count,
      std::size_t b, std::size_t h, std::size_t i) const {
    const std::int64_t from = std::int64_t(b) * strides[0] + std::int64_t(h) * strides[1] +
        std::int64_t(i) * strides[2];
    if (!type) {
      const bool* seen = reinterpret_cast<const bool*>(data) + from;
      const float lowest = score_type == Float::f16 ? -65504.0f
          : score_type == Float::bf16               ? -0x1.fep127f
                                                    : std::numeric_limits<float>::lowest();
      for (std::size_t s = 0; s < count; ++s) {
        if (!seen[std::int64_t(s) * strides[3]]) {
          // As in MLX: a query that sees nothing weighs everything alike.
          scores[s * step] = lowest;
        }
      }
      return;
    }
    const auto size = static_cast<std::int64_t>(float_size(*type));
    const char* added = data + from * size;
    float line[256];
    for (std::size_t at = 0; at < count; at += std::size(line)) {
      const std::size_t n = std::min(std::size(line), count - at);
      if (strides[3] == 1) {
        k->to_f32(line, added + std::int64_t(at) * size, *type, n);
      } else {
        for (std::size_t s = 0; s < n; ++s) {
          k->to_f32(line + s, added + std::int64_t(at + s) * strides[3] * size, *type, 1);
        }
      }
      for (std::size_t s = 0; s < n; ++s) {
        scores[(at + s) * step] += line[s];
      }
    }
  }
};

struct Task {
  const Kernels* k;
  Heads q, keys, values;
  std::optional<Mask> mask;
  Floats sinks;
  float scale;
  bool causal;
  char* out; // [batch, length, heads, dv]
  Float out_type;
  std::size_t batch, heads, kv_heads;
  std::size_t length, kept; // queries, keys
  std::size_t d, dv; // elements of a key, of a value
  float* memory;

  /// Parts of the memory start at lines of the cache.
  static std::size_t whole_lines(std::size_t floats) {
    return (floats + 15) / 16 * 16;
  }

  /// Few queries are answered one by one: blocks of columns would be nearly empty.
  bool few() const {
    return length * 2 < k->nr;
  }

  std::size_t work() const {
    return batch * heads * length * kept * (d + dv);
  }

  char* out_at(std::size_t b, std::size_t h, std::size_t i) const {
    return out + ((b * length + i) * heads + h) * dv * float_size(out_type);
  }

  // One by one: [sinks][per thread: query, scores, result].
  std::size_t each_floats() const {
    return d + kept + dv;
  }

  void each() const {
    const float* sink = sinks.read(k, memory);
    float* rest = memory + sinks.count;
    for_each(batch * heads * length, work() >= parallel_from, [&](std::size_t task, std::size_t thread) {
      const std::size_t i = task % length;
      const std::size_t h = task / length % heads;
      const std::size_t b = task / length / heads;
      const std::size_t from = h / (heads / kv_heads);
      float* query = rest + thread * each_floats();
      float* scores = query + d;
      float* result = scores + kept;
      k->to_f32(query, q.at(b, h, i), q.type, d);
      for (std::size_t j = 0; j < d; ++j) {
        query[j] *= scale;
      }
      k->round_to(query, q.type, d);
      const std::size_t seen = causal ? kept - length + i + 1 : kept;
      k->scores(scores, query, keys.at(b, from, 0), keys.type, keys.row, seen, d);
      k->round_to(scores, out_type, seen);
      if (mask) {
        mask->apply(k, out_type, scores, 1, seen, b, h, i);
        k->round_to(scores, out_type, seen);
      }
      k->softmax(scores, scores, seen, sink == nullptr ? nullptr : sink + h);
      k->round_to(scores, out_type, seen);
      k->weighted(result, scores, values.at(b, from, 0), values.type, values.row, seen, dv);
      k->from_f32(out_at(b, h, i), result, out_type, dv);
    });
  }

  // Blocks of queries, as the columns of both products: scores = K · Qᵀ, and Vᵀ · weights.
  // [sinks][packed keys and values of each head][per thread: queries, scores, result, factors, a
  // line of results]

  std::size_t key_blocks() const {
    return (kept + k->mr - 1) / k->mr;
  }
  std::size_t value_panels() const {
    return (dv + k->mr - 1) / k->mr;
  }
  std::size_t packed_keys() const {
    return whole_lines(key_blocks() * k->mr * d);
  }
  std::size_t packed_values() const {
    return whole_lines(value_panels() * k->mr * kept);
  }
  std::size_t block_floats() const {
    return whole_lines(
        k->nr * (d + key_blocks() * k->mr + value_panels() * k->mr + 1) + line());
  }
  std::size_t line() const {
    return std::max(d, dv);
  }

  std::size_t floats() const {
    return whole_lines(sinks.count) +
        (few() ? threads() * each_floats()
               : batch * kv_heads * (packed_keys() + packed_values()) +
                 threads() * block_floats());
  }

  void pack_head(std::size_t b, std::size_t h, std::size_t block, float* to) const {
    const std::size_t mr = k->mr;
    if (block < key_blocks()) {
      const std::size_t first = block * mr;
      k->blocks.pack_a(
          to + first * d, keys.at(b, h, first), keys.type, 1, keys.row, d,
          std::min(mr, kept - first));
      return;
    }
    const std::size_t first = (block - key_blocks()) * mr;
    const char* from = values.at(b, h, 0) + first * float_size(values.type);
    k->blocks.pack_a(
        to + packed_keys() + first * kept, from, values.type, values.row, 1, kept,
        std::min(mr, dv - first));
  }

  void blocks() const {
    const std::size_t mr = k->mr, nr = k->nr;
    const float* sink = sinks.read(k, memory);
    float* packed = memory + whole_lines(sinks.count);
    const std::size_t per_head = packed_keys() + packed_values();
    float* rest = packed + batch * kv_heads * per_head;
    const std::size_t pieces = key_blocks() + value_panels();
    for_each(batch * kv_heads * pieces, work() >= parallel_from, [&](std::size_t task, std::size_t) {
      const std::size_t head = task / pieces;
      pack_head(head / kv_heads, head % kv_heads, task % pieces, packed + head * per_head);
    });
    const std::size_t columns = (length + nr - 1) / nr;
    for_each(batch * heads * columns, work() >= parallel_from, [&](std::size_t task, std::size_t thread) {
      // The last queries see the most keys: they come first, so that no thread ends late.
      const std::size_t first = (columns - 1 - task / (batch * heads)) * nr;
      const std::size_t count = std::min(nr, length - first);
      const std::size_t b = task % (batch * heads) / heads;
      const std::size_t h = task % heads;
      const float* head = packed + (b * kv_heads + h / (heads / kv_heads)) * per_head;
      float* queries = rest + thread * block_floats();
      float* scores = queries + nr * d;
      float* result = scores + nr * key_blocks() * mr;
      float* factors = result + nr * value_panels() * mr;
      float* line = factors + nr;

      k->blocks.pack_b(queries, q.at(b, h, first), q.type, 1, q.row, d, count);
      for (std::size_t i = 0; i < nr * d; ++i) {
        queries[i] *= scale;
      }
      k->round_to(queries, q.type, nr * d);
      const std::size_t seen = causal ? kept - length + first + 1 : kept;
      const std::size_t used = causal ? std::min(kept, seen + nr - 1) : kept;
      for (std::size_t s = 0; s < used; s += mr) {
        k->block(head + s * d, queries, scores + s * nr, nr, d, false);
      }
      k->round_to(scores, out_type, used * nr);
      if (mask) {
        for (std::size_t i = 0; i < count; ++i) {
          mask->apply(k, out_type, scores + i, nr, used, b, h, first + i);
        }
        k->round_to(scores, out_type, used * nr);
      }
      k->softmax_columns(scores, used, seen, sink == nullptr ? nullptr : sink + h, factors);
      if (out_type != Float::f32) {
        for (std::size_t s = 0; s < used; ++s) {
          k->multiply(scores + s * nr, scores + s * nr, factors, nr);
        }
        std::fill(factors, factors + nr, 1.0f);
        k->round_to(scores, out_type, used * nr);
      }
      for (std::size_t j = 0; j < value_panels(); ++j) {
        k->block(
            head + packed_keys() + j * mr * kept, scores, result + j * mr * nr, nr, used, false);
      }
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t j = 0; j < dv; ++j) {
          line[j] = result[j * nr + i] * factors[i];
        }
        k->from_f32(out_at(b, h, first + i), line, out_type, dv);
      }
    });
  }
};

class Attention : public Fused {
 public:
  /// Inputs: queries, keys, values, then a mask of all four axes and sinks, if there are any.
  Attention(mx::Stream s, Graph graph, float scale, bool causal, bool masked, bool sunk)
      : Fused(s, std::move(graph)), scale_(scale), causal_(causal), masked_(masked), sunk_(sunk) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    // The heads of a query side by side: what follows joins them, and then needs no copy.
    const std::int64_t width = out.shape(3), heads = out.shape(1), length = out.shape(2);
    auto flags = out.flags();
    flags.contiguous = true;
    flags.row_contiguous = heads == 1 || length == 1;
    flags.col_contiguous = out.size() == 1;
    auto strides = flags.row_contiguous
        ? mx::Strides{heads * length * width, length * width, width, 1}
        : mx::Strides{heads * length * width, width, heads * width, 1};
    out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), std::move(strides), flags);
    const auto rows = [&](const mx::array& a) {
      const bool fits = (a.strides(3) == 1 || a.shape(3) == 1) && a.strides(2) >= 0;
      return fits ? a : in_order(encoder, a);
    };
    const auto q = rows(inputs[0]), keys = rows(inputs[1]), values = rows(inputs[2]);
    Task task{
        .k = kernels(),
        .q = Heads(q),
        .keys = Heads(keys),
        .values = Heads(values),
        .mask = masked_ ? std::make_optional<Mask>(inputs[3]) : std::nullopt,
        .sinks = sunk_ ? Floats(in_order(encoder, inputs.back())) : Floats(),
        .scale = scale_,
        .causal = causal_,
        .out = out.data<char>(),
        .out_type = *float_type(out.dtype()),
        .batch = static_cast<std::size_t>(q.shape(0)),
        .heads = static_cast<std::size_t>(q.shape(1)),
        .kv_heads = static_cast<std::size_t>(keys.shape(1)),
        .length = static_cast<std::size_t>(q.shape(2)),
        .kept = static_cast<std::size_t>(keys.shape(2)),
        .d = static_cast<std::size_t>(q.shape(3)),
        .dv = static_cast<std::size_t>(values.shape(3)),
        .memory = nullptr,
    };
    task.memory = scratch(encoder, task.floats());
    encoder.dispatch([task] { task.few() ? task.each() : task.blocks(); });
  }

  const char* name() const override {
    return "AttentionCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const Attention&>(other);
    return scale_ == that.scale_ && causal_ == that.causal_ && masked_ == that.masked_ &&
        sunk_ == that.sunk_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    auto shape = inputs[0].shape();
    shape.back() = inputs[2].shape(-1);
    return {shape};
  }

 private:
  float scale_;
  bool causal_, masked_, sunk_;
};

/// Whether the operands are what `Task` takes. MLX answers for the others, errors included.
bool fits(
    const mx::array& q, const mx::array& k, const mx::array& v, const std::string& mode,
    const std::optional<mx::array>& mask, const std::optional<mx::array>& sinks) {
  for (const auto& a : {q, k, v}) {
    if (a.ndim() != 4 || a.size() == 0 || a.shape(0) != q.shape(0) || a.dtype() != q.dtype()) {
      return false;
    }
  }
  if (!float_type(q.dtype()) || q.shape(3) != k.shape(3) || k.shape(1) != v.shape(1) ||
      k.shape(2) != v.shape(2) || q.shape(1) % k.shape(1) != 0) {
    return false;
  }
  if (mode == "causal") {
    if (mask || q.shape(2) > k.shape(2)) {
      return false;
    }
  } else if (mode != "" && mode != "array") {
    return false;
  }
  if (mask) {
    const mx::Shape full{q.shape(0), q.shape(1), q.shape(2), k.shape(2)};
    if (mask->ndim() > 4 || mask->size() == 0 ||
        (mask->dtype() != mx::bool_ &&
         (!float_type(mask->dtype()) || mx::promote_types(mask->dtype(), q.dtype()) != q.dtype()))) {
      return false;
    }
    for (int axis = 1; axis <= static_cast<int>(mask->ndim()); ++axis) {
      if (mask->shape(-axis) != 1 && mask->shape(-axis) != full[4 - axis]) {
        return false;
      }
    }
  }
  return !sinks ||
      (sinks->ndim() == 1 && sinks->shape(0) == q.shape(1) && float_type(sinks->dtype()) &&
       mx::promote_types(sinks->dtype(), q.dtype()) == q.dtype());
}

} // namespace

mx::array scaled_dot_product_attention(
    const mx::array& queries, const mx::array& keys, const mx::array& values, float scale,
    const std::string& mask_mode, const std::optional<mx::array>& mask,
    const std::optional<mx::array>& sinks, bool force_fused, mx::Stream s) {
  if (kernels_for(s) == nullptr || !fits(queries, keys, values, mask_mode, mask, sinks)) {
    return mx::fast::scaled_dot_product_attention(
        queries, keys, values, scale, mask_mode, mask, sinks, force_fused, s);
  }
  const bool masked = mask.has_value(), sunk = sinks.has_value();
  auto graph = [scale, mask_mode, masked, sunk, s](const std::vector<mx::array>& in) {
    return mx::fast::scaled_dot_product_attention(
        in[0], in[1], in[2], scale, mask_mode, masked ? std::make_optional(in[3]) : std::nullopt,
        sunk ? std::make_optional(in.back()) : std::nullopt, false, s);
  };
  std::vector<mx::array> inputs{queries, keys, values};
  if (mask) {
    const mx::Shape full{queries.shape(0), queries.shape(1), queries.shape(2), keys.shape(2)};
    inputs.push_back(mx::broadcast_to(*mask, full, s));
  }
  if (sinks) {
    inputs.push_back(*sinks);
  }
  mx::Shape shape = queries.shape();
  shape.back() = values.shape(-1);
  return mx::array(
      std::move(shape), queries.dtype(),
      std::make_shared<Attention>(
          s, std::move(graph), scale, mask_mode == "causal", masked, sunk),
      std::move(inputs));
}

} // namespace shim::cpu
