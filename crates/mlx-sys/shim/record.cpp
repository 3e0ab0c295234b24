#include "record.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "mlx/primitives.h"

namespace {

namespace mx = mlx::core;

long uses(const mx::array& a) {
  // An array is exactly one shared pointer; `convert.hpp` asserts the size.
  return reinterpret_cast<const std::shared_ptr<void>&>(a).use_count();
}

} // namespace

mx::array shim::add(const mx::array& a, const mx::array& b, mx::Stream s) {
  // MLX casts and broadcasts through three lists of arrays, also where there is nothing to cast or
  // to broadcast. Inside a trace it may record more than the addition, so that is left to it.
  if (a.dtype() != b.dtype() || a.shape() != b.shape() || a.is_tracer() || b.is_tracer()) {
    return mx::add(a, b, s);
  }
  std::vector<mx::array> inputs;
  inputs.reserve(2);
  inputs.push_back(a);
  inputs.push_back(b);
  return mx::array(a.shape(), a.dtype(), std::make_shared<mx::Add>(s), std::move(inputs));
}

void shim::drop(mx::array& a) noexcept {
  // The destructor of a description copies its inputs into a hash table, to find those that go with
  // it and to take long chains apart without recursion. Where others hold every input, none goes.
  // Should a worker thread give up its own hold meanwhile, an input does go with this one, and its
  // destructor is MLX's: the recursion is one deeper, not more.
  if (uses(a) == 1 && a.siblings().empty()) {
    // What the last other holder did to the description happened before.
    std::atomic_thread_fence(std::memory_order_acquire);
    auto& inputs = a.inputs();
    const bool held = std::all_of(inputs.begin(), inputs.end(), [](const mx::array& in) {
      return uses(in) > 1 && in.siblings().empty();
    });
    if (held) {
      inputs.clear();
    }
  }
  a.~array();
}
