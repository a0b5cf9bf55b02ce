// The forward for x86-64 processors with AMX: 16 rows, 16 channels and 64 inputs in one step, exact in 32 bits.
#include "model.h"
#if defined(SIFTLINE_AMX)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8")
#endif

namespace siftline {
namespace {
using Activation = uint8_t;
constexpr int OFFSET = 128, TILE = 64;
constexpr bool ROWS_FIRST = true;
constexpr size_t HIDDEN = 96 * 1024;
constexpr int ROWS = 16, STEP = 64;  // rows and inputs of a register
constexpr int FEW = 4;               // so many rows cost less without the registers

#include "vnni_tiles.inl"

struct Shape {  // of the eight tile registers, as the processor reads it
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

thread_local int shaped_for = -1;  // the rest of a depth beyond whole steps that the registers are set up for

// 0 to 3: sums of 16 rows each; 4: weights; 5: activations; 6 and 7: the same for the rest of a depth.
inline void shape(int rest) {
  if (rest == shaped_for) return;
  Shape shape;
  for (int tile = 0; tile < 6; ++tile) shape.bytes[tile] = STEP, shape.rows[tile] = ROWS;
  shape.bytes[6] = STEP, shape.rows[6] = static_cast<uint8_t>(rest ? rest / 4 : ROWS);
  shape.bytes[7] = static_cast<uint16_t>(rest ? rest : STEP), shape.rows[7] = ROWS;
  _tile_loadconfig(&shape);
  shaped_for = rest;
}

// Up to 64 rows, `stride` apart, in GROUPS of 16; of the last one all 16 are read and written.
template <int GROUPS>
inline void tile8_of(const uint8_t* x, size_t stride, const int8_t* weights, const int* segments, int segment_count,
                     int depth, int32_t* out) {
  const size_t group = stride * ROWS;
  _tile_zero(0);
  if (GROUPS > 1) _tile_zero(1);
  if (GROUPS > 2) _tile_zero(2);
  if (GROUPS > 3) _tile_zero(3);
  for (int s = 0; s < segment_count; ++s) {
    const int8_t* from = weights + static_cast<size_t>(segments[s]) * depth * PANEL;
    const uint8_t* at = x + segments[s] * depth;
    int k = 0;
    for (; k + STEP <= depth; k += STEP) {
      _tile_loadd(4, from + static_cast<size_t>(k) * PANEL, STEP);
      _tile_loadd(5, at + k, stride);
      _tile_dpbusd(0, 5, 4);
      if (GROUPS > 1) { _tile_loadd(5, at + group + k, stride); _tile_dpbusd(1, 5, 4); }
      if (GROUPS > 2) { _tile_loadd(5, at + 2 * group + k, stride); _tile_dpbusd(2, 5, 4); }
      if (GROUPS > 3) { _tile_loadd(5, at + 3 * group + k, stride); _tile_dpbusd(3, 5, 4); }
    }
    if (k < depth) {
      _tile_loadd(6, from + static_cast<size_t>(k) * PANEL, STEP);
      _tile_loadd(7, at + k, stride);
      _tile_dpbusd(0, 7, 6);
      if (GROUPS > 1) { _tile_loadd(7, at + group + k, stride); _tile_dpbusd(1, 7, 6); }
      if (GROUPS > 2) { _tile_loadd(7, at + 2 * group + k, stride); _tile_dpbusd(2, 7, 6); }
      if (GROUPS > 3) { _tile_loadd(7, at + 3 * group + k, stride); _tile_dpbusd(3, 7, 6); }
    }
  }
  _tile_stored(0, out, STEP);
  if (GROUPS > 1) _tile_stored(1, out + ROWS * PANEL, STEP);
  if (GROUPS > 2) _tile_stored(2, out + 2 * ROWS * PANEL, STEP);
  if (GROUPS > 3) _tile_stored(3, out + 3 * ROWS * PANEL, STEP);
}

inline void tile8(const uint8_t* const* rows, int count, const int8_t* weights, const int* segments, int segment_count,
                  int depth, int32_t* out) {
  int groups = count / ROWS;
  if (count % ROWS > FEW) ++groups;
  if (groups) {
    const size_t stride = count > 1 ? static_cast<size_t>(rows[1] - rows[0]) : STEP;
    shape(depth % STEP);
    switch (groups) {
      case 4: tile8_of<4>(rows[0], stride, weights, segments, segment_count, depth, out); break;
      case 3: tile8_of<3>(rows[0], stride, weights, segments, segment_count, depth, out); break;
      case 2: tile8_of<2>(rows[0], stride, weights, segments, segment_count, depth, out); break;
      default: tile8_of<1>(rows[0], stride, weights, segments, segment_count, depth, out);
    }
  }
  const int done = groups * ROWS;
  if (done < count) vnni_tile8(rows + done, count - done, weights, segments, segment_count, depth, out + done * PANEL);
}
}  // namespace
#include "forward.inl"

namespace {
int forward_and_release(const Model& model, const Request& request, void* (*arena)(size_t)) {
  const int failed = forward(model, request, arena);
  if (shaped_for >= 0) _tile_release();
  shaped_for = -1;
  return failed;
}
}  // namespace

const Isa amx_isa = {"amx_int8", 4, true, forward_and_release};

// Linux gives the registers to processes that ask.
bool amx_allowed() {
  constexpr int ASK = 0x1023, TILE_DATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
  return allowed;
}
}  // namespace siftline

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
