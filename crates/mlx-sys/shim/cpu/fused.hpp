// A primitive with one output that stands for a short graph of MLX's operations.
#pragma once

#include <functional>
#include <utility>

#include "support.hpp"

namespace shim::cpu {

using Graph = std::function<mx::array(const std::vector<mx::array>&)>;

/// Computes in one kernel what `graph` says in MLX's operations. Derivatives and batches are those
/// of the graph.
class Fused : public mx::UnaryPrimitive {
 public:
  Fused(mx::Stream s, Graph graph) : UnaryPrimitive(s), graph_(std::move(graph)) {}

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override;

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override;

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override;

 protected:
  Graph graph_;

 private:
  /// The graph as a function of some of its inputs.
  std::function<std::vector<mx::array>(const std::vector<mx::array>&)> of(
      const std::vector<mx::array>& inputs, const std::vector<int>& argnums) const;
};

/// Gives `out` the memory of `in` if nothing else needs that, and new memory otherwise. The
/// kernel may then write each element after reading it. To be called before anything copies the
/// handle `in`.
void allocate_over(const mx::array& in, mx::array& out);

/// A vector of floats that lives on the stream's thread: reads `a`, which is in order, as f32.
struct Floats {
  const char* data = nullptr;
  Float type = Float::f32;
  std::size_t count = 0;

  Floats() = default;
  explicit Floats(const mx::array& a)
      : data(a.data<char>()), type(*float_type(a.dtype())), count(a.size()) {}

  /// Where the values are, after a conversion into `memory` if they need one.
  const float* read(const Kernels* k, float* memory) const {
    if (data == nullptr) {
      return nullptr;
    }
    if (type == Float::f32) {
      return reinterpret_cast<const float*>(data);
    }
    k->to_f32(memory, data, type, count);
    return memory;
  }
};

} // namespace shim::cpu
