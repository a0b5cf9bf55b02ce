// The forward for x86-64 processors with AVX512-VNNI: four 8-bit products and their sum in one step, exact in 32 bits.
#include "model.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")
#endif

namespace siftline {
namespace {
using Activation = uint8_t;  // the instruction takes one unsigned factor
constexpr int OFFSET = 128, TILE = 12;
constexpr size_t HIDDEN = 96 * 1024;

#include "avx2_tiles.inl"

template <int ROWS>
inline void tile8_of(const uint8_t* const* rows, const int8_t* weights, const int* segments, int segment_count, int depth,
                     int32_t* out) {
  __m512i sums[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) sums[r] = _mm512_setzero_si512();
  for (int s = 0; s < segment_count; ++s) {
    const int8_t* from = weights + static_cast<size_t>(segments[s]) * depth * PANEL;
    const int offset = segments[s] * depth;
    for (int k = 0; k < depth; k += 4) {
      const __m512i w = _mm512_loadu_si512(from + static_cast<size_t>(k) * PANEL);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        int32_t four;
        __builtin_memcpy(&four, rows[r] + offset + k, 4);
        sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_set1_epi32(four), w);
      }
    }
  }
  for (int r = 0; r < ROWS; ++r) _mm512_storeu_si512(out + r * PANEL, sums[r]);
}

inline void tile8(const uint8_t* const* rows, int count, const int8_t* weights, const int* segments, int segment_count,
                  int depth, int32_t* out) {
  while (count > 0) {
    int here = count >= 12 ? 12 : count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
    switch (here) {
      case 12: tile8_of<12>(rows, weights, segments, segment_count, depth, out); break;
      case 8: tile8_of<8>(rows, weights, segments, segment_count, depth, out); break;
      case 4: tile8_of<4>(rows, weights, segments, segment_count, depth, out); break;
      case 2: tile8_of<2>(rows, weights, segments, segment_count, depth, out); break;
      default: tile8_of<1>(rows, weights, segments, segment_count, depth, out);
    }
    count -= here;
    rows += here;
    out += here * PANEL;
  }
}
}  // namespace
#include "forward.inl"
const Isa vnni_isa = {"avx512_vnni", 4, true, forward};
}  // namespace siftline

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
