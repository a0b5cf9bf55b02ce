// The layers of a float32 encoder, dense or routed, included once for each instruction set, which defines before: Vector,
// LANES (floats of one), TILE (rows of a tile), VECTORS (of a panel), load, store, spread and fused.
//
// Each number of a product is one chain of fused multiply-adds over the inputs in their order, beginning with the bias or
// with what is there. The shape of a tile, the number of rows, packing and cutting a chain in two change no bit, and all
// instruction sets give the same ones. Weights are read as torch keeps them, [inputs][outputs]; the panel that several
// tiles need is copied together first.

namespace {

#include "arithmetic.inl"

constexpr int PANEL32 = LANES * VECTORS;  // output columns of a panel
constexpr int DEPTH = 384;                // inputs of a panel at most: it stays in the cache
constexpr int BLOCK = 120;                // rows that pass by a panel: so do they, and the inner states of 1,536 neurons
constexpr int GROUP = 192;                // tokens whose queries, keys and values are held at a time, or one text
constexpr int AHEAD = 12;                 // rows of a weight matrix to ask for ahead
constexpr int LINE = 16;                  // floats of a line of the cache
constexpr int SUMS = 16;                  // partial sums of a softmax, the same for all instruction sets

constexpr int least(int a, int b) { return a < b ? a : b; }

struct Rows {  // of a matrix: the chosen ones, or all
  float* at;
  size_t stride;
  const int* chosen = nullptr;
  float* operator[](int r) const { return at + stride * static_cast<size_t>(chosen ? chosen[r] : r); }
};

struct Weights {  // [inputs][outputs], `stride` from one input to the next
  const float* at;
  int inputs, outputs;
  size_t stride;
};

// ---- products ----

template <int ROWS, int COLUMNS>
inline void tile_of(const float* const* x, const float* weights, size_t stride, int depth, const float* const* start,
                    float* const* out) {
  Vector sums[ROWS][COLUMNS];
  const float* at[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    at[r] = x[r];
    for (int c = 0; c < COLUMNS; ++c) sums[r][c] = load(start[r] + c * LANES);
  }
  for (int k = 0; k < depth; ++k, weights += stride) {
    Vector w[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) {
      w[c] = load(weights + c * LANES);
      if (c * LANES % LINE == 0) __builtin_prefetch(weights + AHEAD * stride + c * LANES);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vector a = spread(at[r][k]);
#pragma GCC unroll 3
      for (int c = 0; c < COLUMNS; ++c) sums[r][c] = fused(a, w[c], sums[r][c]);
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < COLUMNS; ++c) store(out[r] + c * LANES, sums[r][c]);
}

template <int ROWS>
inline void tile_rows(int columns, const float* const* x, const float* weights, size_t stride, int depth,
                      const float* const* start, float* const* out) {
  if constexpr (VECTORS >= 3)
    if (columns == 3) return tile_of<ROWS, 3>(x, weights, stride, depth, start, out);
  if (columns == 2) return tile_of<ROWS, 2>(x, weights, stride, depth, start, out);
  return tile_of<ROWS, 1>(x, weights, stride, depth, start, out);
}

// Args: columns are vectors.
inline void tile(int rows, int columns, const float* const* x, const float* weights, size_t stride, int depth,
                 const float* const* start, float* const* out) {
  switch (rows) {
    case 8: return tile_rows<least(8, TILE)>(columns, x, weights, stride, depth, start, out);
    case 7: return tile_rows<least(7, TILE)>(columns, x, weights, stride, depth, start, out);
    case 6: return tile_rows<least(6, TILE)>(columns, x, weights, stride, depth, start, out);
    case 5: return tile_rows<least(5, TILE)>(columns, x, weights, stride, depth, start, out);
    case 4: return tile_rows<least(4, TILE)>(columns, x, weights, stride, depth, start, out);
    case 3: return tile_rows<3>(columns, x, weights, stride, depth, start, out);
    case 2: return tile_rows<2>(columns, x, weights, stride, depth, start, out);
    default: return tile_rows<1>(columns, x, weights, stride, depth, start, out);
  }
}

struct Panel {  // scratch memory of a product
  float weights[DEPTH * PANEL32];
  float start[PANEL32], begin[TILE][PANEL32], end[TILE][PANEL32];
};

// Rows of up to PANEL32 columns from `first` on, all of them by a part of the inputs.
inline void panel_product(const Rows& x, int from, int count, const Weights& weights, int first, int k, int depth,
                          const float* bias, bool add, const Rows& out, Panel& panel) {
  const int wide = least(weights.outputs - first, PANEL32), columns = (wide + LANES - 1) / LANES;
  const bool whole = wide == columns * LANES;  // else tiles work beside the matrices
  const float* w = weights.at + weights.stride * k + first;
  size_t stride = weights.stride;
  if (count > TILE || !whole) {
    if (!whole) __builtin_memset(panel.weights, 0, sizeof(float) * static_cast<size_t>(depth) * columns * LANES);
    for (int i = 0; i < depth; ++i, w += stride) {
      float* __restrict to = panel.weights + static_cast<size_t>(i) * columns * LANES;
      for (int c = 0; c < columns * LANES; c += LINE) __builtin_prefetch(w + AHEAD * stride + c);
      if (whole)
        for (int c = 0; c < columns; ++c) store(to + c * LANES, load(w + c * LANES));
      else
        for (int c = 0; c < wide; ++c) to[c] = w[c];
    }
    w = panel.weights;
    stride = static_cast<size_t>(columns) * LANES;
  }
  add = add || k > 0;
  if (!add)
    for (int c = 0; c < columns * LANES; ++c) panel.start[c] = bias && c < wide ? bias[first + c] : 0.0f;
  const float *rows[TILE], *start[TILE];
  float* to[TILE];
  const int tiles = (count + TILE - 1) / TILE;
  for (int t = 0, r = 0; t < tiles; ++t) {
    const int here = (count - r + tiles - t - 1) / (tiles - t);
    for (int i = 0; i < here; ++i) {
      rows[i] = x[from + r + i] + k;
      to[i] = out[from + r + i] + first;
      start[i] = add ? to[i] : panel.start;
      if (whole) continue;
      if (add) {
        __builtin_memset(panel.begin[i], 0, sizeof(panel.begin[i]));
        __builtin_memcpy(panel.begin[i], to[i], sizeof(float) * wide);
        start[i] = panel.begin[i];
      }
      to[i] = panel.end[i];
    }
    tile(here, columns, rows, w, stride, depth, start, to);
    for (int i = 0; i < here && !whole; ++i)
      __builtin_memcpy(out[from + r + i] + first, to[i], sizeof(float) * wide);
    r += here;
  }
}

// out = x W + bias, or out += x W. A null bias is 0.
inline void product(const Rows& x, int count, const Weights& weights, const float* bias, bool add, const Rows& out,
                    Panel& panel) {
  const int blocks = (count + BLOCK - 1) / BLOCK;
  for (int b = 0, from = 0; b < blocks; ++b) {
    const int some = (count - from + blocks - b - 1) / (blocks - b);
    for (int k = 0; k < weights.inputs; k += DEPTH)
      for (int first = 0; first < weights.outputs; first += PANEL32)
        panel_product(x, from, some, weights, first, k, least(weights.inputs - k, DEPTH), bias, add, out, panel);
    from += some;
  }
}

struct Work32 {  // all scratch memory of a call
  float *y, *line, *means, *half, *scores, *qkv, *mixed, *keys, *shares, *hidden;
  int *starts, *rows;
  Panel* panel;
};

// ---- routers ----

// on [count][units] of rows of states.
inline void choose(const FloatRouter& router, int units, int width, int budget, bool needs_one, const Rows& x, int count,
                   Work32& work, uint8_t* on) {
  const int columns = filled(units, ROUTER_COLUMNS);
  for (int from = 0; from < count; from += BLOCK) {
    const int some = least(count - from, BLOCK);
    product({x[from], x.stride}, some, {router.weight, width, columns, static_cast<size_t>(columns)}, router.bias, false,
            {work.scores, static_cast<size_t>(columns)}, *work.panel);
    for (int r = 0; r < some; ++r) {
      const float* scores = work.scores + static_cast<size_t>(r) * columns;
      uint8_t* here = on + static_cast<size_t>(from + r) * units;
      int best = 0;
      for (int u = 0; u < units; ++u) {
        const float wanted = scores[u] + router.balance[u];
        here[u] = wanted > router.thresholds[budget];
        if (wanted > scores[best] + router.balance[best]) best = u;
      }
      if (needs_one) here[best] = 1;
    }
  }
}

inline void text_means(const FloatRequest& request, int width, Work32& work) {
  for (int s = 0; s < request.texts; ++s)
    text_mean(request.x + static_cast<size_t>(work.starts[s]) * width, request.lengths[s], width, work.half,
              work.means + static_cast<size_t>(s) * width);
}

inline void choose_experts(const FloatSizes& sizes, const FloatLayer& layer, const FloatRequest& request, Work32& work) {
  const int width = static_cast<int>(sizes.width), experts = static_cast<int>(sizes.experts);
  const bool needs_one = sizes.shared_neurons == 0;
  const size_t stride = sizes.width;
  if (sizes.by_token) {
    choose(layer.expert_router, experts, width, request.budget, needs_one, {request.x, stride}, request.tokens, work,
           request.on_experts);
  } else {
    text_means(request, width, work);
    for (int s = 0; s < request.texts; ++s) {
      uint8_t* on = request.on_experts + static_cast<size_t>(work.starts[s]) * experts;
      choose(layer.expert_router, experts, width, request.budget, needs_one, {work.means + stride * s, stride}, 1, work,
             on);
      for (int t = 1; t < request.lengths[s]; ++t) __builtin_memcpy(on + static_cast<size_t>(t) * experts, on, experts);
    }
  }
  if (!sizes.by_token || sizes.quorum < 2 || request.budget == sizes.budgets - 1) return;
  for (int s = 0; s < request.texts; ++s) {
    uint8_t* on = request.on_experts + static_cast<size_t>(work.starts[s]) * experts;
    for (int e = 0; e < experts; ++e) {
      int wanted = 0;
      for (int t = 0; t < request.lengths[s]; ++t) wanted += on[static_cast<size_t>(t) * experts + e];
      if (wanted < sizes.quorum)
        for (int t = 0; t < request.lengths[s]; ++t) on[static_cast<size_t>(t) * experts + e] = 0;
    }
  }
}

// ---- attention ----

// One head of one text: softmax(q k / sqrt W) v to out [length], `out_stride` apart.
inline void attend(float* q, const float* k, const float* v, size_t stride, int length, int width, Work32& work,
                   float* out, size_t out_stride) {
  const int keys = filled(length, SUMS);
  const float factor = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(width)));
  for (int i = 0; i < width; ++i) {
    float* __restrict to = work.keys + static_cast<size_t>(i) * keys;
    for (int j = 0; j < length; ++j) to[j] = k[stride * j + i] * factor;
    for (int j = length; j < keys; ++j) to[j] = 0;
  }
  for (int from = 0; from < length; from += BLOCK) {
    const int some = least(length - from, BLOCK);
    const Rows shares{work.shares, static_cast<size_t>(keys)};
    product({q + stride * from, stride}, some, {work.keys, width, keys, static_cast<size_t>(keys)}, nullptr, false, shares,
            *work.panel);
    float* to = out + out_stride * from;
    for (int r = 0; r < some; ++r) {
      float* __restrict share = shares[r];
      float top = share[0], part[SUMS] = {};
      for (int j = 1; j < length; ++j) top = share[j] > top ? share[j] : top;
      for (int j = 0; j < keys; ++j) share[j] = exp_below(share[j] - top);
      for (int j = length; j < keys; ++j) share[j] = 0;
      for (int j = 0; j < keys; j += SUMS)
        for (int c = 0; c < SUMS; ++c) part[c] += share[j + c];
      work.line[r] = 1.0f / fold(part, SUMS);
    }
    product(shares, some, {v, length, width, stride}, nullptr, false, {to, out_stride}, *work.panel);
    for (int r = 0; r < some; ++r)
      for (int i = 0; i < width; ++i) to[out_stride * r + i] *= work.line[r];
  }
}

// y = attention of the heads that all texts have, without the residual.
inline void shared_attention(const FloatSizes& sizes, const FloatLayer& layer, const FloatRequest& request, Work32& work) {
  const int width = static_cast<int>(sizes.width), wide = static_cast<int>(sizes.head_width),
            heads = static_cast<int>(sizes.shared_heads), all = heads * wide;
  const size_t stride = 3 * static_cast<size_t>(all);
  for (int s = 0; s < request.texts;) {
    const int start = work.starts[s];
    int end = s + 1;
    while (end < request.texts && work.starts[end] + request.lengths[end] - start <= GROUP) ++end;
    const int count = work.starts[end] - start;
    product({request.x + static_cast<size_t>(start) * width, sizes.row()}, count, {layer.shared_qkv, width, 3 * all, stride},
            layer.shared_qkv_bias, false, {work.qkv, stride}, *work.panel);
    for (int text = s; text < end; ++text)
      for (int head = 0; head < heads; ++head) {
        const int row = work.starts[text] - start;
        float* q = work.qkv + stride * row + (sizes.by_kind ? head * wide : 3 * head * wide);
        const int next = sizes.by_kind ? all : wide;
        attend(q, q + next, q + 2 * next, stride, request.lengths[text], wide, work,
               work.mixed + static_cast<size_t>(row) * all + head * wide, all);
      }
    product({work.mixed, static_cast<size_t>(all)}, count, {layer.shared_output, all, width, sizes.row()}, layer.output_bias,
            false, {work.y + static_cast<size_t>(start) * width, sizes.row()}, *work.panel);
    s = end;
  }
}

// y += each routed head, for the texts where it is on.
inline void routed_attention(const FloatSizes& sizes, const FloatLayer& layer, const FloatRequest& request, Work32& work) {
  const int width = static_cast<int>(sizes.width), wide = static_cast<int>(sizes.head_width), three = 3 * wide;
  for (int head = 0; head < sizes.routed_heads; ++head) {
    const auto on = [&](int s) { return request.on_heads[static_cast<size_t>(s) * sizes.routed_heads + head]; };
    int count = 0;
    for (int s = 0; s < request.texts; ++s)
      for (int t = 0; on(s) && t < request.lengths[s]; ++t) work.rows[count++] = work.starts[s] + t;
    if (!count) continue;
    const Weights qkv{layer.qkv + static_cast<size_t>(head) * width * three, width, three, static_cast<size_t>(three)};
    product({request.x, sizes.row(), work.rows}, count, qkv, layer.qkv_bias + static_cast<size_t>(head) * three, false,
            {work.qkv, static_cast<size_t>(three)}, *work.panel);
    for (int s = 0, row = 0; s < request.texts; ++s) {
      if (!on(s)) continue;
      float* q = work.qkv + static_cast<size_t>(row) * three;
      attend(q, q + wide, q + 2 * wide, three, request.lengths[s], wide, work, work.mixed + static_cast<size_t>(row) * wide,
             wide);
      row += request.lengths[s];
    }
    product({work.mixed, static_cast<size_t>(wide)}, count,
            {layer.output + static_cast<size_t>(head) * wide * width, wide, width, sizes.row()}, nullptr, true,
            {work.y, sizes.row(), work.rows}, *work.panel);
  }
}

// ---- feed-forward ----

// x Phi(x). Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (error of Phi below 1e-7, in these steps 3e-7).
inline void gelu32(float* __restrict x, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float z = __builtin_fabsf(x[i]) * 0.70710678118654752f;
    const float t = 1.0f / (1.0f + 0.3275911f * z);
    float value = 1.061405429f;
    value = value * t - 1.453152027f;
    value = value * t + 1.421413741f;
    value = value * t - 0.284496736f;
    value = value * t + 0.254829592f;
    const float tail = 0.5f * (value * t * exp_below(-z * z));
    x[i] = x[i] * (x[i] < 0 ? tail : 1.0f - tail);
  }
}

// y = bias + a block of neurons, or y += it, on some rows; rows null: all of them.
inline void neurons(const FloatSizes& sizes, const float* up, const float* up_bias, const float* down, int inner,
                    const float* bias, bool add, const int* rows, const FloatRequest& request, int count, Work32& work) {
  const int width = static_cast<int>(sizes.width);
  const size_t across = inner;
  const int blocks = (count + BLOCK - 1) / BLOCK;
  for (int b = 0, from = 0; b < blocks; ++b) {
    const int some = (count - from + blocks - b - 1) / (blocks - b);
    const size_t first = rows ? 0 : static_cast<size_t>(from) * width;
    const int* chosen = rows ? rows + from : nullptr;
    product({request.x + first, sizes.row(), chosen}, some, {up, width, inner, across}, up_bias, false,
            {work.hidden, across}, *work.panel);
    gelu32(work.hidden, across * some);
    product({work.hidden, across}, some, {down, inner, width, sizes.row()}, bias, add,
            {work.y + first, sizes.row(), chosen}, *work.panel);
    from += some;
  }
}

inline void add_and_norm(const FloatSizes& sizes, const FloatNorm& norm, const FloatRequest& request, Work32& work) {
  const int width = static_cast<int>(sizes.width);
  for (int t = 0; t < request.tokens; ++t) {
    float* __restrict x = request.x + sizes.row() * t;
    const float* __restrict y = work.y + sizes.row() * t;
    for (int i = 0; i < width; ++i) x[i] = x[i] + y[i];
    layer_norm(x, width, norm.weight, norm.bias, request.eps, work.line);
  }
}

inline bool prepare(const FloatSizes& sizes, const FloatRequest& request, void* (*arena)(size_t), Work32& work) {
  int longest = 0;
  for (int s = 0; s < request.texts; ++s) longest = request.lengths[s] > longest ? request.lengths[s] : longest;
  const size_t tokens = request.tokens, width = sizes.width, group = longest > GROUP ? longest : GROUP,
               keys = filled(longest, SUMS), wide = sizes.head_width, shared = sizes.shared_heads,
               inner = sizes.shared_neurons > sizes.expert_width ? sizes.shared_neurons : sizes.expert_width,
               units = sizes.experts > sizes.routed_heads ? sizes.experts : sizes.routed_heads;
  const size_t by_group = shared * (group < tokens ? group : tokens), by_head = sizes.routed_heads ? tokens : 0;
  const size_t held = (by_group > by_head ? by_group : by_head) * wide;
  char* base = nullptr;
  for (int pass = 0; pass < 2; ++pass) {
    Carver carver{base};
    carver.take(work.panel, 1);
    carver.take(work.y, tokens * width);
    carver.take(work.line, width > static_cast<size_t>(BLOCK) ? width : BLOCK);
    carver.take(work.means, (request.texts + 1) * width);
    carver.take(work.half, (static_cast<size_t>(longest) + 1) / 2 * width);
    carver.take(work.scores, BLOCK * static_cast<size_t>(filled(units, ROUTER_COLUMNS)));
    carver.take(work.qkv, 3 * held);
    carver.take(work.mixed, held);
    carver.take(work.keys, keys * wide);
    carver.take(work.shares, keys * BLOCK);
    carver.take(work.hidden, (BLOCK < tokens ? BLOCK : tokens) * inner);
    carver.take(work.starts, request.texts + 1);
    carver.take(work.rows, tokens);
    if (base) break;
    base = static_cast<char*>(arena(carver.used));
    if (!base) return false;
  }
  work.starts[0] = 0;
  for (int s = 0; s < request.texts; ++s) work.starts[s + 1] = work.starts[s] + request.lengths[s];
  return true;
}

int norm(const FloatSizes& sizes, const FloatNorm& norm, const FloatRequest& request, void* (*arena)(size_t)) {
  float* line = static_cast<float*>(arena(sizeof(float) * sizes.width));
  if (!line) return 1;
  for (int t = 0; t < request.tokens; ++t)
    layer_norm(request.x + sizes.row() * t, static_cast<int>(sizes.width), norm.weight, norm.bias, request.eps, line);
  return 0;
}

int attention(const FloatSizes& sizes, const FloatLayer& layer, const FloatRequest& request, void* (*arena)(size_t)) {
  Work32 work;
  if (!prepare(sizes, request, arena, work)) return 1;
  const int width = static_cast<int>(sizes.width);
  if (sizes.routed_heads) {
    text_means(request, width, work);
    choose(layer.head_router, static_cast<int>(sizes.routed_heads), width, request.budget, sizes.shared_heads == 0,
           {work.means, sizes.row()}, request.texts, work, request.on_heads);
  }
  if (sizes.shared_heads)
    shared_attention(sizes, layer, request, work);
  else
    for (int t = 0; t < request.tokens; ++t)
      __builtin_memcpy(work.y + sizes.row() * t, layer.output_bias, sizeof(float) * width);
  routed_attention(sizes, layer, request, work);
  add_and_norm(sizes, layer.attention_norm, request, work);
  if (sizes.experts) choose_experts(sizes, layer, request, work);
  return 0;
}

int feed_forward(const FloatSizes& sizes, const FloatLayer& layer, const FloatRequest& request, void* (*arena)(size_t)) {
  Work32 work;
  if (!prepare(sizes, request, arena, work)) return 1;
  const int width = static_cast<int>(sizes.width), experts = static_cast<int>(sizes.experts),
            inner = static_cast<int>(sizes.expert_width);
  if (sizes.shared_neurons)
    neurons(sizes, layer.shared_up, layer.shared_up_bias, layer.shared_down, static_cast<int>(sizes.shared_neurons),
            layer.down_bias, false, nullptr, request, request.tokens, work);
  else
    for (int t = 0; t < request.tokens; ++t)
      __builtin_memcpy(work.y + sizes.row() * t, layer.down_bias, sizeof(float) * width);
  for (int e = 0; e < experts; ++e) {
    int count = 0;
    for (int t = 0; t < request.tokens; ++t)
      if (request.on_experts[static_cast<size_t>(t) * experts + e]) work.rows[count++] = t;
    const size_t size = static_cast<size_t>(e) * inner * width;
    neurons(sizes, layer.up + size, layer.up_bias + static_cast<size_t>(e) * inner, layer.down + size, inner, nullptr, true,
            work.rows, request, count, work);
  }
  add_and_norm(sizes, layer.feed_forward_norm, request, work);
  return 0;
}

int pool(const FloatSizes& sizes, const FloatRequest& request, void* (*arena)(size_t)) {
  Work32 work;
  if (!prepare(sizes, request, arena, work)) return 1;
  const int width = static_cast<int>(sizes.width);
  if (!sizes.by_first) text_means(request, width, work);
  for (int s = 0; s < request.texts; ++s) {
    const float* pooled = sizes.by_first ? request.x + sizes.row() * work.starts[s] : work.means + sizes.row() * s;
    unit(pooled, width, work.line, request.vectors + sizes.row() * s);
  }
  return 0;
}

}  // namespace
