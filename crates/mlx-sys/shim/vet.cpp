// Work whose plan MLX's CPU kernels get wrong, seen to before it starts.
//
// Reductions plan by strides: for an empty axis of an array that is not in order they read strides
// that do not exist. Scatters of empty slices divide by their size. And several kernels count
// elements in an int. None of it can be seen where an operation is recorded, because MLX records some
// of its own, above all in gradients.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <typeinfo>
#include <unordered_set>

#include "evaluate.hpp"
#include "mlx/primitives.h"

namespace {

using namespace shim;

std::atomic<bool> unusual_recorded{false};

constexpr uint64_t most = std::numeric_limits<int32_t>::max();

/// Whether the primitive is MLX's. Kernels of the shim's count in 64 bits under the same names.
bool stock(const mx::Primitive& primitive) {
  // MLX does not export the types themselves.
  return std::string_view(typeid(primitive).name()).find("N3mlx4core") != std::string_view::npos;
}

constexpr std::string_view reductions[] = {"And", "Max", "Min", "Or", "Prod", "Sum"};
constexpr std::string_view scatters[] = {
    "Scatter", "Scatter Max", "Scatter Min", "Scatter Prod", "Scatter Sum"};

template <size_t N>
bool contains(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

[[noreturn]] void refuse(const mx::array& a) {
  throw std::invalid_argument(
      "[" + std::string(a.primitive().name()) +
      "] more elements than MLX's CPU kernels can count in one operation");
}

/// Whether the offsets of elements are small, or need not be computed at all.
bool easy_to_read(const mx::array& a) {
  if (a.status() != mx::array::Status::unscheduled) {
    return a.flags().row_contiguous || a.data_size() <= most;
  }
  return a.has_primitive() && std::string_view(a.primitive().name()) == "Broadcast" &&
      a.inputs()[0].size() <= most;
}

void vet_reduction(mx::array& a) {
  auto& in = a.inputs()[0];
  const auto stream = a.primitive().stream();
  if (in.size() == 0) {
    // The result depends on no element.
    in = mx::zeros(in.shape(), in.dtype(), stream);
    return;
  }
  if (in.size() <= most) {
    return;
  }
  const auto axes = static_cast<const mx::Reduce&>(a.primitive()).state().second;
  uint64_t reduced = 1;
  bool adjacent = true;
  for (size_t i = 0; i < axes.size(); ++i) {
    reduced *= static_cast<uint64_t>(in.shape(axes[i]));
    adjacent &= i == 0 || axes[i] == axes[i - 1] + 1;
  }
  if (!adjacent || reduced > most || a.size() > most) {
    refuse(a);
  }
  if (!easy_to_read(in)) {
    in = mx::contiguous(in, false, stream);
  }
}

void vet_scatter(mx::array& a) {
  if (a.inputs().back().size() == 0) {
    const auto target = a.inputs()[0];
    a.primitive_ptr() = mx::copy(target, a.primitive().stream()).primitive_ptr();
    a.inputs() = {target};
  }
}

uint64_t matrix(const mx::array& a) {
  return a.ndim() < 2 ? a.size()
                      : static_cast<uint64_t>(a.shape(-1)) * static_cast<uint64_t>(a.shape(-2));
}

void vet_product(const mx::array& a, std::string_view name) {
  const auto& in = a.inputs();
  const auto large = [](const mx::array& operand) { return operand.size() > most; };
  bool refused = a.size() / std::max<uint64_t>(matrix(a), 1) > most;
  if (name == "Matmul" || name == "AddMM") {
    const bool half = a.dtype() == mx::float16 || a.dtype() == mx::bfloat16;
    refused |= matrix(in[0]) > most || (half && (matrix(in[1]) > most || matrix(a) > most));
  } else if (name == "QuantizedMatmul" || name == "GatherQMM") {
    refused |= large(in[0]) || large(a) || (in[1].ndim() > 2 && large(in[1]));
  } else if (name == "BlockMaskedMM") {
    refused |= std::any_of(in.begin() + 2, in.end(), large);
  } else if (name == "SegmentedMM") {
    refused |= large(a);
  } else if (name != "GatherMM") {
    return;
  }
  if (refused) {
    refuse(a);
  }
}

} // namespace

void shim::mark_unusual() {
  unusual_recorded.store(true, std::memory_order_relaxed);
}

void shim::vet(const std::vector<mx::array>& outputs) {
  if (!unusual_recorded.load(std::memory_order_relaxed)) {
    return;
  }
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> open;
  const auto push = [&](const mx::array& a) {
    if (a.status() == mx::array::Status::unscheduled && a.has_primitive() &&
        seen.insert(a.id()).second) {
      open.push_back(a);
    }
  };
  std::for_each(outputs.begin(), outputs.end(), push);
  while (!open.empty()) {
    auto a = std::move(open.back());
    open.pop_back();
    const std::string_view name = a.primitive().name();
    if (!a.inputs().empty() && a.primitive().stream().device == mx::Device::cpu &&
        stock(a.primitive())) {
      if (contains(reductions, name)) {
        vet_reduction(a);
      } else if (contains(scatters, name)) {
        vet_scatter(a);
      } else {
        vet_product(a, name);
      }
    }
    std::for_each(a.inputs().begin(), a.inputs().end(), push);
    const auto& siblings = a.siblings();
    std::for_each(siblings.begin(), siblings.end(), push);
  }
}
