// AVX2 with FMA: eight lanes. CMakeLists.txt asks the compiler for the level.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LANES 8
#define BLOCK_ROWS 6
#define LEVEL "avx2"
#include "kernels.inl"

const shim::cpu::Kernels* const shim::cpu::kernels_avx2 = &table;
const shim::cpu::Elementwise* const shim::cpu::elementwise_avx2 = &elementwise_table;
#else
#include "elementwise.hpp"
#include "kernels.hpp"

const shim::cpu::Kernels* const shim::cpu::kernels_avx2 = nullptr;
const shim::cpu::Elementwise* const shim::cpu::elementwise_avx2 = nullptr;
#endif
