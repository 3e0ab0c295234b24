// Writing into a part of an array, as a key-value cache does at every step.
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>

#include "fused.hpp"
#include "mlx/device.h"
#include "mlx/scheduler.h"

namespace shim::cpu {
namespace {

/// Copies to and from memory of any strides, row by row.
struct Strided {
  mx::Shape shape;
  mx::Strides from_strides, to_strides;
  std::size_t item;

  void copy(char* to, const char* from) const {
    const auto step = static_cast<std::int64_t>(item);
    const int last = static_cast<int>(shape.size()) - 1;
    const std::int64_t inner = shape[last];
    const bool rows = from_strides[last] == 1 && to_strides[last] == 1;
    mx::Shape at(shape.size(), 0);
    std::int64_t in = 0, out = 0;
    for (;;) {
      if (rows) {
        std::memcpy(to + out * step, from + in * step, inner * step);
      } else {
        for (std::int64_t i = 0; i < inner; ++i) {
          std::memcpy(
              to + (out + i * to_strides[last]) * step, from + (in + i * from_strides[last]) * step,
              item);
        }
      }
      int axis = last - 1;
      for (; axis >= 0; --axis) {
        in += from_strides[axis];
        out += to_strides[axis];
        if (++at[axis] < shape[axis]) {
          break;
        }
        in -= from_strides[axis] * shape[axis];
        out -= to_strides[axis] * shape[axis];
        at[axis] = 0;
      }
      if (axis < 0) {
        return;
      }
    }
  }
};

/// How many handles share the array: `mx::array` is a shared pointer, as convert.hpp asserts.
long handles(const mx::array& a) {
  return reinterpret_cast<const std::shared_ptr<void>&>(a).use_count();
}

/// Waits until the stream's thread has done all that it was given.
void drain(const mx::Stream& s) {
  struct Done {
    std::mutex mutex;
    std::condition_variable changed;
    bool value = false;
  };
  const auto done = std::make_shared<Done>();
  mx::scheduler::enqueue(s, [done] {
    const std::lock_guard lock(done->mutex);
    done->value = true;
    done->changed.notify_one();
  });
  std::unique_lock lock(done->mutex);
  done->changed.wait(lock, [&] { return done->value; });
}

/// A graph that writes at a place fixed when it is built.
class Update : public Fused {
 public:
  Update(mx::Stream s, Graph graph, mx::Shape start)
      : Fused(s, std::move(graph)), start_(std::move(start)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const auto& in = inputs[0];
    const auto& update = inputs[1];
    if (takes_over(in)) {
      out.copy_shared_buffer(in);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
      encoder.dispatch([to = out.data<char>(), from = in.data<char>(), size = in.nbytes(),
                        whole = in.flags().row_contiguous,
                        strided = Strided{in.shape(), in.strides(), out.strides(), in.itemsize()}] {
        if (whole) {
          std::memcpy(to, from, size);
        } else {
          strided.copy(to, from);
        }
      });
    }
    std::int64_t at = 0;
    for (std::size_t axis = 0; axis < start_.size(); ++axis) {
      at += start_[axis] * out.strides()[axis];
    }
    encoder.dispatch(
        [to = out.data<char>() + at * std::int64_t(out.itemsize()), from = update.data<char>(),
         strided = Strided{update.shape(), update.strides(), out.strides(), out.itemsize()}] {
          strided.copy(to, from);
        });
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override {
    // The mapped axis becomes the first, of which the whole is written.
    const int count = axes[0] >= 0 ? inputs[0].shape(axes[0]) : inputs[1].shape(axes[1]);
    std::vector<mx::array> all;
    for (std::size_t i = 0; i < 2; ++i) {
      if (axes[i] >= 0) {
        all.push_back(mx::moveaxis(inputs[i], axes[i], 0, stream()));
        continue;
      }
      auto shape = inputs[i].shape();
      shape.insert(shape.begin(), count);
      all.push_back(mx::broadcast_to(inputs[i], shape, stream()));
    }
    auto start = start_;
    start.insert(start.begin(), 0);
    auto stop = all[1].shape();
    for (std::size_t axis = 0; axis < stop.size(); ++axis) {
      stop[axis] += start[axis];
    }
    const mx::Shape strides(stop.size(), 1);
    return {{slice_update(all[0], all[1], start, stop, strides, stream())}, {0}};
  }

  const char* name() const override {
    return "UpdateCpu";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return start_ == static_cast<const Update&>(other).start_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

 private:
  /// Whether nobody else will ever read the memory of `in`.
  ///
  /// Kernels that were dispatched and have not run yet still hold what they read. In a decode
  /// loop those of the last step always do, so that MLX copies the whole cache of every layer.
  /// Waiting for them costs one wake-up a step: the first layer waits, the others find all done.
  bool takes_over(const mx::array& in) {
    if (!in.flags().row_contiguous || in.data_size() != in.size()) {
      return false;
    }
    if (in.is_donatable()) {
      return true;
    }
    // With a GPU about, the stream may wait for work that is not committed yet.
    static const bool alone = !mx::is_available(mx::Device::gpu);
    constexpr std::size_t worth_waiting = 1 << 14;
    if (!alone || in.nbytes() < worth_waiting || handles(in) != 1) {
      return false;
    }
    drain(stream());
    return in.is_donatable();
  }

  mx::Shape start_;
};

} // namespace

mx::array slice_update(
    const mx::array& a, const mx::array& update, const mx::Shape& start, const mx::Shape& stop,
    const mx::Shape& strides, mx::Stream s) {
  const auto fits = [&] {
    const std::size_t axes = a.ndim();
    if (kernels_for(s) == nullptr || axes == 0 || a.size() == 0 || update.size() == 0 ||
        a.dtype() != update.dtype() || update.ndim() != axes || start.size() != axes ||
        stop.size() != axes || strides.size() != axes) {
      return false;
    }
    for (std::size_t axis = 0; axis < axes; ++axis) {
      if (strides[axis] != 1 || start[axis] < 0 || stop[axis] > a.shape(axis) ||
          std::int64_t(stop[axis]) - start[axis] != update.shape(axis)) {
        return false;
      }
    }
    return true;
  };
  if (!fits()) {
    return mx::slice_update(a, update, start, stop, strides, s);
  }
  auto graph = [start, stop, strides, s](const std::vector<mx::array>& in) {
    return mx::slice_update(in[0], in[1], start, stop, strides, s);
  };
  return mx::array(
      a.shape(), a.dtype(), std::make_shared<Update>(s, std::move(graph), start),
      std::vector<mx::array>{a, update});
}

} // namespace shim::cpu
