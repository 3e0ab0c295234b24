// AVX-512: sixteen lanes. CMakeLists.txt asks the compiler for the level.
#if defined(__AVX512F__) && defined(__F16C__)
#define LANES 16
#define BLOCK_ROWS 12
#define LEVEL "avx512"
#include "kernels.inl"

const shim::cpu::Kernels* const shim::cpu::kernels_avx512 = &table;
const shim::cpu::Elementwise* const shim::cpu::elementwise_avx512 = &elementwise_table;
#else
#include "elementwise.hpp"
#include "kernels.hpp"

const shim::cpu::Kernels* const shim::cpu::kernels_avx512 = nullptr;
const shim::cpu::Elementwise* const shim::cpu::elementwise_avx512 = nullptr;
#endif
