// Functions on many slices at once.
#pragma once

#include <functional>
#include <vector>

#include "convert.hpp"

namespace shim {

/// `f` on the slices of `inputs` along `axes` (-1: the whole input), each output stacked along a
/// new first axis.
std::vector<mx::array> vmap(
    const std::function<std::vector<mx::array>(const std::vector<mx::array>&)>& f,
    const std::vector<mx::array>& inputs,
    const std::vector<int>& axes);

} // namespace shim
