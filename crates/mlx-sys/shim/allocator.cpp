// Allocation failures as exceptions.
//
// MLX's CPU allocator returns null when the system has no memory left, and its kernels then write
// there. On Linux the dynamic linker prefers a program's own definition of a library's function,
// so this one replaces `allocator()` for the whole process: it forwards to MLX's allocator and
// throws where that returns null. Evaluation turns the exception into an error of its caller.
#if defined(__linux__)

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "mlx/allocator.h"
#include "mlx/backend/cuda/cuda.h"

namespace mlx::core::allocator {

namespace {

class Checked : public Allocator {
 public:
  explicit Checked(Allocator& inner) : inner_(inner) {}

  Buffer malloc(size_t size) override {
    // MLX counts the bytes of a refused request as in use, and evaluation waits for ever once they
    // exceed its limit. A request that may be refused is therefore tried on the system first.
    constexpr size_t large = size_t{1} << 28;
    if (size >= large) {
      void* probe = size > PTRDIFF_MAX / 2 ? nullptr : std::malloc(size + sizeof(size_t));
      if (probe == nullptr) {
        throw std::bad_alloc();
      }
      std::free(probe);
    }
    auto buffer = inner_.malloc(size);
    if (buffer.ptr() == nullptr && size > 0) {
      throw std::bad_alloc();
    }
    return buffer;
  }
  void free(Buffer buffer) override {
    inner_.free(buffer);
  }
  size_t size(Buffer buffer) const override {
    return inner_.size(buffer);
  }
  Buffer make_buffer(void* ptr, size_t size) override {
    return inner_.make_buffer(ptr, size);
  }
  void release(Buffer buffer) override {
    inner_.release(buffer);
  }

 private:
  Allocator& inner_;
};

Allocator& library_allocator() {
  using Getter = Allocator& (*)();
  auto getter =
      reinterpret_cast<Getter>(dlsym(RTLD_NEXT, "_ZN3mlx4core9allocator9allocatorEv"));
  if (getter == nullptr) {
    throw std::bad_alloc();
  }
  return getter();
}

} // namespace

Allocator& allocator() {
  // The CUDA allocator throws by itself. Never destroyed: MLX frees arrays until the process ends.
  static Allocator* checked = cu::is_available()
      ? &library_allocator()
      : static_cast<Allocator*>(new Checked(library_allocator()));
  return *checked;
}

} // namespace mlx::core::allocator

#endif

extern "C" {

/// Pulls this file out of the static library.
void mlxs_keep_allocator(void) {}

} // extern "C"
