// The whole forward of a pack of texts, dense or routed, included once for each instruction set, which defines before:
// Activation and OFFSET, TILE (rows of a tile), tile8 and tile16. The same steps as engine/int8.py in the same order; it
// is compiled without fused operations, so all instruction sets give the same bits.

namespace {

#include "arithmetic.inl"

inline float gelu(float x) {
  float inner = x < -4.5f ? -4.5f : x;
  inner = inner > 4.5f ? 4.5f : inner;
  float square = inner * inner;
  float value = -1.6540128641717722e-12f;
  value = value * square + 1.9529319827960023e-10f;
  value = value * square + -1.0285830853717925e-08f;
  value = value * square + 3.216686081941589e-07f;
  value = value * square + -6.731901976309018e-06f;
  value = value * square + 0.00010108399874297902f;
  value = value * square + -0.0011396822519600391f;
  value = value * square + 0.009884112514555454f;
  value = value * square + -0.06641189008951187f;
  value = value * square + 0.3989217281341553f;
  return x * (inner * value + 0.5f);
}

inline float largest(const float* x, int count) {  // of the sizes; as whole numbers floats compare alike
  int32_t most = 0;
  for (int i = 0; i < count; ++i) {
    int32_t size = as_int(x[i]) & 0x7fffffff;
    most = size > most ? size : most;
  }
  return as_float(most);
}

// Rows of `count` numbers, `stride` apart.
inline float largest_of_rows(const float* x, int rows, int count, int stride) {
  float most = 0;
  for (int r = 0; r < rows; ++r) {
    float m = largest(x + static_cast<size_t>(r) * stride, count);
    most = m > most ? m : most;
  }
  return most;
}

inline float factor_to(float most_float, int most) { return most_float > TINY ? most / most_float : 0.0f; }
inline float worth(float most_float, int most) { return most_float * static_cast<float>(1.0 / most); }

template <typename T>
inline void to_integers(const float* __restrict x, int count, float factor, int offset, T* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = static_cast<T>(static_cast<int32_t>(rounded(x[i] * factor)) + offset);
}

// A row in 8 bits, filled up with zeros to `depth`. Returns what one is worth.
inline float quantise_row(const float* x, int count, int depth, Activation* out) {
  float most = largest(x, count);
  to_integers(x, count, factor_to(most, MOST_INT8), OFFSET, out);
  for (int i = count; i < depth; ++i) out[i] = OFFSET;
  return worth(most, MOST_INT8);
}

// ---- products ----

constexpr int WHOLE[1] = {0};

// For each panel of a block and each tile of rows: `done(first row of the tile, rows, panel, sums [rows][16])`.
// With ROWS_FIRST the rows of a tile stand one after the other, and all panels see them while they are in the cache;
// chosen rows are gathered before. Else all tiles see a panel.
template <typename Done>
inline void product8(const Block& block, const Activation* x, int stride, const int* rows, int count,
                     const int* segments, int segment_count, int segment_depth, Activation* gathered, Done done) {
  if (segment_count * segment_depth == block.depth) segments = WHOLE, segment_count = 1, segment_depth = block.depth;
  if (ROWS_FIRST && rows) {
    for (int r = 0; r < count; ++r)
      __builtin_memcpy(gathered + static_cast<size_t>(r) * stride, x + static_cast<size_t>(rows[r]) * stride,
                       sizeof(Activation) * stride);
    x = gathered;
    rows = nullptr;
  }
  alignas(64) int32_t sums[TILE * PANEL];
  const Activation* at[TILE];
  const auto tile = [&](int first, int panel) {
    const int here = count - first < TILE ? count - first : TILE;
    for (int r = 0; r < here; ++r) at[r] = x + static_cast<size_t>(rows ? rows[first + r] : first + r) * stride;
    tile8(at, here, block.weights + static_cast<size_t>(panel) * block.depth * PANEL, segments, segment_count,
          segment_depth, sums);
    if (OFFSET) {  // every activation was 128 too large
      int32_t extra[PANEL] = {};
      for (int s = 0; s < segment_count; ++s) {
        const int place = segment_depth == block.depth ? 0 : 1 + segments[s];
        const int32_t* part = block.sums + (static_cast<size_t>(place) * block.panels + panel) * PANEL;
        for (int c = 0; c < PANEL; ++c) extra[c] += OFFSET * part[c];
      }
      for (int r = 0; r < here; ++r)
        for (int c = 0; c < PANEL; ++c) sums[r * PANEL + c] -= extra[c];
    }
    done(first, here, panel, sums);
  };
  if (ROWS_FIRST) {
    for (int first = 0; first < count; first += TILE)
      for (int panel = 0; panel < block.panels; ++panel) tile(first, panel);
  } else {
    for (int panel = 0; panel < block.panels; ++panel)
      for (int first = 0; first < count; first += TILE) tile(first, panel);
  }
}

struct Clock {  // nanoseconds by stage, where somebody asks for them
  int64_t* spent;
  int64_t last = 0;

  static int64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
  }
  void start() {
    if (spent) last = now();
  }
  void ended(Stage stage) {
    if (!spent) return;
    const int64_t at = now();
    spent[stage] += at - last;
    last = at;
  }
};

struct Work {  // all scratch memory of a call
  float *x, *y, *line, *qkv, *mixed, *hidden, *means, *half, *wanted;
  Activation *q, *q_mixed, *q_hidden, *gathered;
  float *q_scale, *mixed_scale, *hidden_scale;
  int16_t *router_row, *query, *shares;
  int16_t *keys, *values;
  int32_t *scores;
  int64_t* long_sums;
  int *rows, *heads;
  uint8_t *head_on, *expert_on;
  int *starts;
  Clock clock;
};

// ---- routers ----

// on[units] of one row of states.
inline void choose(const Router& router, const float* x, int width, int budget, bool needs_one, Work& work, uint8_t* on) {
  float most = largest(x, width);
  to_integers(x, width, factor_to(most, MOST_ROUTER), 0, work.router_row);
  for (int i = width; i < router.depth; ++i) work.router_row[i] = 0;
  const float scale = worth(most, MOST_ROUTER), threshold = router.thresholds[budget];
  alignas(64) int32_t sums[TILE * PANEL];
  const int16_t* at[1] = {work.router_row};
  for (int panel = 0; panel < router.panels; ++panel) {
    tile16(at, 1, router.weights + static_cast<size_t>(panel) * router.depth * PANEL, router.depth, sums);
    for (int c = 0; c < PANEL && panel * PANEL + c < router.units; ++c) {
      int unit = panel * PANEL + c;
      float score = static_cast<float>(sums[c]) * scale * router.scale[unit] + router.bias[unit];
      work.wanted[unit] = score + router.balance[unit];
    }
  }
  int best = 0;
  for (int unit = 0; unit < router.units; ++unit) {
    on[unit] = work.wanted[unit] > threshold;
    if (work.wanted[unit] > work.wanted[best]) best = unit;
  }
  if (needs_one) on[best] = 1;
}

// ---- attention ----

// One head of one text: qkv [length][3 * W] to out [length], `stride` apart.
inline void attend(const float* qkv, int length, int width, Work& work, float* out, int stride) {
  const int three = 3 * width, depth = filled(width, 2), keys = filled(length, PANEL);
  const float q_most = largest_of_rows(qkv, length, width, three);
  const float k_most = largest_of_rows(qkv + width, length, width, three);
  const float v_most = largest_of_rows(qkv + 2 * width, length, width, three);
  const float q_factor = factor_to(q_most, MOST_INT12), k_factor = factor_to(k_most, MOST_INT12),
              v_factor = factor_to(v_most, MOST_INT12);
  const float factor = worth(q_most, MOST_INT12) * worth(k_most, MOST_INT12) *
                       static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(width)));
  const float v_scale = worth(v_most, MOST_INT12);
  // Keys as panels of 16 keys [keys / 16][depth / 2][16][2]; values as panels of 16 columns [W / 16][length / 2][16][2].
  const int columns = filled(width, PANEL), even = filled(length, 2);
  __builtin_memset(work.keys, 0, sizeof(int16_t) * static_cast<size_t>(keys) * depth);
  int16_t* row = work.router_row;
  for (int j = 0; j < length; ++j) {
    const float* from = qkv + static_cast<size_t>(j) * three;
    int16_t* query = work.query + static_cast<size_t>(j) * depth;
    to_integers(from, width, q_factor, 0, query);
    if (depth > width) query[width] = 0;
    to_integers(from + width, width, k_factor, 0, row);
    if (depth > width) row[width] = 0;
    int16_t* panel = work.keys + static_cast<size_t>(j / PANEL) * PANEL * depth + (j % PANEL) * 2;
    for (int i = 0; i < depth; i += 2) __builtin_memcpy(panel + static_cast<size_t>(i) * PANEL, row + i, 4);
  }
  __builtin_memset(row, 0, sizeof(int16_t) * 2 * columns);
  for (int j = 0; j < length; j += 2) {
    const float* from = qkv + static_cast<size_t>(j) * three + 2 * width;
    to_integers(from, width, v_factor, 0, row);
    if (j + 1 < length)
      to_integers(from + three, width, v_factor, 0, row + columns);
    else
      __builtin_memset(row + columns, 0, sizeof(int16_t) * columns);
    for (int panel = 0; panel < columns / PANEL; ++panel) {
      int16_t* __restrict to = work.values + (static_cast<size_t>(panel) * even + j) * PANEL;
      const int16_t* __restrict upper = row + panel * PANEL;
      for (int i = 0; i < PANEL; ++i) {
        to[2 * i] = upper[i];
        to[2 * i + 1] = upper[columns + i];
      }
    }
  }
  alignas(64) int32_t sums[TILE * PANEL];
  const int16_t* at[TILE];
  for (int first = 0; first < length; first += TILE) {
    const int here = length - first < TILE ? length - first : TILE;
    for (int r = 0; r < here; ++r) at[r] = work.query + static_cast<size_t>(first + r) * depth;
    for (int panel = 0; panel < keys / PANEL; ++panel) {
      tile16(at, here, work.keys + static_cast<size_t>(panel) * PANEL * depth, depth, sums);
      for (int r = 0; r < here; ++r)
        __builtin_memcpy(work.scores + static_cast<size_t>(r) * keys + panel * PANEL, sums + r * PANEL,
                         sizeof(int32_t) * PANEL);
    }
    float out_factor[TILE];
    for (int r = 0; r < here; ++r) {
      const int32_t* __restrict scores = work.scores + static_cast<size_t>(r) * keys;
      int16_t* __restrict shares = work.shares + static_cast<size_t>(r) * even;
      int32_t top = scores[0], total = 0;
      for (int j = 1; j < length; ++j) top = scores[j] > top ? scores[j] : top;
      const float highest = static_cast<float>(top) * factor;
      for (int j = 0; j < length; ++j) {
        float share = exp_below(static_cast<float>(scores[j]) * factor - highest);
        int32_t whole = static_cast<int32_t>(rounded(share * static_cast<float>(MOST_INT12)));
        shares[j] = static_cast<int16_t>(whole);
        total += whole;
      }
      if (even > length) shares[length] = 0;
      out_factor[r] = v_scale / static_cast<float>(total);
    }
    for (int panel = 0; panel < columns / PANEL; ++panel) {
      const int16_t* values = work.values + static_cast<size_t>(panel) * PANEL * even;
      const int here_columns = width - panel * PANEL < PANEL ? width - panel * PANEL : PANEL;
      if (length <= MOST_KEYS) {
        for (int r = 0; r < here; ++r) at[r] = work.shares + static_cast<size_t>(r) * even;
        tile16(at, here, values, even, sums);
        for (int r = 0; r < here; ++r)
          for (int c = 0; c < here_columns; ++c)
            out[static_cast<size_t>(first + r) * stride + panel * PANEL + c] =
                static_cast<float>(sums[r * PANEL + c]) * out_factor[r];
        continue;
      }
      for (int i = 0; i < here * PANEL; ++i) work.long_sums[i] = 0;
      for (int start = 0; start < even; start += MOST_KEYS) {
        for (int r = 0; r < here; ++r) at[r] = work.shares + static_cast<size_t>(r) * even + start;
        tile16(at, here, values + static_cast<size_t>(start) * PANEL, even - start < MOST_KEYS ? even - start : MOST_KEYS,
               sums);
        for (int i = 0; i < here * PANEL; ++i) work.long_sums[i] += sums[i];
      }
      for (int r = 0; r < here; ++r)
        for (int c = 0; c < here_columns; ++c)
          out[static_cast<size_t>(first + r) * stride + panel * PANEL + c] =
              static_cast<float>(work.long_sums[r * PANEL + c]) * out_factor[r];
    }
  }
}

// y = attention without the residual; only heads that are on.
inline void attention(const Model& model, const Layer& layer, const Request& request, Work& work) {
  const Sizes& sizes = model.sizes;
  const int width = static_cast<int>(sizes.width), head_width = static_cast<int>(sizes.head_width),
            heads = static_cast<int>(sizes.heads), three = 3 * head_width, depth = filled(width, 4),
            head_depth = filled(head_width, 4);
  for (int t = 0; t < request.tokens; ++t)
    work.q_scale[t] = quantise_row(work.x + static_cast<size_t>(t) * width, width, depth,
                                   work.q + static_cast<size_t>(t) * depth);
  __builtin_memset(work.mixed, 0, sizeof(float) * static_cast<size_t>(request.tokens) * width);
  for (int head = 0; head < heads; ++head) {
    int count = 0;
    for (int s = 0; s < request.texts; ++s)
      if (work.head_on[static_cast<size_t>(s) * heads + head])
        for (int t = 0; t < request.lengths[s]; ++t) work.rows[count++] = work.starts[s] + t;
    if (!count) continue;
    const Block& block = layer.qkv[head];
    product8(block, work.q, depth, work.rows, count, WHOLE, 1, depth, work.gathered, [&](int first, int here, int panel, int32_t* sums) {
      const int columns = three - panel * PANEL < PANEL ? three - panel * PANEL : PANEL;
      const float *scale = block.scale + panel * PANEL, *bias = block.bias + panel * PANEL;
      for (int r = 0; r < here; ++r) {
        const float row_scale = work.q_scale[work.rows[first + r]];
        float* to = work.qkv + static_cast<size_t>(first + r) * three + panel * PANEL;
        if (columns == PANEL)
          for (int c = 0; c < PANEL; ++c) to[c] = static_cast<float>(sums[r * PANEL + c]) * row_scale * scale[c] + bias[c];
        else
          for (int c = 0; c < columns; ++c)
            to[c] = static_cast<float>(sums[r * PANEL + c]) * row_scale * scale[c] + bias[c];
      }
    });
    work.clock.ended(QUERIES);
    const float* qkv = work.qkv;
    for (int s = 0; s < request.texts; ++s) {
      if (!work.head_on[static_cast<size_t>(s) * heads + head]) continue;
      attend(qkv, request.lengths[s], head_width, work,
             work.mixed + static_cast<size_t>(work.starts[s]) * width + head * head_width, width);
      qkv += static_cast<size_t>(request.lengths[s]) * three;
    }
    work.clock.ended(ATTEND);
  }
  const int mixed_depth = heads * head_depth;
  for (int t = 0; t < request.tokens; ++t) {
    const float* row = work.mixed + static_cast<size_t>(t) * width;
    Activation* to = work.q_mixed + static_cast<size_t>(t) * mixed_depth;
    const float most = largest(row, width), factor = factor_to(most, MOST_INT8);
    for (int head = 0; head < heads; ++head) {
      to_integers(row + head * head_width, head_width, factor, OFFSET, to + head * head_depth);
      for (int i = head_width; i < head_depth; ++i) to[head * head_depth + i] = OFFSET;
    }
    work.mixed_scale[t] = worth(most, MOST_INT8);
  }
  // Neighbouring texts with the same heads share their tiles.
  for (int s = 0; s < request.texts;) {
    int end = s + 1, working = 0;
    while (end < request.texts && !__builtin_memcmp(work.head_on + static_cast<size_t>(s) * heads,
                                                    work.head_on + static_cast<size_t>(end) * heads, heads))
      ++end;
    for (int head = 0; head < heads; ++head)
      if (work.head_on[static_cast<size_t>(s) * heads + head]) work.heads[working++] = head;
    const int start = work.starts[s];
    const int count = (end < request.texts ? work.starts[end] : request.tokens) - start;
    const Block& block = layer.output;
    product8(block, work.q_mixed + static_cast<size_t>(start) * mixed_depth, mixed_depth, nullptr, count, work.heads,
             working, head_depth, nullptr, [&](int first, int here, int panel, int32_t* sums) {
               const int columns = width - panel * PANEL < PANEL ? width - panel * PANEL : PANEL;
               for (int r = 0; r < here; ++r) {
                 const float row_scale = work.mixed_scale[start + first + r];
                 float* to = work.y + static_cast<size_t>(start + first + r) * width + panel * PANEL;
                 for (int c = 0; c < columns; ++c)
                   to[c] = static_cast<float>(sums[r * PANEL + c]) * row_scale * block.scale[panel * PANEL + c] +
                           block.bias[panel * PANEL + c];
               }
             });
    s = end;
  }
}

// ---- feed-forward ----

// y += one block of neurons on some rows; rows null: all of them.
inline void neurons(const Block& up, const Block& down, const int* rows, int count, int width, Work& work) {
  const int depth = filled(width, 4), inner = up.outputs, inner_depth = down.depth;
  for (int begin = 0; begin < count;) {
    int most = HIDDEN / (inner > 0 ? inner : 1) / TILE * TILE;
    most = most < TILE ? TILE : most;
    const int some = count - begin < most ? count - begin : most;
    const int* these = rows ? rows + begin : nullptr;
    product8(up, rows ? work.q : work.q + static_cast<size_t>(begin) * depth, depth, these, some, WHOLE, 1, depth,
             work.gathered, [&](int first, int here, int panel, int32_t* sums) {
               const int columns = inner - panel * PANEL < PANEL ? inner - panel * PANEL : PANEL;
               const float *scale = up.scale + panel * PANEL, *bias = up.bias + panel * PANEL;
               for (int r = 0; r < here; ++r) {
                 const float row_scale = work.q_scale[these ? these[first + r] : begin + first + r];
                 float* to = work.hidden + static_cast<size_t>(first + r) * inner + panel * PANEL;
                 if (columns == PANEL)
                   for (int c = 0; c < PANEL; ++c)
                     to[c] = gelu(static_cast<float>(sums[r * PANEL + c]) * row_scale * scale[c] + bias[c]);
                 else
                   for (int c = 0; c < columns; ++c)
                     to[c] = gelu(static_cast<float>(sums[r * PANEL + c]) * row_scale * scale[c] + bias[c]);
               }
             });
    for (int r = 0; r < some; ++r)
      work.hidden_scale[r] = quantise_row(work.hidden + static_cast<size_t>(r) * inner, inner, inner_depth,
                                          work.q_hidden + static_cast<size_t>(r) * inner_depth);
    product8(down, work.q_hidden, inner_depth, nullptr, some, WHOLE, 1, inner_depth,
             nullptr, [&](int first, int here, int panel, int32_t* sums) {
               const int columns = width - panel * PANEL < PANEL ? width - panel * PANEL : PANEL;
               const float* scale = down.scale + panel * PANEL;
               for (int r = 0; r < here; ++r) {
                 const int row = these ? these[first + r] : begin + first + r;
                 float* to = work.y + static_cast<size_t>(row) * width + panel * PANEL;
                 const float row_scale = work.hidden_scale[first + r];
                 for (int c = 0; c < columns; ++c)
                   to[c] = to[c] + static_cast<float>(sums[r * PANEL + c]) * row_scale * scale[c];
               }
             });
    begin += some;
  }
}

inline void choose_experts(const Model& model, const Layer& layer, const Request& request, Work& work) {
  const Sizes& sizes = model.sizes;
  const int width = static_cast<int>(sizes.width), experts = static_cast<int>(sizes.experts);
  const bool needs_one = sizes.shared_neurons == 0;
  for (int s = 0; s < request.texts; ++s) {
    const float* x = work.x + static_cast<size_t>(work.starts[s]) * width;
    uint8_t* on = work.expert_on + static_cast<size_t>(work.starts[s]) * experts;
    const int length = request.lengths[s];
    if (!sizes.by_token) {
      text_mean(x, length, width, work.half, work.means);
      choose(layer.expert_router, work.means, width, request.budget, needs_one, work, on);
      for (int t = 1; t < length; ++t) __builtin_memcpy(on + static_cast<size_t>(t) * experts, on, experts);
      continue;
    }
    for (int t = 0; t < length; ++t)
      choose(layer.expert_router, x + static_cast<size_t>(t) * width, width, request.budget, needs_one, work,
             on + static_cast<size_t>(t) * experts);
    if (request.budget == sizes.budgets - 1 || sizes.quorum < 2) continue;
    for (int e = 0; e < experts; ++e) {
      int wanted = 0;
      for (int t = 0; t < length; ++t) wanted += on[static_cast<size_t>(t) * experts + e];
      if (wanted < sizes.quorum)
        for (int t = 0; t < length; ++t) on[static_cast<size_t>(t) * experts + e] = 0;
    }
  }
}

inline void feed_forward(const Model& model, const Layer& layer, const Request& request, Work& work) {
  const Sizes& sizes = model.sizes;
  const int width = static_cast<int>(sizes.width), experts = static_cast<int>(sizes.experts), depth = filled(width, 4);
  for (int t = 0; t < request.tokens; ++t) {
    work.q_scale[t] = quantise_row(work.x + static_cast<size_t>(t) * width, width, depth,
                                   work.q + static_cast<size_t>(t) * depth);
    __builtin_memcpy(work.y + static_cast<size_t>(t) * width, layer.down_bias, sizeof(float) * width);
  }
  if (sizes.shared_neurons) neurons(layer.up[0], layer.down[0], nullptr, request.tokens, width, work);
  for (int e = 0; e < experts; ++e) {
    int count = 0;
    for (int t = 0; t < request.tokens; ++t)
      if (work.expert_on[static_cast<size_t>(t) * experts + e]) work.rows[count++] = t;
    if (count) neurons(layer.up[1 + e], layer.down[1 + e], work.rows, count, width, work);
  }
}

inline void add_and_norm(int width, int tokens, const float* weight, const float* bias, float eps, Work& work) {
  for (int t = 0; t < tokens; ++t) {
    float* __restrict x = work.x + static_cast<size_t>(t) * width;
    const float* __restrict y = work.y + static_cast<size_t>(t) * width;
    for (int i = 0; i < width; ++i) x[i] = x[i] + y[i];
    layer_norm(x, width, weight, bias, eps, work.line);
  }
}

inline size_t lay_out(const Model& model, const Request& request, int longest, char* base, Work& work) {
  const Sizes& sizes = model.sizes;
  const size_t tokens = request.tokens, width = sizes.width, heads = sizes.heads, head_depth = filled(sizes.head_width, 4),
               depth = filled(sizes.width, 4), columns = filled(sizes.head_width, PANEL), keys = filled(longest, PANEL);
  const size_t inner = sizes.shared_neurons > sizes.expert_width ? sizes.shared_neurons : sizes.expert_width;
  size_t hidden = inner * TILE > HIDDEN ? inner * TILE : HIDDEN;
  size_t units = (heads > static_cast<size_t>(sizes.experts) ? heads : sizes.experts) + PANEL;
  Carver carver{base};
  carver.take(work.x, tokens * width);
  carver.take(work.y, tokens * width);
  carver.take(work.line, width);
  carver.take(work.qkv, tokens * 3 * sizes.head_width);
  carver.take(work.mixed, tokens * width);
  carver.take(work.hidden, hidden);
  carver.take(work.means, width);
  carver.take(work.half, (static_cast<size_t>(longest) + 1) / 2 * width);
  carver.take(work.wanted, units);
  // With ROWS_FIRST a tile may read up to 15 rows beyond the last; what it finds there is not used.
  const size_t beyond = ROWS_FIRST ? TILE : 0;
  carver.take(work.q, (tokens + beyond) * depth);
  carver.take(work.gathered, ROWS_FIRST ? (tokens + beyond) * depth : 0);
  carver.take(work.q_mixed, (tokens + beyond) * heads * head_depth);
  carver.take(work.q_hidden, hidden + HIDDEN * 4 + beyond * filled(inner, 4));  // rows are filled up to a multiple of 4
  carver.take(work.q_scale, tokens);
  carver.take(work.mixed_scale, tokens);
  carver.take(work.hidden_scale, HIDDEN + TILE);
  carver.take(work.router_row, (depth > 2 * columns ? depth : 2 * columns) + 4);
  carver.take(work.query, static_cast<size_t>(longest) * filled(sizes.head_width, 2));
  carver.take(work.shares, TILE * static_cast<size_t>(longest + 2));
  carver.take(work.keys, keys * filled(sizes.head_width, 2));
  carver.take(work.values, static_cast<size_t>(longest + 2) * columns);
  carver.take(work.scores, TILE * keys);
  carver.take(work.long_sums, TILE * PANEL);
  carver.take(work.rows, tokens);
  carver.take(work.heads, heads);
  carver.take(work.head_on, request.texts * heads);
  carver.take(work.expert_on, tokens * sizes.experts + 1);
  carver.take(work.starts, request.texts + 1);
  return carver.used;
}

int forward(const Model& model, const Request& request, void* (*arena)(size_t)) {
  const Sizes& sizes = model.sizes;
  const int width = static_cast<int>(sizes.width), heads = static_cast<int>(sizes.heads),
            shared = static_cast<int>(sizes.shared_heads), experts = static_cast<int>(sizes.experts);
  int longest = 0;
  for (int s = 0; s < request.texts; ++s) longest = request.lengths[s] > longest ? request.lengths[s] : longest;
  Work work;
  work.clock = Clock{request.spent};
  work.clock.start();
  const size_t bytes = lay_out(model, request, longest, nullptr, work);
  char* base = static_cast<char*>(arena(bytes));
  if (!base) return 1;
  lay_out(model, request, longest, base, work);

  for (int s = 0, t = 0; s < request.texts; ++s) {
    work.starts[s] = t;
    for (int place = 0; place < request.lengths[s]; ++place, ++t) {
      const int64_t id = request.ids[t];
      const int8_t* __restrict from = model.tokens + static_cast<size_t>(id) * width;
      const float scale = model.token_scale[id];
      const float* __restrict position = model.positions + static_cast<size_t>(place) * width;
      float* __restrict x = work.x + static_cast<size_t>(t) * width;
      for (int i = 0; i < width; ++i) x[i] = static_cast<float>(from[i]) * scale + position[i];
      layer_norm(x, width, model.norm_weight, model.norm_bias, model.eps, work.line);
    }
  }
  work.clock.ended(EMBED);
  for (int place = 0; place < sizes.layers; ++place) {
    const Layer& layer = model.layers[place];
    const int routed = heads - shared;
    __builtin_memset(work.head_on, 1, static_cast<size_t>(request.texts) * heads);
    for (int s = 0; routed && s < request.texts; ++s) {
      text_mean(work.x + static_cast<size_t>(work.starts[s]) * width, request.lengths[s], width, work.half, work.means);
      uint8_t* on = work.head_on + static_cast<size_t>(s) * heads + shared;
      choose(layer.head_router, work.means, width, request.budget, shared == 0, work, on);
      if (request.on_heads)
        __builtin_memcpy(request.on_heads + (static_cast<size_t>(place) * request.texts + s) * routed, on, routed);
    }
    work.clock.ended(ROUTE);
    attention(model, layer, request, work);
    work.clock.ended(OUTPUT);
    add_and_norm(width, request.tokens, layer.attention_weight, layer.attention_bias, model.eps, work);
    work.clock.ended(NORM);
    if (experts) {
      choose_experts(model, layer, request, work);
      if (request.on_experts)
        __builtin_memcpy(request.on_experts + static_cast<size_t>(place) * request.tokens * experts, work.expert_on,
                         static_cast<size_t>(request.tokens) * experts);
    }
    work.clock.ended(ROUTE);
    feed_forward(model, layer, request, work);
    work.clock.ended(FEED_FORWARD);
    add_and_norm(width, request.tokens, layer.ffn_weight, layer.ffn_bias, model.eps, work);
    work.clock.ended(NORM);
  }
  for (int s = 0; s < request.texts; ++s) {
    float* out = request.vectors + static_cast<size_t>(s) * width;
    const float* states = work.x + static_cast<size_t>(work.starts[s]) * width;
    if (model.sizes.by_first)
      __builtin_memcpy(out, states, sizeof(float) * width);
    else
      text_mean(states, request.lengths[s], width, work.half, out);
    unit(out, width, work.line, out);
  }
  work.clock.ended(EMBED);
  return 0;
}

}  // namespace
