// Conversions between the C ABI's plain values and MLX's types.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/cpu.hpp"
#include "guard.hpp"
#include "mlx/mlx.h"
#include "record.hpp"

namespace shim {

namespace mx = mlx::core;

static_assert(sizeof(mx::array) == sizeof(mlxs_array), "an array must be one shared pointer");
static_assert(alignof(mx::array) == alignof(mlxs_array));

inline const mx::array& ref(const mlxs_array* a) {
  return *reinterpret_cast<const mx::array*>(a);
}

inline mx::array& ref_mut(mlxs_array* a) {
  return *reinterpret_cast<mx::array*>(a);
}

inline std::optional<mx::array> opt(const mlxs_array* a) {
  return a == nullptr ? std::nullopt : std::make_optional(ref(a));
}

inline std::optional<int> opt(mlxs_opt_int v) {
  return v.some ? std::make_optional<int>(v.value) : std::nullopt;
}

inline std::optional<float> opt(mlxs_opt_f32 v) {
  return v.some ? std::make_optional(v.value) : std::nullopt;
}

inline std::optional<bool> opt(mlxs_opt_bool v) {
  return v.some ? std::make_optional(v.value) : std::nullopt;
}

/// Arrays given as pointers to handles.
inline std::vector<mx::array> vec(const mlxs_array* const* arrays, size_t n) {
  std::vector<mx::array> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    out.push_back(ref(arrays[i]));
  }
  return out;
}

/// Arrays given as adjacent handles.
inline std::vector<mx::array> vec(const mlxs_array* arrays, size_t n) {
  const auto* first = reinterpret_cast<const mx::array*>(arrays);
  return n == 0 ? std::vector<mx::array>{} : std::vector<mx::array>(first, first + n);
}

inline std::vector<int> ints(const int32_t* values, size_t n) {
  return n == 0 ? std::vector<int>{} : std::vector<int>(values, values + n);
}

inline mx::Shape shape(const int32_t* values, size_t n) {
  return n == 0 ? mx::Shape{} : mx::Shape(values, values + n);
}

inline mx::Strides strides(const int64_t* values, size_t n) {
  return n == 0 ? mx::Strides{} : mx::Strides(values, values + n);
}

inline std::string text(const char* data, size_t n) {
  return n == 0 ? std::string{} : std::string(data, n);
}

inline std::pair<int, int> pair_of(const std::vector<int>& v) {
  if (v.size() != 2) {
    throw std::invalid_argument("two values are needed, one for each spatial axis");
  }
  return {v[0], v[1]};
}

inline std::tuple<int, int, int> triple_of(const std::vector<int>& v) {
  if (v.size() != 3) {
    throw std::invalid_argument("three values are needed, one for each spatial axis");
  }
  return {v[0], v[1], v[2]};
}

/// Dtypes cross as the position in this list, which `mlx-core`'s `Dtype` repeats.
inline mx::Dtype dtype(int32_t code) {
  static const mx::Dtype table[] = {
      mx::bool_,  mx::uint8, mx::uint16, mx::uint32,  mx::uint64,   mx::int8,    mx::int16,
      mx::int32,  mx::int64, mx::float16, mx::bfloat16, mx::float32, mx::float64, mx::complex64,
  };
  if (code < 0 || code >= static_cast<int32_t>(std::size(table))) {
    throw std::invalid_argument("unknown dtype code");
  }
  return table[code];
}

inline std::optional<mx::Dtype> opt_dtype(int32_t code) {
  return code < 0 ? std::nullopt : std::make_optional(dtype(code));
}

inline int32_t dtype_code(mx::Dtype d) {
  switch (d.val()) {
    case mx::Dtype::Val::bool_:
      return 0;
    case mx::Dtype::Val::uint8:
      return 1;
    case mx::Dtype::Val::uint16:
      return 2;
    case mx::Dtype::Val::uint32:
      return 3;
    case mx::Dtype::Val::uint64:
      return 4;
    case mx::Dtype::Val::int8:
      return 5;
    case mx::Dtype::Val::int16:
      return 6;
    case mx::Dtype::Val::int32:
      return 7;
    case mx::Dtype::Val::int64:
      return 8;
    case mx::Dtype::Val::float16:
      return 9;
    case mx::Dtype::Val::bfloat16:
      return 10;
    case mx::Dtype::Val::float32:
      return 11;
    case mx::Dtype::Val::float64:
      return 12;
    case mx::Dtype::Val::complex64:
      return 13;
  }
  return -1;
}

inline mx::Device device(int32_t type, int32_t index) {
  return mx::Device(type == 0 ? mx::Device::cpu : mx::Device::gpu, index);
}

inline mx::Stream stream(mlxs_stream s) {
  return mx::Stream(s.index, device(s.device_type, s.device_index));
}

inline mx::fft::FFTNorm fftnorm(int32_t code) {
  switch (code) {
    case 1:
      return mx::fft::FFTNorm::Ortho;
    case 2:
      return mx::fft::FFTNorm::Forward;
    default:
      return mx::fft::FFTNorm::Backward;
  }
}

/// Says that from now on graphs may hold empty arrays, or ones whose elements no int can count,
/// which MLX's CPU kernels misjudge (see vet.cpp).
void mark_unusual();

/// Refuses shapes that MLX computes without looking: it multiplies dimensions in words that wrap,
/// so a result larger than memory can have is described as small.
inline void check_size(const mx::array& a) {
  // Room for the bytes of an element, and for sums of sizes.
  constexpr uint64_t most = uint64_t{1} << 56;
  uint64_t size = 1;
  bool empty = false;
  for (auto dim : a.shape()) {
    if (dim < 0) {
      throw std::invalid_argument("the result would have a negative dimension");
    }
    empty |= dim == 0;
    const auto length = static_cast<uint64_t>(std::max(dim, 1));
    if (size > most / length) {
      throw std::invalid_argument("the result would be larger than any memory");
    }
    size *= length;
  }
  if (empty || size > std::numeric_limits<int32_t>::max()) {
    mark_unusual();
  }
}

inline void store(mlxs_array* out, mx::array&& a) {
  check_size(a);
  new (out) mx::array(std::move(a));
}

inline void store(mlxs_array_list* out, std::vector<mx::array>&& arrays) {
  for (const auto& a : arrays) {
    check_size(a);
  }
  out->len = arrays.size();
  out->data = static_cast<mlxs_array*>(::operator new(sizeof(mlxs_array) * arrays.size()));
  for (size_t i = 0; i < arrays.size(); ++i) {
    new (&out->data[i]) mx::array(std::move(arrays[i]));
  }
}

/// Two results at `out[0]` and `out[1]`.
inline void store_pair(mlxs_array* out, std::pair<mx::array, mx::array>&& p) {
  check_size(p.first);
  check_size(p.second);
  new (&out[0]) mx::array(std::move(p.first));
  new (&out[1]) mx::array(std::move(p.second));
}

inline void store_pair(mlxs_array* out, std::tuple<mx::array, mx::array>&& p) {
  check_size(std::get<0>(p));
  check_size(std::get<1>(p));
  new (&out[0]) mx::array(std::move(std::get<0>(p)));
  new (&out[1]) mx::array(std::move(std::get<1>(p)));
}

/// Says that from now on graphs may hold work that fails while it is computed (see array.cpp).
void mark_fallible();

} // namespace shim
