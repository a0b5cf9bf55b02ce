// The float32 layers in plain C++: any processor, and the reference of the vector kernels.
#include "float32.h"

namespace siftline {
namespace {
constexpr int LANES = 8, TILE = 4, VECTORS = 1;
struct Vector {
  float of[LANES];
};
inline Vector load(const float* from) {
  Vector value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}
inline void store(float* to, const Vector& value) { __builtin_memcpy(to, &value, sizeof(value)); }
inline Vector spread(float value) {
  Vector made;
  for (int i = 0; i < LANES; ++i) made.of[i] = value;
  return made;
}
inline Vector fused(const Vector& a, const Vector& b, const Vector& c) {
  Vector made;
  for (int i = 0; i < LANES; ++i) made.of[i] = __builtin_fmaf(a.of[i], b.of[i], c.of[i]);
  return made;
}
}  // namespace
#include "float32.inl"
const FloatIsa float_scalar_isa = {"scalar", norm, attention, feed_forward, pool};
}  // namespace siftline
