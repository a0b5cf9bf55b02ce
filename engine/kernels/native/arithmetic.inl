// Float arithmetic that all forwards share: engine/arithmetic.py, step by step, included once for each instruction set.

inline float rounded(float x) { return (x + 12582912.0f) - 12582912.0f; }  // half to even, below 2^22

inline int32_t as_int(float x) { int32_t i; __builtin_memcpy(&i, &x, 4); return i; }
inline float as_float(int32_t i) { float x; __builtin_memcpy(&x, &i, 4); return x; }

inline float exp_below(float x) {
  x = x < -87.0f ? -87.0f : x;
  float power = rounded(x * 1.44269502162933349609375f);
  float rest = x - power * 0.693145751953125f;
  rest = rest - power * 1.42860676533018704503775e-06f;
  float value = 0.008291716687381268f;
  value = value * rest + 0.04191502928733826f;
  value = value * rest + 0.1666766256093979f;
  value = value * rest + 0.49998900294303894f;
  value = value * rest + 0.9999996423721313f;
  value = value * rest + 1.0f;
  return value * as_float((static_cast<int32_t>(power) + 127) << 23);
}

// Sum of x, which is overwritten.
inline float fold(float* x, int count) {
  while (count > 1) {
    int half = (count + 1) / 2, pairs = count - half;
    float* __restrict a = x;
    const float* __restrict b = x + half;
    for (int i = 0; i < pairs; ++i) a[i] += b[i];
    count = half;
  }
  return x[0];
}

// Mean of the rows of a text: [width]. work holds half of its rows.
inline void text_mean(const float* x, int rows, int width, float* work, float* out) {
  const float part = static_cast<float>(1.0 / rows);
  const float* from = x;
  int count = rows;
  while (count > 1) {
    int half = (count + 1) / 2, pairs = count - half;
    for (int r = 0; r < pairs; ++r) {
      const float* a = from + static_cast<size_t>(r) * width;
      const float* b = from + static_cast<size_t>(half + r) * width;
      float* to = work + static_cast<size_t>(r) * width;
      for (int i = 0; i < width; ++i) to[i] = a[i] + b[i];
    }
    if (pairs < half && from != work)
      __builtin_memcpy(work + static_cast<size_t>(half - 1) * width, from + static_cast<size_t>(half - 1) * width,
                       sizeof(float) * width);
    from = work;
    count = half;
  }
  for (int i = 0; i < width; ++i) out[i] = from[i] * part;
}

inline void layer_norm(float* __restrict x, int width, const float* __restrict weight, const float* __restrict bias,
                       float eps, float* __restrict work) {
  const float part = static_cast<float>(1.0 / width);
  __builtin_memcpy(work, x, sizeof(float) * width);
  const float mean = fold(work, width) * part;
  for (int i = 0; i < width; ++i) x[i] = x[i] - mean;
  for (int i = 0; i < width; ++i) work[i] = x[i] * x[i];
  const float variance = fold(work, width) * part;
  const float factor = 1.0f / __builtin_sqrtf(variance + eps);
  for (int i = 0; i < width; ++i) x[i] = x[i] * factor * weight[i] + bias[i];
}

// A vector at length 1; out may be x.
inline void unit(const float* x, int width, float* work, float* out) {
  for (int i = 0; i < width; ++i) work[i] = x[i] * x[i];
  const float length = __builtin_sqrtf(fold(work, width));
  for (int i = 0; i < width; ++i) out[i] = x[i] / length;
}
