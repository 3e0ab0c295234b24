// One small pool of threads for all kernels.
#pragma once

#include <cstddef>
#include <type_traits>

namespace shim::cpu {

/// How many threads work on one kernel, the calling one included.
std::size_t threads();

/// Calls `task(context, index, thread)` for each index below `count`, on all threads, and returns
/// when all have returned. `thread` is below `threads()`. Tasks must not throw.
void run_tasks(std::size_t count, void (*task)(void*, std::size_t, std::size_t), void* context);

/// The same for a callable. Runs on the calling thread alone unless `parallel`.
template <typename Task>
void for_each(std::size_t count, bool parallel, Task&& task) {
  if (!parallel || count < 2 || threads() < 2) {
    for (std::size_t i = 0; i < count; ++i) {
      task(i, std::size_t(0));
    }
    return;
  }
  run_tasks(
      count,
      [](void* context, std::size_t index, std::size_t thread) {
        (*static_cast<std::remove_reference_t<Task>*>(context))(index, thread);
      },
      const_cast<void*>(static_cast<const void*>(&task)));
}

} // namespace shim::cpu
