// What the Python side hands over for a layer in float32, and what each instruction set offers.
//
// Nothing is copied: weights lie where torch has them, [inputs][outputs], so layers that are read for each batch need no
// other way. The states of a pack go through a layer in two steps, between which chosen experts may be read.
#pragma once
#include "model.h"

namespace siftline {

constexpr int ROUTER_COLUMNS = 16;  // engine.router.COLUMNS

struct FloatSizes {  // in the order of engine.native.float32
  int64_t width, head_width, shared_heads, routed_heads, by_kind, shared_neurons, experts, expert_width, by_token, quorum,
      budgets, by_first;
  size_t row() const { return static_cast<size_t>(width); }
};

struct FloatRouter {
  const float *weight, *bias, *balance, *thresholds;  // [width][units filled up], [units filled up], [units], [budgets]
};

struct FloatNorm {
  const float *weight, *bias;
};

// by_kind: the columns of shared_qkv are all queries, all keys, all values; else one head after another.
struct FloatLayer {  // a table of addresses, in the order of engine.native.float32
  FloatRouter head_router;
  const float *shared_qkv, *shared_qkv_bias, *shared_output, *qkv, *qkv_bias, *output, *output_bias;
  FloatNorm attention_norm;
  FloatRouter expert_router;
  const float *shared_up, *shared_up_bias, *shared_down, *up, *up_bias, *down, *down_bias;
  FloatNorm feed_forward_norm;
};

struct FloatRequest {
  const int32_t* lengths;
  int32_t texts, tokens, budget;
  float eps;
  float* x;             // [tokens][width], changed
  uint8_t* on_heads;    // [texts][routed heads]
  uint8_t* on_experts;  // [tokens][experts]
  float* vectors;       // [texts][width]
};

struct FloatIsa {
  const char* name;
  int (*norm)(const FloatSizes&, const FloatNorm&, const FloatRequest&, void* (*arena)(size_t));
  int (*attention)(const FloatSizes&, const FloatLayer&, const FloatRequest&, void* (*arena)(size_t));
  int (*feed_forward)(const FloatSizes&, const FloatLayer&, const FloatRequest&, void* (*arena)(size_t));
  int (*pool)(const FloatSizes&, const FloatRequest&, void* (*arena)(size_t));
};

extern const FloatIsa float_scalar_isa;
#if defined(__x86_64__)
extern const FloatIsa float_avx2_isa, float_avx512_isa;
#endif

}  // namespace siftline
