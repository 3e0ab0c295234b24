// Functions on many slices at once: every operation of a trace gives way to what its rule makes of
// it.
//
// MLX does the same and believes its rules. Some are wrong: that of `divmod` gives two results and
// one axis, those of scatters mix up axes that are not the first. So each result is held to what
// the operation gave for one slice, and scatters get their slices in front.
#include "vmap.hpp"

#include <sstream>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "mlx/primitives.h"
#include "mlx/transforms_impl.h"

namespace shim {

namespace {

using Arrays = std::vector<mx::array>;

/// What stands for an array of the trace; with axis -1 it is the same for every slice.
struct Batch {
  mx::array value;
  int axis;
};

using Batches = std::unordered_map<std::uintptr_t, Batch>;

/// Whether the batch holds `slices` arrays like `slice`.
bool fits(const Batch& batch, const mx::array& slice, int slices) {
  auto shape = batch.value.shape();
  if (batch.axis >= 0) {
    if (batch.axis >= static_cast<int>(shape.size()) || shape[batch.axis] != slices) {
      return false;
    }
    shape.erase(shape.begin() + batch.axis);
  }
  return batch.value.dtype() == slice.dtype() && shape == slice.shape();
}

[[noreturn]] void refuse(const mx::array& a) {
  std::ostringstream text;
  text << "[vmap] the rule of " << a.primitive().name() << " does not serve inputs of shapes";
  for (const auto& in : a.inputs()) {
    text << " " << in.shape();
  }
  throw std::invalid_argument(text.str());
}

/// The operation that computes `a` and its siblings, on all slices at once.
void batch(const mx::array& a, Batches& known, int slices) {
  auto& primitive = a.primitive();
  const bool front = std::string_view(primitive.name()).substr(0, 7) == "Scatter";
  Arrays inputs;
  std::vector<int> axes;
  for (const auto& in : a.inputs()) {
    const auto found = known.find(in.id());
    auto [value, axis] = found == known.end() ? Batch{in, -1} : found->second;
    if (front && axis > 0) {
      value = mx::moveaxis(value, axis, 0, primitive.stream());
      axis = 0;
    }
    inputs.push_back(std::move(value));
    axes.push_back(axis);
  }
  auto [values, value_axes] = primitive.vmap(inputs, axes);
  if (value_axes.size() == 1) {
    value_axes.resize(values.size(), value_axes[0]);
  }
  const auto outputs = a.outputs();
  if (values.size() != outputs.size() || value_axes.size() != outputs.size()) {
    refuse(a);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    Batch result{values[i], value_axes[i]};
    if (!fits(result, outputs[i], slices)) {
      refuse(a);
    }
    known.insert_or_assign(outputs[i].id(), std::move(result));
  }
}

/// Whether the operation has an input that differs from slice to slice. If so, it and its siblings
/// are placeholders no longer.
bool differs(mx::array a, const Batches& known) {
  const auto& in = a.inputs();
  const bool any = std::any_of(
      in.begin(), in.end(), [&](const mx::array& x) { return known.count(x.id()) > 0; });
  if (any) {
    a.set_tracer(false);
    for (auto& sibling : a.siblings()) {
      sibling.set_tracer(false);
    }
  }
  return any;
}

/// Batches everything between the trace's inputs, which are in `seen`, and `outputs`. A loop and not
/// a recursion: graphs may be deeper than the stack.
void batch_all(
    const Arrays& outputs, std::unordered_set<std::uintptr_t>& seen, Batches& known, int slices) {
  std::vector<std::pair<mx::array, size_t>> stack;
  const auto push = [&](const mx::array& a) {
    if (a.has_primitive() && seen.insert(a.id()).second) {
      for (const auto& sibling : a.siblings()) {
        seen.insert(sibling.id());
      }
      stack.emplace_back(a, 0);
    }
  };
  for (const auto& output : outputs) {
    push(output);
    while (!stack.empty()) {
      auto& [a, next] = stack.back();
      if (next < a.inputs().size()) {
        const mx::array input = a.inputs()[next++];
        push(input);
        continue;
      }
      const auto done = a;
      stack.pop_back();
      if (differs(done, known)) {
        batch(done, known, slices);
      }
    }
  }
}

/// The batch of an output along its first axis.
mx::array stacked(const mx::array& output, const Batches& known, int slices) {
  const auto found = known.find(output.id());
  const auto& [value, axis] = found == known.end() ? Batch{output, -1} : found->second;
  const auto stream = value.has_primitive() ? value.primitive().stream()
                                            : mx::default_stream(mx::default_device());
  if (axis >= 0) {
    return axis == 0 ? value : mx::moveaxis(value, axis, 0, stream);
  }
  auto shape = value.shape();
  shape.insert(shape.begin(), slices);
  return mx::broadcast_to(mx::expand_dims(value, 0, stream), shape, stream);
}

} // namespace

std::vector<mx::array> vmap(
    const std::function<std::vector<mx::array>(const std::vector<mx::array>&)>& f,
    const std::vector<mx::array>& inputs,
    const std::vector<int>& axes) {
  int slices = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) {
      slices = inputs[i].shape(axes[i]);
    }
  }
  // MLX's rules divide by the number.
  if (slices == 0) {
    throw std::invalid_argument("[vmap] there is no slice");
  }
  const auto [traced, outputs] = mx::detail::vmap_trace(f, inputs, axes);
  Batches known;
  std::unordered_set<std::uintptr_t> seen;
  for (size_t i = 0; i < traced.size(); ++i) {
    auto placeholder = traced[i];
    seen.insert(placeholder.id());
    if (axes[i] >= 0) {
      known.insert_or_assign(placeholder.id(), Batch{inputs[i], axes[i]});
      placeholder.set_tracer(false);
    }
  }
  batch_all(outputs, seen, known, slices);
  Arrays results;
  for (const auto& output : outputs) {
    results.push_back(stacked(output, known, slices));
  }
  return results;
}

} // namespace shim

extern "C" int mlxs_vmap_call(
    mlxs_array_list* out,
    mlxs_closure closure,
    const mlxs_array* inputs,
    const int32_t* in_axes,
    size_t n_inputs,
    mlxs_error* error) {
  using namespace shim;
  using Function = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;
  return guard(error, [&] {
    const auto& f = *static_cast<Function*>(closure.ctx);
    store(out, shim::vmap(f, vec(inputs, n_inputs), ints(in_axes, n_inputs)));
  });
}
