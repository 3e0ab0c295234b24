#include "fused.hpp"

#include <stdexcept>

#include "mlx/transforms.h"

namespace shim::cpu {

void Fused::eval_gpu(const std::vector<mx::array>&, mx::array&) {
  throw std::runtime_error("a CPU kernel was placed on a GPU");
}

std::function<std::vector<mx::array>(const std::vector<mx::array>&)> Fused::of(
    const std::vector<mx::array>& inputs, const std::vector<int>& argnums) const {
  return [graph = graph_, inputs, argnums](const std::vector<mx::array>& some) {
    auto all = inputs;
    for (std::size_t i = 0; i < argnums.size(); ++i) {
      all[argnums[i]] = some[i];
    }
    return std::vector<mx::array>{graph(all)};
  };
}

std::vector<mx::array> Fused::vjp(
    const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
    const std::vector<int>& argnums, const std::vector<mx::array>&) {
  std::vector<mx::array> some;
  for (const int arg : argnums) {
    some.push_back(primals[arg]);
  }
  return mx::vjp(of(primals, argnums), some, cotangents).second;
}

std::vector<mx::array> Fused::jvp(
    const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
    const std::vector<int>& argnums) {
  std::vector<mx::array> some;
  for (const int arg : argnums) {
    some.push_back(primals[arg]);
  }
  return mx::jvp(of(primals, argnums), some, tangents).second;
}

std::pair<std::vector<mx::array>, std::vector<int>> Fused::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  const auto graph = [this](const std::vector<mx::array>& all) {
    return std::vector<mx::array>{graph_(all)};
  };
  return {mx::vmap(graph, axes)(inputs), {0}};
}

void allocate_over(const mx::array& in, mx::array& out) {
  if (in.is_donatable() && in.flags().row_contiguous && in.itemsize() == out.itemsize() &&
      in.size() == out.size()) {
    out.copy_shared_buffer(in);
  } else {
    out.set_data(mx::allocator::malloc(out.nbytes()));
  }
}

} // namespace shim::cpu
