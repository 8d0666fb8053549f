// Products of attention: tiles of scores and of weighted values, and how queries lie for them.
#pragma once

#include "attention_table.hpp"
#include "vector.hpp"

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

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
#pragma GCC unroll 24
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
#pragma GCC unroll 24
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

}  // namespace
}  // namespace attendrite::ATTENDRITE_LEVEL
