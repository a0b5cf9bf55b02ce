// Tiles of up to 6 rows and 16 channels in AVX2: pairs of 16-bit numbers are multiplied and added, which is exact.

template <int ROWS, typename Load>
inline void tile_of(const int16_t* const* rows, int offset, int depth, Load load, __m256i (&sums)[ROWS][2]) {
  for (int k = 0; k < depth; k += 2) {
    const __m256i low = load(k, 0), high = load(k, 1);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, rows[r] + offset + k, 4);
      const __m256i a = _mm256_set1_epi32(pair);
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(a, low));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(a, high));
    }
  }
}

template <int ROWS>
inline void store(const __m256i (&sums)[ROWS][2], int32_t* out) {
  for (int r = 0; r < ROWS; ++r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * PANEL), sums[r][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * PANEL + 8), sums[r][1]);
  }
}

template <int ROWS>
inline void tile16_of(const int16_t* const* rows, const int16_t* weights, int depth, int32_t* out) {
  __m256i sums[ROWS][2] = {};
  tile_of<ROWS>(rows, 0, depth, [&](int k, int half) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + static_cast<size_t>(k) * PANEL + half * 16));
  }, sums);
  store<ROWS>(sums, out);
}

inline void tile16(const int16_t* const* rows, int count, const int16_t* weights, int depth, int32_t* out) {
  for (; count > 6; count -= 6, rows += 6, out += 6 * PANEL) tile16_of<6>(rows, weights, depth, out);
  switch (count) {
    case 6: return tile16_of<6>(rows, weights, depth, out);
    case 5: return tile16_of<5>(rows, weights, depth, out);
    case 4: return tile16_of<4>(rows, weights, depth, out);
    case 3: return tile16_of<3>(rows, weights, depth, out);
    case 2: return tile16_of<2>(rows, weights, depth, out);
    case 1: return tile16_of<1>(rows, weights, depth, out);
    default: return;
  }
}
