// The one place where a C++ exception becomes a C error.
#pragma once

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "shim.h"

namespace shim {

/// A caller's closure failed. Carries the caller's own box through MLX's frames, so that it
/// reaches the outermost caller as itself.
class ClosureFailure : public std::exception {
 public:
  explicit ClosureFailure(void* box);
  const char* what() const noexcept override {
    return "a closure failed";
  }
  /// Hands the box over; the exception no longer frees it.
  void* take() const noexcept;

 private:
  std::shared_ptr<void*> box_;
};

inline int fail(mlxs_error* error, mlxs_error_kind kind, const char* text) noexcept {
  error->kind = kind;
  error->payload = nullptr;
  const size_t length = std::strlen(text) + 1;
  error->text = static_cast<char*>(std::malloc(length));
  if (error->text != nullptr) {
    std::memcpy(error->text, text, length);
  }
  return 1;
}

/// Runs `body`, turning whatever it throws into `*error`.
template <typename Body>
int guard(mlxs_error* error, Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const ClosureFailure& e) {
    error->kind = MLXS_ERROR_CLOSURE;
    error->text = nullptr;
    error->payload = e.take();
    return 1;
  } catch (const std::invalid_argument& e) {
    return fail(error, MLXS_ERROR_INVALID_ARGUMENT, e.what());
  } catch (const std::out_of_range& e) {
    return fail(error, MLXS_ERROR_OUT_OF_RANGE, e.what());
  } catch (const std::overflow_error& e) {
    return fail(error, MLXS_ERROR_OVERFLOW, e.what());
  } catch (const std::bad_alloc& e) {
    return fail(error, MLXS_ERROR_OUT_OF_MEMORY, e.what());
  } catch (const std::runtime_error& e) {
    return fail(error, MLXS_ERROR_RUNTIME, e.what());
  } catch (const std::exception& e) {
    return fail(error, MLXS_ERROR_OTHER, e.what());
  } catch (...) {
    return fail(error, MLXS_ERROR_OTHER, "an exception that is not a std::exception");
  }
}

} // namespace shim
