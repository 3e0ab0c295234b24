#include "pool.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

namespace shim::cpu {
namespace {

/// How often to look for a change before going to sleep. Waking a thread takes longer than most
/// kernels of a decode step, and the next one is near.
constexpr int patience = 4000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The value of `a` once it differs from `old`.
template <typename T>
T changed(const std::atomic<T>& a, T old) {
  for (int i = 0; i < patience; ++i) {
    if (const T now = a.load(std::memory_order_acquire); now != old) {
      return now;
    }
    pause();
  }
  a.wait(old, std::memory_order_acquire);
  return a.load(std::memory_order_acquire);
}

/// Threads that sleep between kernels. It lives as long as the process: a thread of MLX may still
/// compute while static objects are destroyed.
class Pool {
 public:
  static Pool& get() {
    static Pool* pool = new Pool;
    return *pool;
  }

  std::size_t threads() const {
    return threads_;
  }

  void run(std::size_t count, void (*task)(void*, std::size_t, std::size_t), void* context) {
    // A second stream's kernel does its own work meanwhile.
    std::unique_lock lock(busy_, std::try_to_lock);
    if (!lock.owns_lock()) {
      for (std::size_t i = 0; i < count; ++i) {
        task(context, i, 0);
      }
      return;
    }
    task_ = task;
    context_ = context;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    // Whoever wakes up in time joins. The others are not waited for: on a busy machine that would
    // take longer than the work.
    inside_.store(open, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(0);
    auto inside = inside_.fetch_and(~open, std::memory_order_acq_rel) & ~open;
    while (inside != 0) {
      inside = changed(inside_, inside);
    }
  }

 private:
  Pool() {
    std::size_t wanted = std::thread::hardware_concurrency();
    if (const char* text = std::getenv("MLX_CPU_THREADS")) {
      const unsigned long asked = std::strtoul(text, nullptr, 10);
      wanted = asked > 0 ? asked : wanted;
    }
    wanted = wanted < 1 ? 1 : wanted > 256 ? 256 : wanted;
    for (; threads_ < wanted; ++threads_) {
      try {
        std::thread([this, me = threads_] { serve(me); }).detach();
      } catch (const std::system_error&) {
        break; // The system gives no more threads.
      }
    }
  }

  void serve(std::size_t me) {
    std::uint32_t seen = 0;
    for (;;) {
      seen = changed(generation_, seen);
      auto inside = inside_.load(std::memory_order_acquire);
      while ((inside & open) != 0) {
        if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) {
          work(me);
          if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            inside_.notify_one();
          }
          break;
        }
      }
    }
  }

  void work(std::size_t me) {
    for (std::size_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      task_(context_, i, me);
    }
  }

  static constexpr std::uint32_t open = 1u << 31;

  std::size_t threads_ = 1;
  std::mutex busy_;
  void (*task_)(void*, std::size_t, std::size_t) = nullptr;
  void* context_ = nullptr;
  std::size_t count_ = 0;
  std::atomic<std::size_t> next_{0};
  /// Other threads at work, and whether more may join.
  std::atomic<std::uint32_t> inside_{0};
  std::atomic<std::uint32_t> generation_{0};
};

} // namespace

std::size_t threads() {
  return Pool::get().threads();
}

void run_tasks(std::size_t count, void (*task)(void*, std::size_t, std::size_t), void* context) {
  Pool::get().run(count, task, context);
}

} // namespace shim::cpu
