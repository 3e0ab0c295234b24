// Compiled and imported functions whose graph serves several shapes, and the check that it does.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "convert.hpp"
#include "mlx/compile_impl.h"
#include "mlx/primitives.h"

namespace shim {

using ArraysFunction = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

/// What an operation was traced with.
struct TracedShapes {
  std::weak_ptr<mx::Primitive> primitive;
  std::vector<mx::Shape> inputs, outputs;
};

/// The operations of every trace of one function. Any thread may call.
class Traces {
 public:
  void record(const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs);

  /// Throws if an operation of a replayed graph would not have been built for its shapes. The
  /// message names the function `op` and ends with `advice`.
  void check(
      const std::vector<mx::array>& inputs,
      const std::vector<mx::array>& outputs,
      const char* op,
      const char* advice) const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<const mx::Primitive*, TracedShapes> nodes_;
};

/// `f`, compiled for all shapes that its trace can serve.
ArraysFunction shapeless(const ArraysFunction& f, std::uintptr_t id);

} // namespace shim
