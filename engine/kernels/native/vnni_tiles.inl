// Tiles of up to 12 rows and 16 channels in AVX512-VNNI: four 8-bit or two 16-bit products and their sum in one step,
// exact in 32 bits.

template <int ROWS>
inline void vnni_tile8_of(const uint8_t* const* rows, const int8_t* weights, const int* segments, int segment_count, int depth,
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

inline void vnni_tile8(const uint8_t* const* rows, int count, const int8_t* weights, const int* segments,
                       int segment_count, int depth, int32_t* out) {
  while (count > 0) {
    int here = count >= 12 ? 12 : count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
    switch (here) {
      case 12: vnni_tile8_of<12>(rows, weights, segments, segment_count, depth, out); break;
      case 8: vnni_tile8_of<8>(rows, weights, segments, segment_count, depth, out); break;
      case 4: vnni_tile8_of<4>(rows, weights, segments, segment_count, depth, out); break;
      case 2: vnni_tile8_of<2>(rows, weights, segments, segment_count, depth, out); break;
      default: vnni_tile8_of<1>(rows, weights, segments, segment_count, depth, out);
    }
    count -= here;
    rows += here;
    out += here * PANEL;
  }
}

template <int ROWS>
inline void tile16_of(const int16_t* const* rows, const int16_t* weights, int depth, int32_t* out) {
  __m512i sums[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) sums[r] = _mm512_setzero_si512();
  for (int k = 0; k < depth; k += 2) {
    const __m512i w = _mm512_loadu_si512(weights + static_cast<size_t>(k) * PANEL);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, rows[r] + k, 4);
      sums[r] = _mm512_dpwssd_epi32(sums[r], _mm512_set1_epi32(pair), w);
    }
  }
  for (int r = 0; r < ROWS; ++r) _mm512_storeu_si512(out + r * PANEL, sums[r]);
}

inline void tile16(const int16_t* const* rows, int count, const int16_t* weights, int depth, int32_t* out) {
  while (count > 0) {
    int here = count >= 12 ? 12 : count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
    switch (here) {
      case 12: tile16_of<12>(rows, weights, depth, out); break;
      case 8: tile16_of<8>(rows, weights, depth, out); break;
      case 4: tile16_of<4>(rows, weights, depth, out); break;
      case 2: tile16_of<2>(rows, weights, depth, out); break;
      default: tile16_of<1>(rows, weights, depth, out);
    }
    count -= here;
    rows += here;
    out += here * PANEL;
  }
}
