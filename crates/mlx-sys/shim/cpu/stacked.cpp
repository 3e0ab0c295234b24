#include "stacked.hpp"

namespace shim::cpu {
namespace {

/// Memory of a running kernel: how much it needs depends on the indices.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : buffer_(mx::allocator::allocator().malloc(bytes + 128)) {}
  ~Memory() {
    mx::allocator::allocator().free(buffer_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// From a line of the cache on.
  char* data() {
    const auto start = reinterpret_cast<std::uintptr_t>(buffer_.raw_ptr());
    return static_cast<char*>(buffer_.raw_ptr()) + (64 - start % 64) % 64;
  }

 private:
  mx::allocator::Buffer buffer_;
};

/// A row of x, and where its result goes.
struct Line {
  std::size_t from, to;
};

/// Lines that meet the same matrix.
struct Share {
  std::size_t matrix, first, count;
};

/// Lines whose arranged rows are held at once.
constexpr std::size_t wave = 1024;

/// Rows of one blocked product, which bounds its memory.
constexpr std::size_t many_rows = 1024;

struct Run {
  const Kernels* k;
  const Stack& stack;
  const Items& items;
  std::vector<Line> lines;

  const char* row(const Line& line) const {
    return items.x + line.from * stack.inner * float_size(items.x_type);
  }

  void write(const Line& line, std::size_t first, const float* values, std::size_t count) const {
    char* to = items.out + (line.to * stack.n + first) * float_size(items.out_type);
    k->from_f32(to, values, items.out_type, count);
  }

  bool parallel(std::size_t rows) const {
    return rows * stack.n * stack.inner >= parallel_from;
  }

  /// Several matrices with few rows each: their lines lie one after the other.
  void few(const std::vector<Share>& shares) const {
    const std::size_t start = shares.front().first;
    const std::size_t total = shares.back().first + shares.back().count - start;
    const std::size_t bytes = stack.arranged_bytes();
    const std::size_t sums = stack.arranged_sums();
    const std::size_t columns = stack.few_columns();
    std::size_t most = 0;
    for (const auto& share : shares) {
      most = std::max(most, share.count);
    }
    const std::size_t mine = std::max(stack.inner, most * columns + stack.few_scratch());
    Memory memory(total * (bytes + sums * sizeof(float)) + threads() * mine * sizeof(float));
    char* arranged = memory.data();
    auto* all_sums = reinterpret_cast<float*>(arranged + total * bytes);
    float* rest = all_sums + total * sums;

    for_each(total, total * stack.inner >= parallel_elements, [&](std::size_t i, std::size_t thread) {
      const char* from = row(lines[start + i]);
      const auto* values = reinterpret_cast<const float*>(from);
      if (items.x_type != Float::f32) {
        float* line = rest + thread * mine;
        k->to_f32(line, from, items.x_type, stack.inner);
        values = line;
      }
      stack.arrange(arranged + i * bytes, all_sums + i * sums, values);
    });
    const std::size_t tasks = (stack.n + columns - 1) / columns;
    for_each(shares.size() * tasks, parallel(total), [&](std::size_t task, std::size_t thread) {
      const Share& share = shares[task / tasks];
      const std::size_t at = share.first - start;
      const std::size_t first = task % tasks * columns;
      float* results = rest + thread * mine;
      const FewRows rows{
          .matrix = share.matrix,
          .first = first,
          .count = std::min(columns, stack.n - first),
          .x = arranged + at * bytes,
          .sums = all_sums + at * sums,
          .m = share.count,
          .out = results,
          .scratch = results + share.count * columns,
      };
      stack.few(rows);
      for (std::size_t i = 0; i < share.count; ++i) {
        write(lines[share.first + i], first, results + i * columns, rows.count);
      }
    });
  }

  void many(const Share& share) const {
    const Blocks& how = stack.blocks(items.x_type);
    const Product product(how, share.count, stack.n, stack.inner, false);
    const std::size_t scratch = std::max(stack.pack_scratch(how), how.rows * how.depth);
    const std::size_t mine = (scratch + 15) / 16 * 16;
    Memory memory((threads() * mine + product.floats()) * sizeof(float));
    auto* rest = reinterpret_cast<float*>(memory.data());
    product.run(
        rest + threads() * mine, parallel(share.count), {},
        [&](void* to, std::size_t first, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t thread) {
          // The rows lie anywhere in x.
          float* copies = rest + thread * mine;
          for (std::size_t j = 0; j < count; ++j) {
            const char* line = row(lines[share.first + first + j]);
            const char* start = line + from * float_size(items.x_type);
            k->to_f32(copies + j * how.depth, start, items.x_type, steps);
          }
          const auto next = static_cast<std::int64_t>(how.depth);
          how.pack_a(to, copies, Float::f32, 1, next, steps, count);
        },
        [&](void* to, std::size_t column, std::size_t count, std::size_t from, std::size_t steps,
            std::size_t thread) {
          stack.pack(how, share.matrix, to, column, count, from, steps, rest + thread * mine);
        },
        [&](std::size_t i, std::size_t first, std::size_t count, const float* values) {
          write(lines[share.first + i], first, values, count);
        });
  }
};

mx::Strides broadcast_strides(
    const mx::Shape& from, const mx::Strides& strides, const mx::Shape& shape) {
  mx::Strides result(shape.size(), 0);
  const std::size_t missing = shape.size() - from.size();
  for (std::size_t axis = 0; axis < from.size(); ++axis) {
    result[missing + axis] = from[axis] == 1 ? 0 : strides[axis];
  }
  return result;
}

} // namespace

Choice::Choice(const mx::array& indices, const mx::Shape& shape, std::size_t limit)
    : data(indices.data<std::uint32_t>()),
      shape(shape),
      strides(broadcast_strides(indices.shape(), indices.strides(), shape)),
      limit(limit) {}

Choice::Choice(const mx::Shape& batch, const mx::Shape& shape)
    : data(nullptr), shape(shape), strides(), limit(1) {
  mx::Strides steps(batch.size(), 1);
  for (std::size_t axis = batch.size(); axis-- > 0;) {
    steps[axis] = static_cast<std::int64_t>(limit);
    limit *= batch[axis];
  }
  strides = broadcast_strides(batch, steps, shape);
}

std::size_t Choice::at(std::size_t item) const {
  std::int64_t offset = 0;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    offset += static_cast<std::int64_t>(item % shape[axis]) * strides[axis];
    item /= shape[axis];
  }
  return std::min<std::size_t>(data == nullptr ? offset : data[offset], limit - 1);
}

void multiply(const Stack& stack, const Items& items, const Choice& lhs, const Choice& rhs) {
  std::vector<std::size_t> matrix_of(items.count);
  std::vector<std::size_t> starts(stack.count + 1, 0);
  for (std::size_t i = 0; i < items.count; ++i) {
    matrix_of[i] = rhs.at(i);
    starts[matrix_of[i] + 1] += items.each;
  }
  for (std::size_t e = 0; e < stack.count; ++e) {
    starts[e + 1] += starts[e];
  }
  Run run{kernels(), stack, items, std::vector<Line>(items.count * items.each)};
  auto next = starts;
  for (std::size_t i = 0; i < items.count; ++i) {
    const std::size_t from = lhs.at(i) * items.each;
    for (std::size_t j = 0; j < items.each; ++j) {
      run.lines[next[matrix_of[i]]++] = Line{from + j, i * items.each + j};
    }
  }

  // Matrices with few rows wait for each other, as a single one may not keep all threads busy.
  std::vector<Share> waiting;
  const auto flush = [&] {
    if (!waiting.empty()) {
      run.few(waiting);
      waiting.clear();
    }
  };
  for (std::size_t e = 0; e < stack.count; ++e) {
    const std::size_t rows = starts[e + 1] - starts[e];
    if (rows == 0) {
      continue;
    }
    if (rows <= stack.few_rows()) {
      if (!waiting.empty() && starts[e + 1] - waiting.front().first > wave) {
        flush();
      }
      waiting.push_back(Share{e, starts[e], rows});
      continue;
    }
    flush(); // The lines of those that wait lie one after the other.
    for (std::size_t at = 0; at < rows; at += many_rows) {
      run.many(Share{e, starts[e] + at, std::min(many_rows, rows - at)});
    }
  }
  flush();
}

} // namespace shim::cpu
