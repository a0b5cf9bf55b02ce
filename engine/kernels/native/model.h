// What the Python side hands over and what the kernels read: sizes, and weights packed for one instruction set.
//
// Shape letters as in engine/quantize.py. A panel holds 16 output channels of a block of input channels; its weights stand
// in the order in which a kernel reads them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace siftline {

constexpr int PANEL = 16;        // output channels of a panel
constexpr int MOST_INT8 = 127;
constexpr int MOST_INT12 = 2047;
constexpr int MOST_ROUTER = 1023;
constexpr int MOST_KEYS = 512;   // 512 * 2047 * 2047 < 2^31
constexpr float TINY = 1e-30f;   // engine.arithmetic.TINY

struct Sizes {
  int64_t width, heads, head_width, layers, shared_heads, shared_neurons, experts, expert_width, by_token, quorum,
      budgets, vocab, positions, by_first;  // by_first: a text's vector is its first token's state, else the mean of all
};

struct Block {  // one int8 matrix, or the part of one that a head or an expert owns
  int outputs = 0, inputs = 0, panels = 0, depth = 0;  // depth: inputs filled up to a multiple of 4
  int8_t* weights = nullptr;                           // [panels][depth / group][16][group]
  int32_t* sums = nullptr;                             // [panels][16]: sum of a channel's weights, where needed
  const float* scale = nullptr;                        // [outputs]
  const float* bias = nullptr;                         // [outputs], or null
};

struct Router {
  int units = 0, panels = 0, depth = 0;
  int16_t* weights = nullptr;  // [panels][depth / 2][16][2]
  const float *scale = nullptr, *bias = nullptr, *balance = nullptr, *thresholds = nullptr;
};

struct Layer {
  Router head_router, expert_router;
  Block* qkv = nullptr;   // one for each head
  Block output;           // inputs head by head, each head's filled up to a multiple of 4
  Block *up = nullptr, *down = nullptr;  // shared neurons, then each expert
  const float *attention_weight = nullptr, *attention_bias = nullptr, *ffn_weight = nullptr, *ffn_bias = nullptr;
  const float* down_bias = nullptr;
};

struct Model {
  Sizes sizes;
  float eps;
  const struct Isa* isa;
  const int8_t* tokens;
  const float *token_scale, *positions, *norm_weight, *norm_bias;
  Layer* layers;
  void** owned;
  int64_t owned_count;
};

enum Stage { EMBED, ROUTE, QUERIES, ATTEND, OUTPUT, FEED_FORWARD, NORM, STAGES };  // engine.native.STAGES

struct Request {
  const int64_t* ids;
  const int32_t* lengths;
  int32_t texts, tokens, budget;
  float* vectors;        // [texts][width]
  uint8_t* on_heads;     // [layers][texts][routed heads], or null
  uint8_t* on_experts;   // [layers][tokens][experts], or null
  int64_t* spent;        // [STAGES] nanoseconds, added to, or null
};

struct Isa {
  const char* name;
  int group;        // input channels of a panel that stand together: 4 for VNNI, else 2
  bool needs_sums;  // activations are unsigned with an offset of 128
  int (*forward)(const Model&, const Request&, void* (*arena)(size_t));
};

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define SIFTLINE_AMX 1  // older compilers do not know it
#endif

extern const Isa scalar_isa;
#if defined(__x86_64__)
extern const Isa avx2_isa, vnni_isa;
#if defined(SIFTLINE_AMX)
extern const Isa amx_isa;
bool amx_allowed();
#endif
#endif

struct Carver {  // lays parts out in one piece of memory; with a null base it only counts
  char* base;
  size_t used = 0;
  template <typename T>
  void take(T*& to, size_t count) {
    to = reinterpret_cast<T*>(base + used);
    used += (count * sizeof(T) + 127) / 64 * 64;
  }
};

inline int filled(int64_t count, int to) { return static_cast<int>((count + to - 1) / to * to); }

}  // namespace siftline
