// The forward for x86-64 processors with AVX512-VNNI.
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
constexpr bool ROWS_FIRST = false;
constexpr size_t HIDDEN = 96 * 1024;

#include "vnni_tiles.inl"

inline void tile8(const uint8_t* const* rows, int count, const int8_t* weights, const int* segments, int segment_count,
                  int depth, int32_t* out) {
  vnni_tile8(rows, count, weights, segments, segment_count, depth, out);
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
