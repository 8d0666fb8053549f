// The running softmax of attention: what a block of keys adds to sums and statistics of queries.
#pragma once

#include "attention_products.hpp"
#include "attention_table.hpp"
#include "vector.hpp"

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

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

}  // namespace
}  // namespace attendrite::ATTENDRITE_LEVEL
