// The float32 layers for x86-64 processors with AVX2 and FMA.
#include "float32.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace siftline {
namespace {
using Vector = __m256;
constexpr int LANES = 8, TILE = 6, VECTORS = 2;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector spread(float value) { return _mm256_set1_ps(value); }
inline Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
}  // namespace
#include "float32.inl"
const FloatIsa float_avx2_isa = {"avx2", norm, attention, feed_forward, pool};
}  // namespace siftline

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
