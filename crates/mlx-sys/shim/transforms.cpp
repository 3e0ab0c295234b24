// Closures over the caller's functions, and the transforms that take them.
#include <atomic>
#include <functional>
#include <unordered_set>

#include "convert.hpp"
#include "mlx/compile_impl.h"
#include "shapeless.hpp"
#include "vmap.hpp"

struct mlxs_arrays {
  std::vector<mlx::core::array> values;
};

struct mlxs_axes {
  std::vector<int> values;
};

namespace {

using namespace shim;

using Arrays = std::vector<mx::array>;
using Function = std::function<Arrays(const Arrays&)>;

std::atomic<mlxs_drop_fn> failure_drop{nullptr};

void drop_failure(void** slot) {
  if (*slot != nullptr) {
    if (auto drop = failure_drop.load()) {
      drop(*slot);
    }
  }
  delete slot;
}

const mlxs_array* data(const Arrays& arrays) {
  return reinterpret_cast<const mlxs_array*>(arrays.data());
}

using VmapFunction =
    std::function<std::pair<Arrays, std::vector<int>>(const Arrays&, const std::vector<int>&)>;

/// The vectorisation of a function that brings none: MLX would make it by its own `vmap`.
VmapFunction vmap_of(const Function& f) {
  return [f](const Arrays& inputs, const std::vector<int>& axes) {
    auto results = shim::vmap(f, inputs, axes);
    std::vector<int> result_axes(results.size(), 0);
    return std::make_pair(std::move(results), std::move(result_axes));
  };
}

/// The caller's payload, dropped through the caller's function with the last copy.
std::shared_ptr<void> own(void* payload, mlxs_drop_fn drop) {
  return std::shared_ptr<void>(payload, drop);
}

[[noreturn]] void rethrow(void* failure) {
  throw ClosureFailure(failure);
}

Function* function(mlxs_closure closure) {
  return static_cast<Function*>(closure.ctx);
}

mx::ValueAndGradFn* function(mlxs_value_and_grad f) {
  return static_cast<mx::ValueAndGradFn*>(f.ctx);
}

void store_both(
    mlxs_array_list* first,
    mlxs_array_list* second,
    std::pair<Arrays, Arrays>&& results) {
  store(first, std::move(results.first));
  store(second, std::move(results.second));
}

size_t graph_depth(const mx::array* arrays, size_t n) {
  size_t deepest = 0;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<std::pair<const mx::array*, size_t>> stack;
  for (size_t i = 0; i < n; ++i) {
    const auto& output = arrays[i];
    if (seen.insert(output.id()).second) {
      stack.emplace_back(&output, 0);
    }
    while (!stack.empty()) {
      deepest = std::max(deepest, stack.size());
      auto& [a, next] = stack.back();
      if (next == a->inputs().size()) {
        stack.pop_back();
        continue;
      }
      const auto& in = a->inputs()[next++];
      if (!in.inputs().empty() && seen.insert(in.id()).second) {
        for (const auto& sibling : in.siblings()) {
          seen.insert(sibling.id());
        }
        stack.emplace_back(&in, 0);
      }
    }
  }
  return deepest;
}

} // namespace

shim::ClosureFailure::ClosureFailure(void* box) : box_(new void*(box), drop_failure) {}

void* shim::ClosureFailure::take() const noexcept {
  void* box = *box_;
  *box_ = nullptr;
  return box;
}

extern "C" {

void mlxs_arrays_push(mlxs_arrays* out, const mlxs_array* a) {
  out->values.push_back(ref(a));
}

size_t mlxs_graph_depth(const mlxs_arrays* arrays) {
  return graph_depth(arrays->values.data(), arrays->values.size());
}

size_t mlxs_graph_depth_of(const mlxs_array* arrays, size_t n) {
  return graph_depth(reinterpret_cast<const mx::array*>(arrays), n);
}

void mlxs_axes_push(mlxs_axes* out, int32_t axis) {
  out->values.push_back(axis);
}

void mlxs_set_failure_drop(mlxs_drop_fn drop) {
  failure_drop.store(drop);
}

int mlxs_closure_new(
    mlxs_closure* out,
    void* payload,
    mlxs_call_fn call,
    mlxs_drop_fn drop,
    mlxs_error* error) {
  return guard(error, [&] {
    auto owner = own(payload, drop);
    out->ctx = new Function([owner, call](const Arrays& inputs) {
      mlxs_arrays results;
      void* failure = nullptr;
      if (call(owner.get(), data(inputs), inputs.size(), &results, &failure) != 0) {
        rethrow(failure);
      }
      return std::move(results.values);
    });
  });
}

void mlxs_closure_free(mlxs_closure closure) {
  delete function(closure);
}

int mlxs_closure_call(
    mlxs_array_list* out,
    mlxs_closure closure,
    const mlxs_array* inputs,
    size_t n_inputs,
    mlxs_error* error) {
  return guard(error, [&] { store(out, (*function(closure))(vec(inputs, n_inputs))); });
}

int mlxs_value_and_grad_new(
    mlxs_value_and_grad* out,
    mlxs_closure closure,
    const int32_t* argnums,
    size_t n_argnums,
    mlxs_error* error) {
  return guard(error, [&] {
    out->ctx = new mx::ValueAndGradFn(
        mx::value_and_grad(*function(closure), ints(argnums, n_argnums)));
  });
}

void mlxs_value_and_grad_free(mlxs_value_and_grad f) {
  delete function(f);
}

int mlxs_value_and_grad_call(
    mlxs_array_list* values,
    mlxs_array_list* grads,
    mlxs_value_and_grad f,
    const mlxs_array* inputs,
    size_t n_inputs,
    mlxs_error* error) {
  return guard(error, [&] { store_both(values, grads, (*function(f))(vec(inputs, n_inputs))); });
}

int mlxs_vjp(
    mlxs_array_list* outputs,
    mlxs_array_list* products,
    mlxs_closure closure,
    const mlxs_array* primals,
    size_t n_primals,
    const mlxs_array* cotangents,
    size_t n_cotangents,
    mlxs_error* error) {
  return guard(error, [&] {
    store_both(
        outputs,
        products,
        mx::vjp(*function(closure), vec(primals, n_primals), vec(cotangents, n_cotangents)));
  });
}

int mlxs_jvp(
    mlxs_array_list* outputs,
    mlxs_array_list* products,
    mlxs_closure closure,
    const mlxs_array* primals,
    size_t n_primals,
    const mlxs_array* tangents,
    size_t n_tangents,
    mlxs_error* error) {
  return guard(error, [&] {
    store_both(
        outputs,
        products,
        mx::jvp(*function(closure), vec(primals, n_primals), vec(tangents, n_tangents)));
  });
}

int mlxs_checkpoint(mlxs_closure* out, mlxs_closure closure, mlxs_error* error) {
  return guard(error, [&] {
    const auto& f = *function(closure);
    // As MLX's own, but for the vectorisation.
    auto vjp = [f](const Arrays& primals, const Arrays& cotangents, const Arrays& outputs) {
      return mx::vjp(f, mx::depends(primals, outputs), cotangents).second;
    };
    out->ctx = new Function(mx::custom_function(f, vjp, std::nullopt, vmap_of(f)));
  });
}

int mlxs_compile(
    mlxs_closure* out,
    mlxs_closure closure,
    uintptr_t id,
    bool shapeless,
    mlxs_error* error) {
  return guard(error, [&] {
    const auto& f = *function(closure);
    out->ctx = new Function(
        shapeless ? shim::shapeless(f, id) : mx::detail::compile(f, id, false));
  });
}

int mlxs_set_compile_mode(int32_t mode, mlxs_error* error) {
  return guard(error, [&] { mx::set_compile_mode(static_cast<mx::CompileMode>(mode)); });
}

int mlxs_custom_function(
    mlxs_closure* out,
    mlxs_closure closure,
    mlxs_hooks hooks,
    mlxs_error* error) {
  return guard(error, [&] {
    std::optional<std::function<Arrays(const Arrays&, const Arrays&, const Arrays&)>> vjp;
    std::optional<std::function<Arrays(const Arrays&, const Arrays&, const std::vector<int>&)>>
        jvp;
    std::optional<VmapFunction> vmap;
    // Every payload gets its owner before anything below can throw.
    auto vjp_owner = hooks.vjp ? own(hooks.vjp_payload, hooks.vjp_drop) : nullptr;
    auto jvp_owner = hooks.jvp ? own(hooks.jvp_payload, hooks.jvp_drop) : nullptr;
    auto vmap_owner = hooks.vmap ? own(hooks.vmap_payload, hooks.vmap_drop) : nullptr;
    if (hooks.vjp) {
      vjp = [owner = vjp_owner, call = hooks.vjp](
                const Arrays& primals, const Arrays& cotangents, const Arrays& outputs) {
        mlxs_arrays results;
        void* failure = nullptr;
        if (call(owner.get(), data(primals), primals.size(), data(cotangents), cotangents.size(),
                 data(outputs), outputs.size(), &results, &failure) != 0) {
          rethrow(failure);
        }
        return std::move(results.values);
      };
    }
    if (hooks.jvp) {
      jvp = [owner = jvp_owner, call = hooks.jvp](
                const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
        mlxs_arrays results;
        void* failure = nullptr;
        if (call(owner.get(), data(primals), primals.size(), data(tangents), tangents.size(),
                 argnums.data(), argnums.size(), &results, &failure) != 0) {
          rethrow(failure);
        }
        return std::move(results.values);
      };
    }
    if (hooks.vmap) {
      vmap = [owner = vmap_owner, call = hooks.vmap](
                 const Arrays& inputs, const std::vector<int>& axes) {
        mlxs_arrays results;
        mlxs_axes result_axes;
        void* failure = nullptr;
        if (call(owner.get(), data(inputs), inputs.size(), axes.data(), axes.size(), &results,
                 &result_axes, &failure) != 0) {
          rethrow(failure);
        }
        return std::make_pair(std::move(results.values), std::move(result_axes.values));
      };
    }
    if (!vmap && (vjp || jvp)) {
      vmap = vmap_of(*function(closure));
    }
    out->ctx = new Function(mx::custom_function(*function(closure), vjp, jvp, vmap));
  });
}

} // extern "C"
