// Softmax attention that returns what was attended to; kernels/attention says what each result is.
//
// The data's way: a task takes some blocks of kLanes queries of one head. It goes through the keys
// in chunks that stay in the L2 cache; every block of queries takes a chunk in, kKeys at a time:
// scores (a product), their exponentials, sums per unit, values (a product). Softmax in one pass
// with a running maximum: Milakov and Gimelshein 2018, arXiv:1805.02867; blocks: Dao et al. 2022,
// arXiv:2205.14135. What needs the final log-sum-exp, `per_key` and `weights`, is a second pass
// over keys x queries. For `weights_mean` and `weights_max` exponentials are kept instead until the
// sums are known, and a task goes through all heads of its queries, one after the other.
//
// Floor: 2 (width + value_width) operations and one exponential for each pair of query and key; the
// second pass 2 width and one; weights over heads a product and 12 bytes in the caches. Sums per
// unit add 1 addition to each pair. Bytes: keys and values once for every kGroup blocks of queries.
//
// Rounding: products and sums in float32, in two levels (kKeys keys, then blocks), exponentials
// within 1e-7. Results do not depend on the number of threads: how work is cut depends on the sizes
// alone, and partial sums are added in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention_table.hpp"

namespace attendrite {

// Rows of one of q, k, v: element [b, h, n, d] is at b * batch + h * head + n * row + d.
struct HeadRows {
    const void* data;
    std::int64_t batch, head, row;
};

// The same for rows that are written.
struct HeadRowsOut {
    void* data;
    std::int64_t batch, head, row;
};

// Cosines and sines [*, n, 2, pairs], contiguous; `batch` is the step from one batch element to the
// next, 0 where all share them.
struct Phases {
    const float* data;
    std::int64_t batch;
};

struct AttentionProblem {
    Element element;  // of q, k, v and the output
    std::int64_t batch, heads, queries, width, value_width;
    HeadRows q, k, v;

    // The keys of element b are begin[b]..begin[b] + count[b]-1 of the arrays below, which have
    // n_keys places, and of k and v too if `packed`, else 0..count[b]-1 of its own k and v.
    std::int64_t n_keys, longest;
    bool packed;
    const std::int64_t* begin;
    const std::int64_t* count;
    const std::int64_t* rows;  // row of each key in k and v, below n_rows; or nullptr
    std::int64_t n_rows;
    const std::int64_t* units;  // -1..n_units-1; or nullptr
    std::int64_t n_units;
    const double* key_times;

    std::int64_t pairs;  // features that turn, in pairs; 0: none
    bool halves;         // pairs are features (i, pairs + i), not (2i, 2i + 1)
    Phases query_phase, key_phase;
    bool rotate_values;
    const double* query_times;   // [batch, queries]
    const float* query_weights;  // [batch, heads, queries]; nullptr: 1
    float scale;                 // >= 0
    std::int64_t top_k;

    // Features that do not turn, where keys are rows of a table and few queries differ in them: of
    // the scores they are a table too, and their values count once for all keys of a row in
    // succession (so keys ordered by row are fastest). All keys of a row then are of one unit.
    const float* still_scores;  // [heads, n_rows, still_period] products of query n, at n %
                                // still_period, with a row: q and k have the other features only
    std::int64_t still_period;  // a multiple of kLanes
    std::int64_t still_values;  // the last features of values; all that do not turn, or 0

    // Results, contiguous but for `output`; nullptr: not asked for, which `output` may be too.
    HeadRowsOut output;
    float *lse, *entropy, *lag, *per_unit, *per_query_unit;
    float *per_key, *weights;           // [.., longest]
    float *weights_mean, *weights_max;  // over heads, [batch, queries, longest]; no partials then
    float* top_weight;
    std::int64_t* top_key;
    float *partial_lse, *partial_output;
};

// Bytes that attention() needs to work in, for this many threads.
std::size_t attention_workspace(const AttentionProblem&, int threads);

// Raises std::invalid_argument for units, rows or ranges of keys that do not exist.
void attention(const AttentionProblem&, void* workspace, int threads);

// out[i][0][f] = cos(times[i] omega[f]), out[i][1][f] its sine.
void phases(const double* times, std::int64_t n, const double* omega, std::int64_t n_omega,
            float* out, int threads);

}  // namespace attendrite
