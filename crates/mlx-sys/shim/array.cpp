// Array handles: creation, description, reading, evaluation.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <unordered_set>

#include "convert.hpp"
#include "mlx/primitives.h"

namespace {

using namespace shim;

/// What an array is made of after its evaluation failed: evaluating it again repeats the error
/// instead of exposing memory that was never written.
class Failed : public mx::Primitive {
 public:
  Failed(mx::Stream stream, std::string message)
      : mx::Primitive(stream), message_(std::move(message)) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(message_);
  }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(message_);
  }
  const char* name() const override {
    return "Failed";
  }

 private:
  std::string message_;
};

/// Whether an operation that may fail on a worker thread has ever been recorded. MLX keeps such a
/// failure with the stream, gives it to whoever looks first, and leaves the arrays of the failed
/// work readable though nothing wrote them. As long as this is false, none of that can happen.
std::atomic<bool> fallible_recorded{false};

/// Primitives whose work calls LAPACK.
bool may_fail(const mx::Primitive& primitive) {
  static const std::string_view names[] = {
      "Inverse", "Cholesky", "LUF", "QRF", "SVD", "Eig", "Eigh"};
  const std::string_view name = primitive.name();
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// An array's description, held without counting as a use of it.
using Weak = std::weak_ptr<void>;

const std::shared_ptr<void>& shared(const mx::array& a) {
  // An array is exactly one shared pointer; `convert.hpp` asserts the size.
  return reinterpret_cast<const std::shared_ptr<void>&>(a);
}

/// Everything that evaluating `outputs` would compute, or nothing if none of it may fail.
std::vector<Weak> fallible_work(const std::vector<mx::array>& outputs) {
  std::vector<Weak> nodes;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> stack(outputs);
  bool fallible = false;
  while (!stack.empty()) {
    auto a = std::move(stack.back());
    stack.pop_back();
    if (a.status() == mx::array::Status::available || !seen.insert(a.id()).second) {
      continue;
    }
    nodes.emplace_back(shared(a));
    if (!a.has_primitive()) {
      continue;
    }
    fallible |= may_fail(a.primitive());
    for (const auto& in : a.inputs()) {
      stack.push_back(in);
    }
    for (const auto& sibling : a.siblings()) {
      stack.push_back(sibling);
    }
  }
  if (!fallible) {
    nodes.clear();
  }
  return nodes;
}

/// Replaces what a failed evaluation left behind by the error itself.
void poison(const std::vector<Weak>& nodes, mx::Stream stream, const std::string& message) {
  auto failed = std::make_shared<Failed>(stream, message);
  for (const auto& weak : nodes) {
    auto alive = weak.lock();
    if (!alive) {
      continue;
    }
    auto& a = reinterpret_cast<mx::array&>(alive);
    if (a.has_primitive() && a.status() == mx::array::Status::unscheduled) {
      // It still has its graph: evaluating that again reports the same cause.
      continue;
    }
    a.detach();
    a.attach_event(mx::Event{});
    a.primitive_ptr() = failed;
    a.set_status(mx::array::Status::unscheduled);
  }
}

/// Evaluates. Work that may fail is waited for even if `async`, so that its failure belongs to
/// this call, and after a failure every array it would have computed holds the error.
void evaluate(std::vector<mx::array> arrays, bool async) {
  std::vector<Weak> nodes;
  if (fallible_recorded.load(std::memory_order_relaxed)) {
    nodes = fallible_work(arrays);
  }
  if (nodes.empty()) {
    async ? mx::async_eval(std::move(arrays)) : mx::eval(std::move(arrays));
    return;
  }
  auto stream = mx::default_stream(mx::Device(mx::Device::cpu));
  try {
    mx::eval(std::move(arrays));
  } catch (const std::exception& e) {
    poison(nodes, stream, e.what());
    throw;
  }
}

} // namespace

void shim::mark_fallible() {
  fallible_recorded.store(true, std::memory_order_relaxed);
}

extern "C" {

void mlxs_error_clear(mlxs_error* error) {
  std::free(error->text);
  error->text = nullptr;
  error->payload = nullptr;
  error->kind = MLXS_ERROR_NONE;
}

void mlxs_array_clone(mlxs_array* out, const mlxs_array* a) {
  new (out) mx::array(ref(a));
}

void mlxs_array_drop(mlxs_array* a) {
  ref_mut(a).~array();
}

void mlxs_array_list_free(mlxs_array_list* list) {
  ::operator delete(list->data);
  list->data = nullptr;
  list->len = 0;
}

int mlxs_array_from_data(
    mlxs_array* out,
    const void* data,
    size_t nbytes,
    const int32_t* dims,
    size_t ndim,
    int32_t code,
    mlxs_error* error) {
  return guard(error, [&] {
    auto buffer = mx::allocator::malloc(nbytes);
    if (buffer.buffer().ptr() == nullptr && nbytes > 0) {
      throw std::bad_alloc();
    }
    if (nbytes > 0) {
      auto target = buffer.buffer();
      std::memcpy(target.raw_ptr(), data, nbytes);
    }
    store(out, mx::array(std::move(buffer), shape(dims, ndim), dtype(code)));
  });
}

int mlxs_array_from_owned_data(
    mlxs_array* out,
    void* data,
    const int32_t* dims,
    size_t ndim,
    int32_t code,
    void* payload,
    void (*release)(void*),
    mlxs_error* error) {
  // The shared pointer makes "exactly once" hold on every path, exceptions included.
  std::shared_ptr<void> owner;
  int status = guard(error, [&] { owner = std::shared_ptr<void>(payload, release); });
  if (status != 0) {
    return status;
  }
  return guard(error, [&] {
    store(out, mx::array(data, shape(dims, ndim), dtype(code), [owner](void*) {}));
  });
}

int mlxs_array_from_scalar(
    mlxs_array* out,
    const void* value,
    int32_t code,
    mlxs_error* error) {
  return guard(error, [&] {
    auto d = dtype(code);
    auto buffer = mx::allocator::malloc(d.size());
    auto target = buffer.buffer();
    std::memcpy(target.raw_ptr(), value, d.size());
    store(out, mx::array(std::move(buffer), mx::Shape{}, d));
  });
}

size_t mlxs_array_ndim(const mlxs_array* a) {
  return ref(a).ndim();
}

const int32_t* mlxs_array_shape(const mlxs_array* a) {
  return ref(a).shape().data();
}

size_t mlxs_array_size(const mlxs_array* a) {
  return ref(a).size();
}

int32_t mlxs_array_dtype(const mlxs_array* a) {
  return dtype_code(ref(a).dtype());
}

uintptr_t mlxs_array_id(const mlxs_array* a) {
  return ref(a).id();
}

int32_t mlxs_array_status(const mlxs_array* a) {
  switch (ref(a).status()) {
    case mx::array::Status::unscheduled:
      return 0;
    case mx::array::Status::evaluated:
      return 1;
    case mx::array::Status::available:
      return 2;
  }
  return 0;
}

int mlxs_array_read(
    const mlxs_array* a,
    const void** data,
    size_t* data_size,
    int64_t* out_strides,
    bool* row_contiguous,
    mlxs_error* error) {
  return guard(error, [&] {
    const mx::array& x = ref(a);
    evaluate({x}, false);
    *data = x.size() == 0 ? nullptr : x.data<char>();
    *data_size = x.data_size();
    *row_contiguous = x.flags().row_contiguous;
    std::copy(x.strides().begin(), x.strides().end(), out_strides);
  });
}

int mlxs_eval(const mlxs_array* const* arrays, size_t n, mlxs_error* error) {
  return guard(error, [&] { evaluate(vec(arrays, n), false); });
}

int mlxs_async_eval(const mlxs_array* const* arrays, size_t n, mlxs_error* error) {
  return guard(error, [&] { evaluate(vec(arrays, n), true); });
}

const char* mlxs_version(void) {
  return mx::version();
}

} // extern "C"
