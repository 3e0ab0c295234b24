// The C++ side of the bench: reads `add` or `multiply` and a number, answers with the seconds that
// so many operations took.
#include <chrono>
#include <cstdint>
#include <iostream>
#include <string>

#include "mlx/mlx.h"

namespace mx = mlx::core;

namespace {

template <typename Operation>
double record(std::uint64_t count, Operation operation) {
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < count; ++i) {
    mx::array c = operation();
    // The compiler must believe that somebody looks at the result.
    asm volatile("" : : "r"(&c) : "memory");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

} // namespace

int main() {
  mx::set_default_device(mx::Device::cpu);
  const auto a = mx::ones({4});
  const auto b = mx::ones({4});
  mx::eval(a, b);
  std::string name;
  std::uint64_t count = 0;
  while (std::cin >> name >> count) {
    const auto run = [&](std::uint64_t count) {
      return name == "add" ? record(count, [&] { return a + b; })
                           : record(count, [&] { return a * b; });
    };
    run(200);
    std::cout << run(count) << std::endl;
  }
}
