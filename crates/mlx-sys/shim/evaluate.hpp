// Evaluation as the rest of the shim sees it.
#pragma once

#include <vector>

#include "convert.hpp"

namespace shim {

/// Computes the arrays, and waits for them unless `async`. The caller's lock is released while
/// this waits. A failure belongs to this call: afterwards every array that could have been
/// computed wrongly holds the error.
void evaluate(const std::vector<mx::array>& arrays, bool async);

/// Runs `body` without the caller's lock; whatever it throws is thrown again under the lock.
void unlocked(void (*body)(void*), void* context);

template <typename Body>
void unlocked(Body&& body) {
  unlocked([](void* context) { (*static_cast<Body*>(context))(); }, &body);
}

/// Looks through all that evaluating `outputs` would compute, if an array that MLX's CPU kernels
/// misjudge was ever recorded. Puts in order what can be, and throws for the rest.
void vet(const std::vector<mx::array>& outputs);

/// Makes the end of the process wait for a CPU stream. Its thread lives on while libraries are taken
/// down, and work that is still under way then, as the step ahead of a decode loop is, would write
/// to memory that is gone.
void finish_at_exit(mx::Stream s);

/// Says that from now on graphs may hold operations between processes.
void mark_collective();

/// Whether a connection of the ring was lost; MLX's threads for it are gone, and waiting for them
/// would never end.
bool ring_is_lost();
void forget_lost_ring();

} // namespace shim
