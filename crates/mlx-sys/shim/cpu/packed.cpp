#include <cstring>

#include "packed.hpp"

namespace shim::cpu {
namespace {

std::optional<Scale> affine_scale(mx::Dtype dtype) {
  const auto type = float_type(dtype);
  if (!type) {
    return std::nullopt;
  }
  return *type == Float::f32 ? Scale::f32 : *type == Float::f16 ? Scale::f16 : Scale::bf16;
}

std::size_t size_of(Scale scale) {
  return scale == Scale::f32 ? 4 : scale == Scale::f16 || scale == Scale::bf16 ? 2 : 1;
}

Float float_of(Scale scale) {
  return scale == Scale::f32 ? Float::f32 : scale == Scale::f16 ? Float::f16 : Float::bf16;
}

/// Whether some kernel multiplies rows of these codes in integers.
const IntegerKernels* integers_for(const Packing& packing, std::size_t inner, bool transpose) {
  const auto* integers = integer_kernels();
  const bool codes = packing.code == Code::integer ||
      (packing.code == Code::fp4 && integers == integer_vnni && fp4_vnni != nullptr);
  return transpose && codes && inner >= 256 ? integers : nullptr;
}

} // namespace

std::optional<Packing> packing_of(
    const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
    std::optional<int> group_size, std::optional<int> bits, const std::string& mode) {
  if (w.dtype() != mx::uint32 || w.ndim() < 2 || w.size() == 0 || scales.ndim() != w.ndim() ||
      !std::equal(w.shape().begin(), w.shape().end() - 1, scales.shape().begin())) {
    return std::nullopt;
  }
  Packing packing{};
  if (mode == "affine") {
    const auto scale = affine_scale(scales.dtype());
    if (!scale || !biases || biases->dtype() != scales.dtype() ||
        biases->shape() != scales.shape()) {
      return std::nullopt;
    }
    const int group = group_size.value_or(64), width = bits.value_or(4);
    if ((group != 32 && group != 64 && group != 128) || width < 1 || width > 8 || width == 7) {
      return std::nullopt;
    }
    packing = {Code::integer, *scale, static_cast<std::size_t>(group), width};
  } else {
    if (mode == "mxfp4") {
      packing = {Code::fp4, Scale::e8m0, 32, 4};
    } else if (mode == "mxfp8") {
      packing = {Code::fp8, Scale::e8m0, 32, 8};
    } else if (mode == "nvfp4") {
      packing = {Code::fp4, Scale::e4m3, 16, 4};
    } else {
      return std::nullopt;
    }
    if (biases || scales.dtype() != mx::uint8 || bits.value_or(packing.bits) != packing.bits ||
        group_size.value_or(static_cast<int>(packing.group)) != static_cast<int>(packing.group)) {
      return std::nullopt;
    }
  }
  const std::size_t numbers = unpacked_size(scales, packing);
  return static_cast<std::size_t>(w.shape(-1)) * 32 == numbers * packing.bits
      ? std::make_optional(packing)
      : std::nullopt;
}

PackedStack::PackedStack(
    const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
    Packing packing, bool transpose)
    : Stack(
          w.size() / (static_cast<std::size_t>(w.shape(-1)) * w.shape(-2)),
          transpose ? w.shape(-2) : unpacked_size(scales, packing),
          transpose ? unpacked_size(scales, packing) : w.shape(-2)),
      k_(kernels()),
      integers_(integers_for(packing, inner, transpose)),
      w_(w.data<std::uint32_t>()),
      scales_(scales.data<char>()),
      biases_(biases ? biases->data<char>() : nullptr),
      scale_size_(size_of(packing.scale)),
      packing_(packing),
      transpose_(transpose),
      rows_(w.shape(-2)),
      words_(w.shape(-1)),
      groups_(scales.shape(-1)) {}

std::size_t PackedStack::few_rows() const {
  // Up to here decoding for every four rows costs less than the slower but single decoding of a
  // blocked product.
  return integers_ != nullptr ? 64 : transpose_ ? 24 : 8;
}

std::size_t PackedStack::few_columns() const {
  return transpose_ ? 32 : 256;
}

std::size_t PackedStack::arranged_bytes() const {
  if (integers_ != nullptr) {
    return integers_->arranged_bytes(inner, packing_.bits);
  }
  return arranged_floats(inner) * sizeof(float);
}

std::size_t PackedStack::arranged_sums() const {
  return transpose_ ? groups_ : 0;
}

std::size_t PackedStack::few_scratch() const {
  return transpose_ ? scratch_floats(groups_) : few_columns() + 2 * (few_columns() / 16 + 1);
}

void PackedStack::arrange(char* to, float* sums, const float* row) const {
  if (integers_ != nullptr) {
    integers_->arrange(to, sums, row, inner, packing_.bits, packing_.group);
    return;
  }
  auto* floats = reinterpret_cast<float*>(to);
  if (!transpose_ || packing_.code == Code::fp8) {
    std::memcpy(floats, row, inner * sizeof(float));
    return;
  }
  k_->arrange(floats, row, inner, packing_.bits);
  if (packing_.code == Code::integer) {
    for (std::size_t g = 0; g < groups_; ++g) {
      float total = 0;
      for (std::size_t j = 0; j < packing_.group; ++j) {
        total += row[g * packing_.group + j];
      }
      sums[g] = total;
    }
  }
}

void PackedStack::few(const FewRows& rows) const {
  transpose_ ? few_transposed(rows) : few_straight(rows);
}

void PackedStack::few_transposed(const FewRows& rows) const {
  const std::size_t row = rows.matrix * rows_ + rows.first;
  const std::uint32_t* weights = w_ + row * words_;
  const std::size_t at = row * groups_ * scale_size_;
  const std::size_t stride = arranged_bytes();
  if (packing_.code != Code::integer) {
    const CodedDot dot{
        .weights = weights,
        .words = words_,
        .scales = reinterpret_cast<const std::uint8_t*>(scales_) + at,
        .scale = packing_.scale,
        .groups = groups_,
        .group = packing_.group,
        .code = packing_.code,
        .x = rows.x,
        .x_stride = integers_ != nullptr ? stride : stride / sizeof(float),
        .sums = rows.sums,
        .m = rows.m,
        .out = rows.out,
        .out_stride = few_columns(),
        .rows = rows.count,
        .scratch = rows.scratch,
    };
    integers_ != nullptr ? fp4_vnni(dot) : k_->packed->coded_dot(dot);
    return;
  }
  if (integers_ != nullptr) {
    integers_->dot(IntegerDot{
        .weights = weights,
        .words = words_,
        .scales = scales_ + at,
        .biases = biases_ + at,
        .scale_type = float_of(packing_.scale),
        .groups = groups_,
        .group = packing_.group,
        .bits = packing_.bits,
        .x = rows.x,
        .x_stride = stride,
        .sums = rows.sums,
        .m = rows.m,
        .out = rows.out,
        .out_stride = few_columns(),
        .rows = rows.count,
    });
    return;
  }
  k_->quantized_dot(QuantizedDot{
      .weights = weights,
      .words = words_,
      .scales = scales_ + at,
      .biases = biases_ + at,
      .scale_type = float_of(packing_.scale),
      .groups = groups_,
      .group = static_cast<int>(packing_.group),
      .bits = packing_.bits,
      .x = reinterpret_cast<const float*>(rows.x),
      .x_stride = stride / sizeof(float),
      .sums = rows.sums,
      .m = rows.m,
      .out = rows.out,
      .out_stride = few_columns(),
      .rows = rows.count,
      .scratch = rows.scratch,
  });
}

void PackedStack::few_straight(const FewRows& rows) const {
  const std::size_t width = few_columns();
  std::memset(rows.out, 0, rows.m * width * sizeof(float));
  float* line = rows.scratch;
  const auto* x = reinterpret_cast<const float*>(rows.x);
  for (std::size_t p = 0; p < inner; ++p) {
    unpack(line, rows.matrix * rows_ + p, rows.first, rows.count, Float::f32, line + width);
    k_->packed->add_scaled(
        rows.out, width, line, x + p, arranged_bytes() / sizeof(float), rows.m, rows.count);
  }
}

void PackedStack::unpack(
    float* to, std::size_t row, std::size_t from, std::size_t count, Float rounded,
    float* scratch) const {
  const auto* packed = k_->packed;
  const std::size_t group = packing_.group;
  const std::size_t within = from % group;
  const std::size_t groups = (within + count + group - 1) / group;
  const std::size_t at = (row * groups_ + from / group) * scale_size_;
  packed->decode(to, w_ + row * words_, packing_.code, packing_.bits, from, count);
  packed->decode_scales(scratch, scales_ + at, packing_.scale, groups);
  float* biases = nullptr;
  if (biases_ != nullptr) {
    biases = scratch + groups;
    packed->decode_scales(biases, biases_ + at, packing_.scale, groups);
  }
  packed->scale_groups(to, scratch, biases, group, within, count, rounded);
}

/// Tiles hold bf16 as it is, and numbers times scales in two parts.
const Blocks& PackedStack::blocks(Float x_type) const {
  const auto* tiles = x_type == Float::bf16 ? tile_kernels() : nullptr;
  return tiles != nullptr ? tiles->half : k_->blocks;
}

std::size_t PackedStack::pack_scratch(const Blocks& how) const {
  return how.columns * how.depth + 2 * (how.depth / 16 + 1);
}

void PackedStack::pack(
    const Blocks& how, std::size_t matrix, void* to, std::size_t column, std::size_t columns,
    std::size_t from, std::size_t steps, float* scratch) const {
  float* groups = scratch + how.columns * how.depth;
  if (transpose_) {
    for (std::size_t j = 0; j < columns; ++j) {
      const std::size_t row = matrix * rows_ + column + j;
      unpack(scratch + j * how.depth, row, from, steps, Float::f32, groups);
    }
    const auto next = static_cast<std::int64_t>(how.depth);
    how.pack_b(to, scratch, Float::f32, 1, next, steps, columns);
    return;
  }
  for (std::size_t p = 0; p < steps; ++p) {
    const std::size_t row = matrix * rows_ + from + p;
    unpack(scratch + p * how.columns, row, column, columns, Float::f32, groups);
  }
  const auto step = static_cast<std::int64_t>(how.columns);
  how.pack_b(to, scratch, Float::f32, step, 1, steps, columns);
}

} // namespace shim::cpu
