// Array handles: creation, description, reading.
#include <algorithm>

#include "evaluate.hpp"

using namespace shim;

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
  drop(ref_mut(a));
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
  mlxs_keep_allocator();
  return guard(error, [&] {
    auto buffer = mx::allocator::malloc(nbytes);
    if (buffer.buffer().ptr() == nullptr && nbytes > 0) {
      throw std::bad_alloc();
    }
    if (nbytes > 0) {
      auto target = buffer.buffer();
      if (data == nullptr) {
        std::memset(target.raw_ptr(), 0, nbytes);
      } else {
        std::memcpy(target.raw_ptr(), data, nbytes);
      }
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

const char* mlxs_version(void) {
  return mx::version();
}

} // extern "C"
