// The forward for x86-64 processors with AVX2.
#include "model.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace siftline {
namespace {
using Activation = int16_t;
constexpr int OFFSET = 0, TILE = 6;
constexpr bool ROWS_FIRST = false;
constexpr size_t HIDDEN = 96 * 1024;

#include "avx2_tiles.inl"

template <int ROWS>
inline void tile8_of(const int16_t* const* rows, const int8_t* weights, const int* segments, int segment_count, int depth,
                     int32_t* out) {
  __m256i sums[ROWS][2] = {};
  for (int s = 0; s < segment_count; ++s) {
    const int8_t* from = weights + static_cast<size_t>(segments[s]) * depth * PANEL;
    tile_of<ROWS>(rows, segments[s] * depth, depth, [&](int k, int half) {
      return _mm256_cvtepi8_epi16(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + static_cast<size_t>(k) * PANEL + half * 16)));
    }, sums);
  }
  store<ROWS>(sums, out);
}

inline void tile8(const int16_t* const* rows, int count, const int8_t* weights, const int* segments, int segment_count,
                  int depth, int32_t* out) {
  switch (count) {
    case 6: return tile8_of<6>(rows, weights, segments, segment_count, depth, out);
    case 5: return tile8_of<5>(rows, weights, segments, segment_count, depth, out);
    case 4: return tile8_of<4>(rows, weights, segments, segment_count, depth, out);
    case 3: return tile8_of<3>(rows, weights, segments, segment_count, depth, out);
    case 2: return tile8_of<2>(rows, weights, segments, segment_count, depth, out);
    default: return tile8_of<1>(rows, weights, segments, segment_count, depth, out);
  }
}
}  // namespace
#include "forward.inl"
const Isa avx2_isa = {"avx2", 2, false, forward};
}  // namespace siftline

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
