// The forward in plain C++: any processor, and the reference of the vector kernels.
#include "model.h"

namespace siftline {
namespace {
using Activation = int16_t;
constexpr int OFFSET = 0, TILE = 4;
constexpr bool ROWS_FIRST = false;
constexpr size_t HIDDEN = 96 * 1024;  // inner states of so many neurons and rows stay in the cache

template <typename Weight>
inline void tile(const int16_t* const* rows, int count, const Weight* weights, int offset, int depth, int32_t* sums) {
  for (int k = 0; k < depth; k += 2)
    for (int r = 0; r < count; ++r) {
      const int32_t a = rows[r][offset + k], b = rows[r][offset + k + 1];
      const Weight* w = weights + static_cast<size_t>(k) * PANEL;
      for (int c = 0; c < PANEL; ++c) sums[r * PANEL + c] += a * w[2 * c] + b * w[2 * c + 1];
    }
}

inline void tile8(const int16_t* const* rows, int count, const int8_t* weights, const int* segments, int segment_count,
                  int depth, int32_t* sums) {
  for (int i = 0; i < count * PANEL; ++i) sums[i] = 0;
  for (int s = 0; s < segment_count; ++s)
    tile(rows, count, weights + static_cast<size_t>(segments[s]) * depth * PANEL, segments[s] * depth, depth, sums);
}

inline void tile16(const int16_t* const* rows, int count, const int16_t* weights, int depth, int32_t* sums) {
  for (int i = 0; i < count * PANEL; ++i) sums[i] = 0;
  tile(rows, count, weights, 0, depth, sums);
}
}  // namespace
#include "forward.inl"
const Isa scalar_isa = {"scalar", 2, false, forward};
}  // namespace siftline
