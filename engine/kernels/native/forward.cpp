// The C interface of the compiled forward: choose an instruction set, pack a model for it, run packs of texts.
#include <cstdlib>
#include <cstring>

#include "float32.h"

namespace siftline {
namespace {

constexpr int VERSION = 5;  // engine/kernels/native/__init__.py asks for the same

const Isa* isa_named(const char* name) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  const bool best = std::strcmp(name, "auto") == 0;
#if defined(SIFTLINE_AMX)
  const bool amx = vnni && __builtin_cpu_supports("amx-int8") && amx_allowed();
  if (amx && (best || std::strcmp(name, amx_isa.name) == 0)) return &amx_isa;
#endif
  if (vnni && (best || std::strcmp(name, vnni_isa.name) == 0)) return &vnni_isa;
  if (avx2 && (best || std::strcmp(name, avx2_isa.name) == 0)) return &avx2_isa;
#else
  const bool best = std::strcmp(name, "auto") == 0;
#endif
  return best || std::strcmp(name, scalar_isa.name) == 0 ? &scalar_isa : nullptr;
}

// Without AVX2 and fused multiply-add "auto" is none: plain C++ is slower than torch, or was not measured against it.
const FloatIsa* float_isa_named(const char* name) {
#if defined(__x86_64__)
  const bool best = std::strcmp(name, "auto") == 0;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (best || std::strcmp(name, "avx512_vnni") == 0 || std::strcmp(name, "amx_int8") == 0))
    return &float_avx512_isa;
  if (avx2 && (best || std::strcmp(name, float_avx2_isa.name) == 0)) return &float_avx2_isa;
#endif
  return std::strcmp(name, float_scalar_isa.name) == 0 ? &float_scalar_isa : nullptr;
}

// Memory of a thread, kept between calls: mapping it anew costs as much as a short text.
struct Arena {
  void* memory = nullptr;
  size_t size = 0;
  ~Arena() { std::free(memory); }
};
thread_local Arena arena;

void* arena_of(size_t bytes) {
  if (bytes > arena.size) {
    std::free(arena.memory);
    bytes = (bytes + 4095) / 4096 * 4096;
    arena.memory = std::aligned_alloc(64, bytes);
    arena.size = arena.memory ? bytes : 0;
  }
  return arena.memory;
}

struct NoMemory {};

class Packer {
 public:
  Packer(Model& model, const void* const* tensors) : model_(model), next_(tensors) {}

  template <typename T>
  const T* take() { return static_cast<const T*>(*next_++); }

  template <typename T>
  T* own(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64 + 64;
    void* memory = std::aligned_alloc(64, bytes);
    void** owned = static_cast<void**>(std::realloc(model_.owned, sizeof(void*) * (model_.owned_count + 1)));
    if (owned) model_.owned = owned;
    if (!memory || !owned) {
      std::free(memory);
      throw NoMemory{};
    }
    std::memset(memory, 0, bytes);
    model_.owned[model_.owned_count++] = memory;
    return static_cast<T*>(memory);
  }

  // Rows of `values` [outputs][stride], of which each segment of inputs is filled up to a multiple of 4.
  Block block(const int8_t* values, int outputs, int stride, int segments, int segment, const float* scale,
              const float* bias) {
    const int group = model_.isa->group, segment_depth = filled(segment, 4);
    Block made;
    made.outputs = outputs;
    made.inputs = segments * segment;
    made.panels = filled(outputs, PANEL) / PANEL;
    made.depth = segments * segment_depth;
    made.weights = own<int8_t>(static_cast<size_t>(made.panels) * made.depth * PANEL);
    made.scale = scale;
    made.bias = bias;
    if (model_.isa->needs_sums) made.sums = own<int32_t>(static_cast<size_t>(made.panels) * PANEL * (1 + segments));
    for (int o = 0; o < outputs; ++o)
      for (int s = 0; s < segments; ++s)
        for (int i = 0; i < segment; ++i) {
          const int8_t value = values[static_cast<size_t>(o) * stride + s * segment + i];
          const int k = s * segment_depth + i, panel = o / PANEL, column = o % PANEL;
          made.weights[(static_cast<size_t>(panel) * made.depth + k / group * group) * PANEL + column * group + k % group] =
              value;
          if (made.sums) {
            made.sums[panel * PANEL + column] += value;
            made.sums[((1 + s) * made.panels + panel) * PANEL + column] += value;
          }
        }
    return made;
  }

  Router router(int units, int width) {
    Router made;
    const int16_t* values = take<int16_t>();
    made.units = units;
    made.panels = filled(units, PANEL) / PANEL;
    made.depth = filled(width, 2);
    made.weights = own<int16_t>(static_cast<size_t>(made.panels) * made.depth * PANEL);
    for (int u = 0; u < units; ++u)
      for (int k = 0; k < width; ++k)
        made.weights[(static_cast<size_t>(u / PANEL) * made.depth + k / 2 * 2) * PANEL + u % PANEL * 2 + k % 2] =
            values[static_cast<size_t>(u) * width + k];
    made.scale = take<float>();
    made.bias = take<float>();
    made.balance = take<float>();
    made.thresholds = take<float>();
    return made;
  }

  void layer(Layer& made) {
    const Sizes& sizes = model_.sizes;
    const int width = static_cast<int>(sizes.width), heads = static_cast<int>(sizes.heads),
              head_width = static_cast<int>(sizes.head_width), shared = static_cast<int>(sizes.shared_neurons),
              experts = static_cast<int>(sizes.experts), expert_width = static_cast<int>(sizes.expert_width);
    if (sizes.shared_heads < heads) made.head_router = router(heads - static_cast<int>(sizes.shared_heads), width);
    const int8_t* values = take<int8_t>();
    const float* scale = take<float>();
    const float* bias = take<float>();
    made.qkv = own<Block>(heads);
    for (int h = 0; h < heads; ++h) {
      const int first = h * 3 * head_width;
      made.qkv[h] = block(values + static_cast<size_t>(first) * width, 3 * head_width, width, 1, width, scale + first,
                          bias + first);
    }
    values = take<int8_t>();
    scale = take<float>();
    bias = take<float>();
    made.output = block(values, width, width, heads, head_width, scale, bias);
    made.attention_weight = take<float>();
    made.attention_bias = take<float>();
    if (experts) made.expert_router = router(experts, width);
    const int8_t* up = take<int8_t>();
    const float* up_scale = take<float>();
    const float* up_bias = take<float>();
    const int8_t* down = take<int8_t>();
    const float* down_scale = take<float>();
    made.down_bias = take<float>();
    const int neurons = shared + experts * expert_width;
    made.up = own<Block>(1 + experts);
    made.down = own<Block>(1 + experts);
    for (int b = 0, first = 0; b <= experts; ++b) {
      const int count = b ? expert_width : shared;
      made.up[b] = block(up + static_cast<size_t>(first) * width, count, width, 1, width, up_scale + first, up_bias + first);
      made.down[b] = block(down + first, width, neurons, 1, count, down_scale + static_cast<size_t>(b) * width, nullptr);
      first += count;
    }
    made.ffn_weight = take<float>();
    made.ffn_bias = take<float>();
  }

 private:
  Model& model_;
  const void* const* next_;
};

void release(Model* model) {
  for (int64_t i = 0; i < model->owned_count; ++i) std::free(model->owned[i]);
  std::free(model->owned);
  std::free(model);
}

}  // namespace
}  // namespace siftline

using siftline::Model;

extern "C" {

__attribute__((visibility("default"))) int siftline_version() { return siftline::VERSION; }

// The name of the instruction set that `name` ("auto" or one of them) gives here; null where it cannot run.
__attribute__((visibility("default"))) const char* siftline_isa(const char* name) {
  const siftline::Isa* isa = siftline::isa_named(name);
  return isa ? isa->name : nullptr;
}

// A model for an instruction set, still without layers; null without memory. The float tensors and the table of tokens
// are not copied and must stay.
__attribute__((visibility("default"))) void* siftline_new(const char* isa, const int64_t* sizes, float eps,
                                                          const void* const* tensors) {
  Model* model = static_cast<Model*>(std::calloc(1, sizeof(Model)));
  if (!model) return nullptr;
  std::memcpy(&model->sizes, sizes, sizeof(model->sizes));
  model->eps = eps;
  model->isa = siftline::isa_named(isa);
  siftline::Packer packer(*model, tensors);
  try {
    model->tokens = packer.take<int8_t>();
    model->token_scale = packer.take<float>();
    model->positions = packer.take<float>();
    model->norm_weight = packer.take<float>();
    model->norm_bias = packer.take<float>();
    model->layers = packer.own<siftline::Layer>(model->sizes.layers);
  } catch (const siftline::NoMemory&) {
    siftline::release(model);
    return nullptr;
  }
  return model;
}

// Packs the tensors of a layer: matrices are copied, float tensors are not and must stay. 0, or 1 without memory.
__attribute__((visibility("default"))) int siftline_layer(void* model, int64_t place, const void* const* tensors) {
  Model& given = *static_cast<Model*>(model);
  try {
    siftline::Packer(given, tensors).layer(given.layers[place]);
  } catch (const siftline::NoMemory&) {
    return 1;
  }
  return 0;
}

__attribute__((visibility("default"))) void siftline_free(void* model) {
  siftline::release(static_cast<Model*>(model));
}

// Vectors [texts][width] of a pack; ids, lengths and budget were checked. 0, or 1 without memory.
__attribute__((visibility("default"))) int siftline_forward(const void* model, const int64_t* ids, const int32_t* lengths,
                                                            int32_t texts, int32_t tokens, int32_t budget, float* vectors,
                                                            uint8_t* on_heads, uint8_t* on_experts, int64_t* spent) {
  const Model& given = *static_cast<const Model*>(model);
  const siftline::Request request{ids, lengths, texts, tokens, budget, vectors, on_heads, on_experts, spent};
  return given.isa->forward(given, request, siftline::arena_of);
}

// The name of the instruction set of float32 that `name`, as for siftline_isa, gives here; null where it cannot run.
__attribute__((visibility("default"))) const char* siftline_float_isa(const char* name) {
  const siftline::FloatIsa* isa = siftline::float_isa_named(name);
  return isa ? isa->name : nullptr;
}

// A step of a float32 forward for a pack: 0 normalises x, 1 and 2 are the halves of a layer, 3 makes vectors of x. `name`
// as for siftline_float_isa, which must have taken it; tensors are a FloatNorm, a FloatLayer, or null. 0, or 1 without
// memory.
__attribute__((visibility("default"))) int siftline_float_step(const char* name, int step, const int64_t* sizes,
                                                               const void* const* tensors, const int32_t* lengths,
                                                               int32_t texts, int32_t tokens, int32_t budget, float eps,
                                                               float* x, uint8_t* on_heads, uint8_t* on_experts,
                                                               float* vectors) {
  siftline::FloatSizes given;
  std::memcpy(&given, sizes, sizeof(given));
  const siftline::FloatRequest request{lengths, texts, tokens, budget, eps, x, on_heads, on_experts, vectors};
  const siftline::FloatIsa& isa = *siftline::float_isa_named(name);
  siftline::FloatNorm norm{};
  siftline::FloatLayer layer{};
  if (step == 0) std::memcpy(&norm, tensors, sizeof(norm));
  if (step == 1 || step == 2) std::memcpy(&layer, tensors, sizeof(layer));
  switch (step) {
    case 0: return isa.norm(given, norm, request, siftline::arena_of);
    case 1: return isa.attention(given, layer, request, siftline::arena_of);
    case 2: return isa.feed_forward(given, layer, request, siftline::arena_of);
    default: return isa.pool(given, request, siftline::arena_of);
  }
}
}
