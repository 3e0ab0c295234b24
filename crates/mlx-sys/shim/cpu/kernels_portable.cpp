// What every processor of the architecture has: SSE2 on x86-64, NEON on arm64.
#define LANES 4
#define BLOCK_ROWS 4
#define LEVEL "portable"
#include "kernels.inl"

const shim::cpu::Kernels* const shim::cpu::kernels_portable = &table;
const shim::cpu::Elementwise* const shim::cpu::elementwise_portable = &elementwise_table;
