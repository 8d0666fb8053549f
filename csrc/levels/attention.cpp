// Attention of one level: see attention_table.hpp for what each function does.
#include "attention_table.hpp"
#include "vector.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

constexpr float kLog2E = 1.44269504F;
constexpr float kLn2 = 0.693147181F;

// Registers of queries that one pass over the keys works on: with as many keys as fit beside them,
// accumulators fill the registers.
constexpr int kMostVectors = kRegisters == 32 ? 4 : 2;
template <int VECTORS>
constexpr int kTileKeys = 24 / VECTORS;
#if !defined(__AVX512F__)
template <>
constexpr int kTileKeys<1> = 12;
template <>
constexpr int kTileKeys<2> = 6;
#endif
template <int VECTORS>
constexpr int kTileValues = kTileKeys<VECTORS>;

// Queries lie in groups of as many lanes, [kLanes / kGroup][width][kGroup]: rows of all lanes, of
// which a pass reads some, would fall on few lines of the L1 cache.
constexpr std::int64_t kGroup = kMostVectors * kWidth;
static_assert(kLanes % kGroup == 0);

inline std::int64_t group_at(std::int64_t lane, std::int64_t width) {
    return lane / kGroup * kGroup * width + lane % kGroup;
}

// A narrow tile waits for its sums, so what a wide one leaves over is not cut into the narrowest:
// 6, 4, 2, 1, and 8 is 4 and 4.
template <int TILE>
constexpr int kNarrower = TILE % 3 == 0 ? TILE / 3 * 2 : TILE / 2;

template <int TILE>
constexpr bool one_more(std::int64_t left) {
    return left >= TILE && (TILE % 3 != 0 || left != 2 * kNarrower<TILE>);
}

// ---- reading rows ----

inline float to_float(std::uint16_t bits, Element element) {
    float x;
    if (element == Element::bf16) {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        std::memcpy(&x, &wide, sizeof x);
        return x;
    }
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
    const std::uint32_t magnitude = bits & 0x7fffU;
    if (magnitude >= 0x7c00U) {  // infinity, NaN
        const std::uint32_t wide = sign | 0x7f800000U | (magnitude & 0x3ffU) << 13;
        std::memcpy(&x, &wide, sizeof x);
        return x;
    }
    // The exponent is rebiased by a product, which also normalises subnormal numbers.
    const std::uint32_t wide = magnitude << 13;
    std::memcpy(&x, &wide, sizeof x);
    x *= 5.192296858534828e33F;  // 2^112
    return sign != 0 ? -x : x;
}

inline std::uint16_t to_half(float x, Element element) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (element == Element::bf16) {
        if ((bits & 0x7fffffffU) > 0x7f800000U) return 0x7fc0U;
        return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
    }
    const std::uint32_t sign = bits >> 16 & 0x8000U;
    const std::uint32_t magnitude = bits & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
    if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 up
    if (magnitude < 0x38800000U) {  // subnormal: adding 1/2 leaves the rounded bits in the mantissa
        float y;
        std::memcpy(&y, &magnitude, sizeof y);
        y += 0.5F;
        std::uint32_t rounded;
        std::memcpy(&rounded, &y, sizeof rounded);
        return static_cast<std::uint16_t>(sign | (rounded - 0x3f000000U));
    }
    const std::uint32_t odd = magnitude >> 13 & 1U;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
}

inline void read_row(const RowsIn& in, std::int64_t row, std::int64_t width, float* out) {
    const std::int64_t at = row * in.stride;
    if (in.element == Element::f32) {
        std::memcpy(out, static_cast<const float*>(in.data) + at,
                    static_cast<std::size_t>(width) * sizeof(float));
        return;
    }
    const std::uint16_t* halves = static_cast<const std::uint16_t*>(in.data) + at;
    if (in.element == Element::bf16) {
        for (std::int64_t d = 0; d < width; ++d) out[d] = to_float(halves[d], Element::bf16);
    } else {
        for (std::int64_t d = 0; d < width; ++d) out[d] = to_float(halves[d], Element::f16);
    }
}

// Turns pairs from `i` on while they fill a T; returns the first one that does not.
template <class T>
inline std::int64_t turn_each(const float* from, const float* phase, std::int64_t pairs, float* to,
                              std::int64_t i) {
    constexpr std::int64_t kStep = sizeof(T) / sizeof(float);
    const auto read = [](const float* at) {
        T x;
        std::memcpy(&x, at, sizeof x);
        return x;
    };
    for (; i + kStep <= pairs; i += kStep) {
        const T cos = read(phase + i);
        const T sin = read(phase + pairs + i);
        const T x = read(from + i);
        const T y = read(from + pairs + i);
        const T turned[] = {x * cos - y * sin, y * cos + x * sin};
        std::memcpy(to + i, &turned[0], sizeof(T));
        std::memcpy(to + pairs + i, &turned[1], sizeof(T));
    }
    return i;
}

inline void turn_halves(const float* from, const float* phase, std::int64_t pairs, float* to) {
    using Four = float __attribute__((vector_size(16)));  // all that small models turn
    std::int64_t i = turn_each<Floats>(from, phase, pairs, to, 0);
    i = turn_each<Four>(from, phase, pairs, to, i);
    turn_each<float>(from, phase, pairs, to, i);
}

inline void turn(float* row, const float* phase, std::int64_t pairs) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        const float even = row[2 * i];
        const float odd = row[2 * i + 1];
        row[2 * i] = even * phase[i] - odd * phase[pairs + i];
        row[2 * i + 1] = odd * phase[i] + even * phase[pairs + i];
    }
}

void gather(const RowsIn& in, std::int64_t first, std::int64_t n, std::int64_t width, float* out) {
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t key = in.order != nullptr ? in.order[first + i] : first + i;
        const std::int64_t from = in.rows != nullptr ? in.rows[key] : key;
        float* const row = out + i * width;
        const bool turned = in.phase != nullptr;
        const float* const phase = turned ? in.phase + key * in.phase_stride : nullptr;
        if (turned && in.halves && in.element == Element::f32) {  // without a copy before
            const float* const at = static_cast<const float*>(in.data) + from * in.stride;
            turn_halves(at, phase, in.pairs, row);
            std::int64_t d = 2 * in.pairs;
            for (; d + kWidth <= width; d += kWidth) store(row + d, load(at + d));
            for (; d < width; ++d) row[d] = at[d];
            continue;
        }
        read_row(in, from, width, row);
        if (turned && in.halves) turn_halves(row, phase, in.pairs, row);
        if (turned && !in.halves) turn(row, phase, in.pairs);
    }
}

void pack(const RowsIn& in, std::int64_t first, std::int64_t queries, std::int64_t width,
          float* out, float* phase_out, float* scratch) {
    RowsIn plain = in;
    plain.phase = nullptr;
    if (queries < kLanes) {
        std::memset(out, 0, static_cast<std::size_t>(width * kLanes) * sizeof(float));
    }
    constexpr std::int64_t kStrip = kWidth;  // scratch holds that many rows of any width
    for (std::int64_t q = 0; q < queries; q += kStrip) {
        const std::int64_t n = queries - q < kStrip ? queries - q : kStrip;
        gather(plain, first + q, n, width, scratch);
        transpose(scratch, width, n, width, out + group_at(q, width), kGroup);
    }
    if (in.phase == nullptr) return;
    const std::int64_t angles = 2 * in.pairs;
    if (queries < kLanes) {
        std::memset(phase_out, 0, static_cast<std::size_t>(angles * kLanes) * sizeof(float));
    }
    transpose(in.phase + first * in.phase_stride, in.phase_stride, queries, angles, phase_out,
              kLanes);
    for (std::int64_t i = 0; i < in.pairs; ++i) {
        for (std::int64_t lane = 0; lane < kLanes; lane += kWidth) {
            const Floats cos = load(phase_out + i * kLanes + lane);
            const Floats sin = load(phase_out + (in.pairs + i) * kLanes + lane);
            float* const even = out + group_at(lane, width) + (in.halves ? i : 2 * i) * kGroup;
            float* const odd = even + (in.halves ? in.pairs : 1) * kGroup;
            const Floats x = load(even);
            const Floats y = load(odd);
            store(even, x * cos - y * sin);
            store(odd, y * cos + x * sin);
        }
    }
}

// ---- products ----

// Products are summed over this many features at a time: the rounding of long sums stays short.
constexpr std::int64_t kPanel = 64;

// What the scores of some keys start from: nothing, or rows of a table.
struct Start {
    const float* scores;
    std::int64_t stride;
    const std::int64_t* rows;
};

inline Start start_of(const Still& still, const KeyBlock& keys, std::int64_t key,
                      std::int64_t lane) {
    if (still.scores == nullptr) return {nullptr, 0, nullptr};
    return {still.scores + lane, still.scores_stride, keys.rows + key};
}

// scores[key][lanes] = <queries, key>; best[lanes] grows to the largest.
template <int KEYS, int VECTORS>
ATTENDRITE_APART void score_tile(const float* queries, const float* k, std::int64_t stride,
                                 std::int64_t width, const Start& start, std::int64_t key,
                                 float* scores, Floats (&best)[VECTORS]) {
    Floats products[KEYS][VECTORS];
    std::int64_t d = 0;
    do {
        const bool first = d == 0;
        if (first && start.scores != nullptr) {
            for (int i = 0; i < KEYS; ++i) {
                const float* const from = start.scores + start.rows[key + i] * start.stride;
                for (int j = 0; j < VECTORS; ++j) products[i][j] = load(from + j * kWidth);
            }
        } else {
            for (int i = 0; i < KEYS; ++i) {
                for (int j = 0; j < VECTORS; ++j) products[i][j] = all(0.0F);
            }
        }
        const std::int64_t end = width - d < kPanel ? width : d + kPanel;
        RowSet<KEYS> rows(k + d, stride);
        const float* from = queries + d * kGroup;
        for (; d < end; ++d, from += kGroup) {
            Floats q[VECTORS];
            for (int j = 0; j < VECTORS; ++j) q[j] = load(from + j * kWidth);
#pragma GCC unroll 24
            for (int i = 0; i < KEYS; ++i) {
                const Floats x = all(rows[i]);
                for (int j = 0; j < VECTORS; ++j) products[i][j] = fma(x, q[j], products[i][j]);
            }
            rows.next();
        }
        for (int i = 0; i < KEYS; ++i) {
            for (int j = 0; j < VECTORS; ++j) {
                float* const to = scores + i * kLanes + j * kWidth;
                if (!first) products[i][j] = products[i][j] + load(to);
                store(to, products[i][j]);
            }
        }
    } while (d < width);
    for (int i = 0; i < KEYS; ++i) {
        for (int j = 0; j < VECTORS; ++j) best[j] = max(best[j], products[i][j]);
    }
}

template <int KEYS, int VECTORS>
inline void score_tiles(const float* queries, const float* k, std::int64_t stride,
                        std::int64_t width, const Start& start, std::int64_t key, std::int64_t n,
                        float* scores, Floats (&best)[VECTORS]) {
    std::int64_t i = 0;
    for (; one_more<KEYS>(n - i); i += KEYS) {
        score_tile<KEYS, VECTORS>(queries, k + i * stride, stride, width, start, key + i,
                                  scores + i * kLanes, best);
    }
    if constexpr (KEYS > 1) {
        if (i < n) {
            score_tiles<kNarrower<KEYS>, VECTORS>(queries, k + i * stride, stride, width, start,
                                                  key + i, n - i, scores + i * kLanes, best);
        }
    }
}

// output[value][lanes] += sum of weights[key][lanes] v[key][value].
template <int VALUES, int VECTORS>
ATTENDRITE_APART void value_tile(const float* weights, const float* v, std::int64_t stride,
                                 std::int64_t n, float* output) {
    Floats sums[VALUES][VECTORS];
    for (int i = 0; i < VALUES; ++i) {
        for (int j = 0; j < VECTORS; ++j) sums[i][j] = all(0.0F);
    }
#pragma GCC unroll 2
    for (std::int64_t key = 0; key < n; ++key, v += stride, weights += kLanes) {
        Floats w[VECTORS];
        for (int j = 0; j < VECTORS; ++j) w[j] = load(weights + j * kWidth);
#pragma GCC unroll 24
        for (int i = 0; i < VALUES; ++i) {
            const Floats x = all(v[i]);
            for (int j = 0; j < VECTORS; ++j) sums[i][j] = fma(x, w[j], sums[i][j]);
        }
    }
    for (int i = 0; i < VALUES; ++i) {
        for (int j = 0; j < VECTORS; ++j) {
            float* const to = output + i * kLanes + j * kWidth;
            store(to, load(to) + sums[i][j]);
        }
    }
}

template <int VALUES, int VECTORS>
inline void value_tiles(const float* weights, const float* v, std::int64_t stride, std::int64_t n,
                        std::int64_t width, float* output) {
    std::int64_t d = 0;
    for (; one_more<VALUES>(width - d); d += VALUES) {
        value_tile<VALUES, VECTORS>(weights, v + d, stride, n, output + d * kLanes);
    }
    if constexpr (VALUES > 1) {
        if (d < width) {
            value_tiles<kNarrower<VALUES>, VECTORS>(weights, v + d, stride, n, width - d,
                                                    output + d * kLanes);
        }
    }
}

// ---- the running softmax ----

inline void rescale(float* rows, std::int64_t n, std::int64_t lane, Floats factor) {
    for (std::int64_t i = 0; i < n; ++i) {
        float* const at = rows + i * kLanes + lane;
        store(at, load(at) * factor);
    }
}

// Moves what has been gathered to a new maximum.
inline void move_max(const BlockState& state, const BlockShape& shape, std::int64_t lane,
                     Floats to) {
    const Floats from = load(state.max + lane);
    const Floats factor = exp2(from - to);
    if (state.moment != nullptr) {
        const Floats moved = fma(from - to, load(state.sum + lane), load(state.moment + lane));
        store(state.moment + lane, factor * moved);
    }
    if (state.time != nullptr) rescale(state.time, 1, lane, factor);
    rescale(state.sum, 1, lane, factor);
    rescale(state.output, shape.value_width, lane, factor);
    if (state.units != nullptr) rescale(state.units, shape.n_units, lane, factor);
    store(state.max + lane, to);
}

// Which keys of a block, one after the other, are summed together.
enum class Runs { none, units, rows };

// The end of the run that begins at a key.
template <Runs RUNS>
inline std::int64_t run_end(const KeyBlock& keys, std::int64_t first, std::int64_t i,
                            std::int64_t n) {
    if constexpr (RUNS == Runs::none) return n;
    std::int64_t end = i + 1;
    if constexpr (RUNS == Runs::units) {
        while (end < n && keys.units[first + end] == keys.units[first + i]) ++end;
    } else {
        while (end < n && keys.rows[first + end] == keys.rows[first + i]) ++end;
    }
    return end;
}

// Scores become exponentials, and are summed. Returns the number of runs.
template <int VECTORS, bool MOMENTS, Runs RUNS>
inline std::int64_t exponentials(const BlockState& state, const BlockShape& shape,
                                 const KeyBlock& keys, std::int64_t first, std::int64_t n,
                                 std::int64_t lane, float* scores) {
    const Floats scale = all(shape.scale);
    Floats minus_max[VECTORS], sums[VECTORS], moments[VECTORS], times[VECTORS], run_sums[VECTORS];
    for (int j = 0; j < VECTORS; ++j) {
        minus_max[j] = all(0.0F) - load(state.max + lane + j * kWidth);
        sums[j] = moments[j] = times[j] = run_sums[j] = all(0.0F);
    }
    const bool lag = MOMENTS && keys.times != nullptr;
    std::int64_t n_runs = 0;
    std::int64_t i = 0;
    while (i < n) {
        // Sums of a run stay in registers, whether keys are sorted or not.
        const std::int64_t begin = i;
        const std::int64_t end = run_end<RUNS>(keys, first, i, n);
        if constexpr (RUNS != Runs::none) {
            for (int j = 0; j < VECTORS; ++j) run_sums[j] = all(0.0F);
        }
        for (; i < end; ++i) {
            float* const row = scores + i * kLanes;
            for (int j = 0; j < VECTORS; ++j) {
                const Floats x = fma(load(row + j * kWidth), scale, minus_max[j]);
                const Floats e = exp2(x);
                store(row + j * kWidth, e);
                if constexpr (RUNS != Runs::none) {
                    run_sums[j] = run_sums[j] + e;
                } else {
                    sums[j] = sums[j] + e;
                }
                if constexpr (MOMENTS) {
                    moments[j] = fma(e, x, moments[j]);
                    if (lag) times[j] = fma(e, all(keys.times[first + i]), times[j]);
                }
            }
        }
        if constexpr (RUNS != Runs::none) {
            for (int j = 0; j < VECTORS; ++j) sums[j] = sums[j] + run_sums[j];
            if (keys.units != nullptr && keys.units[first + begin] < shape.n_units) {
                float* const to = state.units + keys.units[first + begin] * kLanes + lane;
                for (int j = 0; j < VECTORS; ++j) {
                    store(to + j * kWidth, load(to + j * kWidth) + run_sums[j]);
                }
            }
        }
        if constexpr (RUNS == Runs::rows) {
            float* const to = shape.still.room + n_runs * kLanes;
            for (int j = 0; j < VECTORS; ++j) store(to + j * kWidth, run_sums[j]);
            const float* const row =
                shape.still.values + keys.rows[first + begin] * shape.still.values_stride;
            float* const copy = shape.still.room + kKeys * kLanes + n_runs * shape.still.width;
            std::memcpy(copy, row, static_cast<std::size_t>(shape.still.width) * sizeof(float));
        }
        ++n_runs;
    }
    for (int j = 0; j < VECTORS; ++j) {
        const std::int64_t at = lane + j * kWidth;
        store(state.sum + at, load(state.sum + at) + sums[j]);
        if constexpr (MOMENTS) {
            if (state.moment != nullptr) {
                store(state.moment + at, load(state.moment + at) + moments[j]);
            }
            if (lag) store(state.time + at, load(state.time + at) + times[j]);
        }
    }
    return n_runs;
}

inline bool ahead(float score, std::int32_t key, float other, std::int32_t other_key) {
    return score > other || (score == other && key < other_key);
}

inline void insert(const TopState& top, std::int64_t lane, float score, std::int32_t key) {
    std::int64_t at = top.count - 1;
    if (!ahead(score, key, top.score[at * kLanes + lane], top.key[at * kLanes + lane])) return;
    for (; at > 0; --at) {
        const float above = top.score[(at - 1) * kLanes + lane];
        const std::int32_t above_key = top.key[(at - 1) * kLanes + lane];
        if (!ahead(score, key, above, above_key)) break;
        top.score[at * kLanes + lane] = above;
        top.key[at * kLanes + lane] = above_key;
    }
    top.score[at * kLanes + lane] = score;
    top.key[at * kLanes + lane] = key;
}

// Keys come in ascending order: only a strictly larger score goes ahead of the last one kept.
inline void keep_largest(const TopState& top, const float* scores, std::int64_t n,
                         std::int32_t first, std::int64_t lane, std::int64_t lanes) {
    const float* const last = top.score + (top.count - 1) * kLanes;
    for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = lane; j < lane + lanes; j += kWidth) {
            const float* const row = scores + i * kLanes + (j - lane);
            if (!any_greater(load(row), load(last + j))) continue;
            for (std::int64_t one = 0; one < kWidth; ++one) {
                insert(top, j + one, row[one], first + static_cast<std::int32_t>(i));
            }
        }
    }
}

inline void prefetch_rows(const float* rows, std::int64_t stride, std::int64_t n,
                          std::int64_t width) {
    constexpr std::int64_t kLine = 16;
    for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t d = 0; d < width; d += kLine) __builtin_prefetch(rows + i * stride + d);
    }
}

template <int VECTORS>
inline void absorb_block(const BlockState& state, const TopState* top, const BlockShape& shape,
                         const float* queries, const KeyBlock& keys, std::int64_t first,
                         std::int64_t n, std::int64_t lane, float* scores, float* kept_max) {
    Floats best[VECTORS];
    for (int j = 0; j < VECTORS; ++j) best[j] = all(kLowest);
    // Reading one number at a time, the loops below wait for memory: so the next keys and the
    // values of these are asked for while these are multiplied.
    const Start start = start_of(shape.still, keys, first, lane);
    constexpr std::int64_t kAhead = kTileKeys<VECTORS>;
    const std::int64_t step = keys.cold ? kAhead : n;
    for (std::int64_t i = 0; i < n; i += step) {
        const std::int64_t some = n - i < step ? n - i : step;
        const float* const k = keys.k + (first + i) * keys.k_stride;
        if (keys.cold) {
            prefetch_rows(k + kAhead * keys.k_stride, keys.k_stride, some, shape.width);
            prefetch_rows(keys.v + (first + i) * keys.v_stride, keys.v_stride, some,
                          shape.value_width - shape.still.width);
        }
        score_tiles<kTileKeys<VECTORS>, VECTORS>(queries + group_at(lane, shape.width), k,
                                                 keys.k_stride, shape.width, start, i, some,
                                                 scores + i * kLanes, best);
    }
    if (top != nullptr) {
        keep_largest(*top, scores, n, keys.first + static_cast<std::int32_t>(first), lane,
                     VECTORS * kWidth);
    }
    for (int j = 0; j < VECTORS; ++j) {
        const Floats reached = best[j] * all(shape.scale);
        const Floats now = load(state.max + lane + j * kWidth);
        if (any_greater(reached, now + all(kSlack))) {
            move_max(state, shape, lane + j * kWidth, max(reached, now));
        }
        if (kept_max != nullptr) {
            store(kept_max + lane + j * kWidth, load(state.max + lane + j * kWidth));
        }
    }
    const bool moments = state.moment != nullptr || state.time != nullptr;
    const auto run = [&](auto without, auto with) {
        return (moments ? with : without)(state, shape, keys, first, n, lane, scores);
    };
    const Still& still = shape.still;
    std::int64_t n_runs = 0;
    if (still.width > 0) {
        n_runs =
            run(exponentials<VECTORS, false, Runs::rows>, exponentials<VECTORS, true, Runs::rows>);
    } else if (keys.units != nullptr) {
        run(exponentials<VECTORS, false, Runs::units>, exponentials<VECTORS, true, Runs::units>);
    } else {
        run(exponentials<VECTORS, false, Runs::none>, exponentials<VECTORS, true, Runs::none>);
    }
    const std::int64_t turning = shape.value_width - still.width;
    value_tiles<kTileValues<VECTORS>, VECTORS>(scores, keys.v + first * keys.v_stride,
                                               keys.v_stride, n, turning, state.output + lane);
    if (still.width > 0) {
        value_tiles<kTileValues<VECTORS>, VECTORS>(still.room, still.room + kKeys * kLanes,
                                                   still.width, n_runs, still.width,
                                                   state.output + turning * kLanes + lane);
    }
}

// Calls run(VECTORS, lane) for groups of registers that cover the lanes.
template <class Run>
inline void each_group(std::int64_t lanes, const Run& run) {
    for (std::int64_t lane = 0; lane < lanes; lane += kMostVectors * kWidth) {
        const std::int64_t left = (lanes - lane + kWidth - 1) / kWidth;
        run(static_cast<int>(left < kMostVectors ? left : kMostVectors), lane);
    }
}

void absorb(const BlockState& state, const TopState* top, const BlockShape& shape,
            const float* queries, const KeyBlock& keys, float* scratch, float* kept_max) {
    for (std::int64_t first = 0; first < keys.n; first += kKeys) {
        const std::int64_t n = keys.n - first < kKeys ? keys.n - first : kKeys;
        each_group(shape.lanes, [&](int vectors, std::int64_t lane) {
            const bool keep = kept_max != nullptr;
            float* const scores = keep ? scratch + first * kLanes + lane : scratch;
            float* const maxima = keep ? kept_max + first / kKeys * kLanes : nullptr;
            const auto run = [&](auto block) {
                block(state, top, shape, queries, keys, first, n, lane, scores, maxima);
            };
            if (vectors == 1) run(absorb_block<1>);
            if (vectors == 2) run(absorb_block<2>);
            if constexpr (kMostVectors == 4) {
                if (vectors == 3) run(absorb_block<3>);
                if (vectors == 4) run(absorb_block<4>);
            }
        });
    }
}

inline void zero(float* rows, std::int64_t n) {
    std::memset(rows, 0, static_cast<std::size_t>(n * kLanes) * sizeof(float));
}

void reset(const BlockState& state, const TopState* top, const BlockShape& shape) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) state.max[lane] = kLowest;
    zero(state.sum, 1);
    if (state.moment != nullptr) zero(state.moment, 1);
    if (state.time != nullptr) zero(state.time, 1);
    zero(state.output, shape.value_width);
    if (state.units != nullptr) zero(state.units, shape.n_units);
    if (top == nullptr) return;
    for (std::int64_t i = 0; i < top->count * kLanes; ++i) {
        top->score[i] = -__builtin_inff();
        top->key[i] = -1;
    }
}

void merge(const BlockState& into, const BlockState& from, const BlockShape& shape,
           std::int64_t unit) {
    for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
        const Floats other = load(from.max + lane);
        if (any_greater(other, load(into.max + lane) + all(kSlack))) {
            move_max(into, shape, lane, max(other, load(into.max + lane)));
        }
        const Floats apart = other - load(into.max + lane);
        const Floats factor = exp2(apart);
        const auto add = [&](float* a, const float* b, std::int64_t n) {
            for (std::int64_t i = 0; i < n; ++i) {
                float* const at = a + i * kLanes + lane;
                store(at, fma(load(b + i * kLanes + lane), factor, load(at)));
            }
        };
        if (into.moment != nullptr) {
            const Floats moved = fma(apart, load(from.sum + lane), load(from.moment + lane));
            store(into.moment + lane, fma(moved, factor, load(into.moment + lane)));
        }
        add(into.sum, from.sum, 1);
        if (into.time != nullptr) add(into.time, from.time, 1);
        add(into.output, from.output, shape.value_width);
        if (into.units == nullptr) continue;
        if (from.units != nullptr) {
            add(into.units, from.units, shape.n_units);
        } else if (unit < shape.n_units) {
            add(into.units + unit * kLanes, from.sum, 1);
        }
    }
}

void merge_top(const TopState& into, const TopState& from, const BlockShape& shape) {
    for (std::int64_t lane = 0; lane < shape.lanes; ++lane) {
        for (std::int64_t i = 0; i < from.count; ++i) {
            if (from.key[i * kLanes + lane] < 0) break;
            insert(into, lane, from.score[i * kLanes + lane], from.key[i * kLanes + lane]);
        }
    }
}

// ---- results ----

inline void write_rows(const float* rows, std::int64_t queries, std::int64_t width,
                       const RowsOut& out, float* scratch) {
    if (out.element == Element::f32) {
        transpose(rows, kLanes, width, queries, static_cast<float*>(out.data), out.stride);
        return;
    }
    auto* const halves = static_cast<std::uint16_t*>(out.data);
    for (std::int64_t d = 0; d < width; d += kLanes) {
        const std::int64_t n = width - d < kLanes ? width - d : kLanes;
        transpose(rows + d * kLanes, kLanes, n, queries, scratch, kLanes);
        for (std::int64_t q = 0; q < queries; ++q) {
            for (std::int64_t i = 0; i < n; ++i) {
                halves[q * out.stride + d + i] = to_half(scratch[q * kLanes + i], out.element);
            }
        }
    }
}

void finish(const BlockState& state, const TopState* top, const BlockShape& shape,
            const BlockOut& out, float* scratch) {
    float inverse[kLanes];
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const float total = lane < out.queries ? state.sum[lane] : 0.0F;
        inverse[lane] = total > 0.0F ? 1.0F / total : 0.0F;
    }
    const bool logs = out.lse != nullptr || out.partial_lse != nullptr || out.entropy != nullptr;
    for (std::int64_t q = 0; q < out.queries; ++q) {
        const float total = state.sum[q];
        const bool empty = !(total != 0.0F);  // a sum that is NaN stays so
        const float log2_sum = empty || !logs ? 0.0F : __builtin_log2f(total);
        const float lse = empty ? -__builtin_inff() : (state.max[q] + log2_sum) * kLn2;
        if (out.lse != nullptr) out.lse[q] = lse;
        if (out.max != nullptr) {
            out.max[q] = state.max[q];
            out.inverse[q] = inverse[q];
        }
        if (out.partial_lse != nullptr) out.partial_lse[q * out.partial_lse_stride] = lse;
        if (out.entropy != nullptr) {
            const float entropy = (log2_sum - state.moment[q] * inverse[q]) * kLn2;
            out.entropy[q] = empty || entropy < 0.0F ? 0.0F : entropy;
        }
        if (out.lag != nullptr) {
            const double mean = static_cast<double>(state.time[q] * inverse[q]);
            out.lag[q] =
                empty ? 0.0F : static_cast<float>(out.query_times[q] - out.time_origin - mean);
        }
        for (std::int64_t i = 0; top != nullptr && i < top->count; ++i) {
            const std::int64_t at = i * kLanes + q;
            const bool missing = top->key[at] < 0;
            // As in exponentials(), without rounding the product.
            const Floats above = fma(all(top->score[at]), all(shape.scale), all(-state.max[q]));
            out.top_key[q * top->count + i] = top->key[at];
            out.top_weight[q * top->count + i] = missing ? 0.0F : exp2(above)[0] * inverse[q];
        }
    }
    if (out.output.data != nullptr) {
        for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
            rescale(state.output, shape.value_width, lane, load(inverse + lane));
            for (std::int64_t i = 0; out.phase != nullptr && i < out.pairs; ++i) {
                const Floats cos = load(out.phase + i * kLanes + lane);
                const Floats sin = load(out.phase + (out.pairs + i) * kLanes + lane);
                float* const even = state.output + (out.halves ? i : 2 * i) * kLanes + lane;
                float* const odd = even + (out.halves ? out.pairs : 1) * kLanes;
                const Floats x = load(even);
                const Floats y = load(odd);
                store(even, x * cos + y * sin);
                store(odd, y * cos - x * sin);
            }
        }
        write_rows(state.output, out.queries, shape.value_width, out.output, scratch);
    }
    if (out.per_query_unit == nullptr && out.per_unit == nullptr) return;
    if (out.per_query_unit == nullptr) {  // the shares of single queries are not needed
        for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
            store(inverse + lane, load(inverse + lane) * load(out.query_weights + lane));
        }
        for (std::int64_t u = 0; u < shape.n_units; ++u) {
            Floats total = all(0.0F);
            for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
                total = fma(load(state.units + u * kLanes + lane), load(inverse + lane), total);
            }
            out.per_unit[u] = sum(total);
        }
        return;
    }
    for (std::int64_t u = 0; u < shape.n_units; ++u) {
        Floats total = all(0.0F);
        for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
            float* const at = state.units + u * kLanes + lane;
            const Floats share = load(at) * load(inverse + lane);
            store(at, share);
            total = fma(share, load(out.query_weights + lane), total);
        }
        if (out.per_unit != nullptr) out.per_unit[u] = sum(total);
    }
    transpose(state.units, kLanes, shape.n_units, out.queries, out.per_query_unit, shape.n_units);
}

// ---- the second pass ----

template <int VECTORS>
inline void weigh_block(const BlockShape& shape, const float* queries, const float* max,
                        const float* inverse, const float* query_weights, const KeyBlock& keys,
                        std::int64_t first, std::int64_t n, std::int64_t lane, float* marginals,
                        bool keep, float* scores) {
    Floats unused[VECTORS];
    for (int j = 0; j < VECTORS; ++j) unused[j] = all(kLowest);
    score_tiles<kTileKeys<VECTORS>, VECTORS>(
        queries + group_at(lane, shape.width), keys.k + first * keys.k_stride, keys.k_stride,
        shape.width, start_of(shape.still, keys, first, lane), 0, n, scores, unused);
    const Floats scale = all(shape.scale);
    Floats minus_max[VECTORS], norm[VECTORS], share[VECTORS];
    for (int j = 0; j < VECTORS; ++j) {
        const std::int64_t at = lane + j * kWidth;
        minus_max[j] = all(0.0F) - load(max + at);
        norm[j] = load(inverse + at);
        share[j] = norm[j] * load(query_weights + at);
    }
    for (std::int64_t i = 0; i < n; ++i) {
        float* const row = scores + i * kLanes;
        Floats total = all(0.0F);
        for (int j = 0; j < VECTORS; ++j) {
            const Floats e = exp2(fma(load(row + j * kWidth), scale, minus_max[j]));
            if (keep) store(row + j * kWidth, e * norm[j]);
            total = fma(e, share[j], total);
        }
        if (marginals != nullptr) {
            float* const at = marginals + (first + i) * kWidth;
            store(at, load(at) + total);
        }
    }
}

void weigh(const BlockShape& shape, const float* queries, const float* max, const float* inverse,
           const float* query_weights, std::int64_t n_queries, const KeyBlock& keys,
           float* marginals, float* weights, std::int64_t weights_stride, float* scratch) {
    for (std::int64_t first = 0; first < keys.n; first += kKeys) {
        const std::int64_t n = keys.n - first < kKeys ? keys.n - first : kKeys;
        each_group(shape.lanes, [&](int vectors, std::int64_t lane) {
            const auto run = [&](auto block) {
                block(shape, queries, max, inverse, query_weights, keys, first, n, lane, marginals,
                      weights != nullptr, scratch);
            };
            if (vectors == 1) run(weigh_block<1>);
            if (vectors == 2) run(weigh_block<2>);
            if constexpr (kMostVectors == 4) {
                if (vectors == 3) run(weigh_block<3>);
                if (vectors == 4) run(weigh_block<4>);
            }
            const std::int64_t here = vectors * kWidth;
            const std::int64_t rows = n_queries - lane < here ? n_queries - lane : here;
            if (weights != nullptr && rows > 0) {
                transpose(scratch, kLanes, n, rows, weights + lane * weights_stride + first,
                          weights_stride);
            }
        });
    }
}

void weigh_kept(const BlockShape& shape, const Kept& kept, const float* query_weights,
                std::int64_t n_queries, float* marginals, float* weights,
                std::int64_t weights_stride) {
    for (std::int64_t first = 0; first < kept.n; first += kKeys) {
        const std::int64_t keys = kept.n - first < kKeys ? kept.n - first : kKeys;
        float norm[kLanes];
        float share[kLanes];
        for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
            const Floats then = load(kept.max + first / kKeys * kLanes + lane);
            const Floats factor =
                exp2(then - load(kept.final_max + lane)) * load(kept.inverse + lane);
            store(norm + lane, factor);
            store(share + lane, factor * load(query_weights + lane));
        }
        for (std::int64_t i = first; i < first + keys; ++i) {
            float* const row = kept.exps + i * kLanes;
            Floats total = all(0.0F);
            for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
                const Floats e = load(row + lane);
                total = fma(e, load(share + lane), total);
                if (weights != nullptr) store(row + lane, e * load(norm + lane));
            }
            if (marginals != nullptr) marginals[i] = sum(total);
        }
    }
    if (weights != nullptr) {
        transpose(kept.exps, kLanes, kept.n, n_queries, weights, weights_stride);
    }
}

void fuse(const BlockShape& shape, const Kept& kept, std::int64_t heads, std::int64_t n_queries,
          float* mean, float* most, std::int64_t stride, float* norms, float* scratch) {
    const Floats share = all(1.0F / static_cast<float>(heads));
    for (std::int64_t first = 0; first < kept.n; first += kKeys) {
        const std::int64_t n = kept.n - first < kKeys ? kept.n - first : kKeys;
        for (std::int64_t h = 0; h < heads; ++h) {
            const float* const then = kept.max + h * kept.max_stride + first / kKeys * kLanes;
            for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
                const std::int64_t at = h * kLanes + lane;
                const Floats below = load(then + lane) - load(kept.final_max + at);
                store(norms + at, exp2(below) * load(kept.inverse + at));
            }
        }
        const auto over_heads = [&](float* out, const auto& grown, Floats factor) {
            for (std::int64_t i = 0; i < n; ++i) {
                for (std::int64_t lane = 0; lane < shape.lanes; lane += kWidth) {
                    const float* const from = kept.exps + (first + i) * kLanes + lane;
                    Floats total = load(from) * load(norms + lane);
                    for (std::int64_t h = 1; h < heads; ++h) {
                        const Floats e = load(from + h * kept.exps_stride);
                        total = grown(total, e, load(norms + h * kLanes + lane));
                    }
                    store(scratch + i * kLanes + lane, total * factor);
                }
            }
            transpose(scratch, kLanes, n, n_queries, out + first, stride);
        };
        if (mean != nullptr) {
            over_heads(
                mean, [](Floats sum, Floats e, Floats norm) { return fma(e, norm, sum); }, share);
        }
        if (most != nullptr) {
            over_heads(
                most, [](Floats top, Floats e, Floats norm) { return max(top, e * norm); },
                all(1.0F));
        }
    }
}

void sum_marginals(const float* marginals, std::int64_t n, float* out) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = sum(load(marginals + i * kWidth));
}

// ---- phases ----

// Turns are reduced in float64 to less than an eighth of one, where polynomials in float32 have the
// sine and cosine within 1e-7; quarters of a turn then swap them and change their signs.
void phases(const double* times, std::int64_t n, const double* omega, std::int64_t n_omega,
            float* out) {
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to whole numbers
    constexpr double kTurn = 0.15915494309189535;  // 1 / (2 pi)
    for (std::int64_t i = 0; i < n; ++i) {
        float* const cosines = out + 2 * i * n_omega;
        float* const sines = cosines + n_omega;
        const double time = times[i];
        for (std::int64_t f = 0; f < n_omega; ++f) {
            const double turns = time * omega[f] * kTurn;
            const double quarters = (4.0 * turns + kRound) - kRound;
            const auto rest = static_cast<float>(turns - 0.25 * quarters);
            const double whole = 4.0 * ((0.25 * quarters + kRound) - kRound);
            const auto quarter = static_cast<float>(quarters - whole);  // -2, -1, 0, 1 or 2
            const float r2 = rest * rest;
            const float sine =
                rest * (6.28318501F + r2 * (-41.341629F + r2 * (81.5881195F + r2 * -75.2398376F)));
            const float cosine =
                1.0F +
                r2 * (-19.7392082F + r2 * (64.9393158F + r2 * (-85.4428482F + r2 * 59.2202873F)));
            // Cosine and sine of the quarters, by arithmetic alone: a choice is not vectorised.
            const float size = quarter < 0.0F ? -quarter : quarter;
            const float c = 1.0F - size;
            const float s = quarter * (2.0F - size);
            cosines[f] = c * cosine - s * sine;
            sines[f] = s * cosine + c * sine;
        }
    }
}

}  // namespace

const AttentionTable attention_table = {gather, pack,  reset,      absorb, merge,         merge_top,
                                        finish, weigh, weigh_kept, fuse,   sum_marginals, phases};

}  // namespace attendrite::ATTENDRITE_LEVEL
