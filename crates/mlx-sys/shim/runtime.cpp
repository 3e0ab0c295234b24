// Devices, streams, memory and random state.
#include "evaluate.hpp"
#include "convert.hpp"

using namespace shim;

extern "C" {

int mlxs_device_count(int32_t* out, int32_t device_type, mlxs_error* error) {
  return guard(error, [&] { *out = mx::device_count(device(device_type, 0).type); });
}

int mlxs_set_default_device(int32_t device_type, int32_t device_index, mlxs_error* error) {
  return guard(error, [&] { mx::set_default_device(device(device_type, device_index)); });
}

int mlxs_device_info(
    int32_t device_type,
    int32_t device_index,
    void* context,
    void (*visit)(void*, const char*, const char*, uint64_t),
    mlxs_error* error) {
  return guard(error, [&] {
    for (const auto& [key, value] : mx::device_info(device(device_type, device_index))) {
      if (const auto* s = std::get_if<std::string>(&value)) {
        visit(context, key.c_str(), s->c_str(), 0);
      } else {
        visit(context, key.c_str(), nullptr, std::get<size_t>(value));
      }
    }
  });
}

int mlxs_stream_new(
    mlxs_stream* out,
    int32_t device_type,
    int32_t device_index,
    mlxs_error* error) {
  return guard(error, [&] {
    auto s = mx::new_thread_unsafe_stream(device(device_type, device_index));
    finish_at_exit(s);
    *out = mlxs_stream{s.index, device_type, device_index};
  });
}

int mlxs_stream_set_default(mlxs_stream s, mlxs_error* error) {
  return guard(error, [&] { mx::set_default_stream(stream(s)); });
}

int mlxs_stream_synchronize(mlxs_stream s, mlxs_error* error) {
  return guard(error, [&] { mx::synchronize(stream(s)); });
}

int mlxs_streams(void* context, void (*visit)(void*, mlxs_stream), mlxs_error* error) {
  return guard(error, [&] {
    for (const auto& s : mx::get_streams()) {
      visit(
          context,
          mlxs_stream{s.index, s.device == mx::Device::cpu ? 0 : 1, s.device.index});
    }
  });
}

int mlxs_memory_active(size_t* out, mlxs_error* error) {
  return guard(error, [&] { *out = mx::get_active_memory(); });
}

int mlxs_memory_peak(size_t* out, mlxs_error* error) {
  return guard(error, [&] { *out = mx::get_peak_memory(); });
}

int mlxs_memory_cache(size_t* out, mlxs_error* error) {
  return guard(error, [&] { *out = mx::get_cache_memory(); });
}

int mlxs_memory_limit(size_t* out, mlxs_error* error) {
  return guard(error, [&] { *out = mx::get_memory_limit(); });
}

int mlxs_memory_reset_peak(mlxs_error* error) {
  return guard(error, [&] { mx::reset_peak_memory(); });
}

int mlxs_memory_set_limit(size_t* previous, size_t limit, mlxs_error* error) {
  return guard(error, [&] { *previous = mx::set_memory_limit(limit); });
}

int mlxs_memory_set_cache_limit(size_t* previous, size_t limit, mlxs_error* error) {
  return guard(error, [&] { *previous = mx::set_cache_limit(limit); });
}

int mlxs_memory_set_wired_limit(size_t* previous, size_t limit, mlxs_error* error) {
  return guard(error, [&] { *previous = mx::set_wired_limit(limit); });
}

int mlxs_memory_of_arrays(
    size_t* out,
    const mlxs_array* const* arrays,
    size_t n,
    mlxs_error* error) {
  return guard(error, [&] { *out = mx::get_array_buffer_size(vec(arrays, n)); });
}

int mlxs_memory_clear_cache(mlxs_error* error) {
  return guard(error, [&] { mx::clear_cache(); });
}

int mlxs_promote_types(int32_t* out, int32_t a, int32_t b, mlxs_error* error) {
  return guard(error, [&] { *out = dtype_code(mx::promote_types(dtype(a), dtype(b))); });
}

int mlxs_einsum_path(
    const char* subscripts,
    size_t subscripts_len,
    const mlxs_array* const* operands,
    size_t n,
    void* context,
    void (*visit_step)(void*, const int32_t*, size_t),
    void (*visit_text)(void*, const char*),
    mlxs_error* error) {
  return guard(error, [&] {
    auto [path, report] = mx::einsum_path(text(subscripts, subscripts_len), vec(operands, n));
    for (const auto& step : path) {
      visit_step(context, step.data(), step.size());
    }
    visit_text(context, report.c_str());
  });
}

int mlxs_random_seed(uint64_t seed, mlxs_error* error) {
  return guard(error, [&] { mx::random::seed(seed); });
}

} // extern "C"
