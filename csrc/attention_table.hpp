// The inner loops of attention, once per instruction-set level: see levels.hpp. Only attention.cpp
// calls them, and attention.hpp says what the parts are for.
//
// Queries are worked on in blocks of kLanes, *transposed*: an array [n][kLanes] has a query in each
// column, so that keys and values are read as they lie, one number for a whole register of
// queries, and maxima and sums need no crossing of lanes. A block with fewer queries fills up with
// zeros; `lanes` says how many columns are worked on.
#pragma once

#include <cstdint>

#include "levels.hpp"

namespace attendrite {

constexpr std::int64_t kLanes = 64;
constexpr std::int64_t kKeys = 96;  // keys of a block of scores: [kKeys][kLanes] stays in the L1

enum class Element { f32, f16, bf16 };

// Rows of numbers somewhere: those of keys, values or queries of one head.
struct RowsIn {
    const void* data;
    Element element;
    std::int64_t stride;        // elements from row to row
    const std::int64_t* rows;   // row of each key; nullptr: its own number
    const std::int32_t* order;  // which keys, in which order; nullptr: all, as they come
    const float* phase;         // [n][2][pairs] of each key; nullptr: nothing turns
    std::int64_t phase_stride;  // 2 * pairs
    std::int64_t pairs;
    bool halves;  // see AttentionProblem
};

struct RowsOut {
    void* data;
    Element element;
    std::int64_t stride;
};

// What a block of queries has gathered from the keys so far, [..][kLanes]. Exponentials are
// 2^(s - max) for scores s to the base 2; `max` may lag behind the true maximum by kSlack.
struct BlockState {
    float* max;
    float* sum;
    float* moment;  // sum of exponential times (s - max), for the entropy
    float* time;    // sum of exponential times key time, for the lag
    float* output;  // [value_width]
    float* units;   // [n_units] sums of exponentials; nullptr: not asked for
};
constexpr float kSlack = 8.0F;
constexpr float kLowest = -1e38F;  // the maximum of no keys: finite, so that differences are

// The largest scores so far, [count][kLanes], descending, of equal ones the lower key first.
struct TopState {
    float* score;
    std::int32_t* key;
    std::int64_t count;
};

// Keys and values for absorb(): rows of floats.
struct KeyBlock {
    const float* k;
    std::int64_t k_stride;
    const float* v;
    std::int64_t v_stride;
    std::int64_t n;
    const std::int32_t* units;  // [n], n_units where it counts for none; nullptr: not needed
    const float* times;         // [n]; nullptr: no lag
    const std::int64_t* rows;   // [n] in the tables of what stays still; nullptr: no such table
    std::int32_t first;         // number of the first key
    bool cold;                  // keys and values are not in the cache yet
};

// What does not turn, in tables: products with each row for a block of queries, and the values of
// each row, the last `width` of the value_width; `room` holds [kKeys][kLanes] and [kKeys][width].
struct Still {
    const float* scores;  // nullptr: there is none
    std::int64_t scores_stride;
    const float* values;
    std::int64_t values_stride, width;
    float* room;
};

struct BlockShape {
    std::int64_t width, value_width, n_units;
    std::int64_t lanes;
    float scale;  // of products, to the base 2
    Still still;
};

// Where the results of a block go; nullptr: not asked for.
struct BlockOut {
    std::int64_t queries;  // of the block
    RowsOut output;        // [queries][value_width]
    float* lse;            // [queries]
    float* max;            // [queries] the state's, and one over its sum (0 for none): exponentials
    float* inverse;        // to that maximum times this are weights
    float* entropy;
    float* lag;
    float* per_query_unit;       // [queries][n_units]
    float* per_unit;             // [n_units], written
    const float* query_weights;  // [kLanes], 0 beyond the queries; for per_unit
    const double* query_times;   // [queries]; for the lag
    double time_origin;          // of the keys' times
    float* top_weight;           // [queries][count]
    std::int64_t* top_key;
    float* partial_lse;  // [queries] with its stride
    std::int64_t partial_lse_stride;
    const float* phase;  // [2 * pairs][kLanes]: outputs turn back by it; or nullptr
    std::int64_t pairs;
    bool halves;
};

// Exponentials that a block of queries kept, of one head after the other.
struct Kept {
    float* exps;             // [n][kLanes], every kKeys of them to a maximum of their own
    const float* max;        // [..][kLanes]
    const float* final_max;  // [kLanes], and one over the sum: what finish() wrote
    const float* inverse;
    std::int64_t n;                        // keys
    std::int64_t exps_stride, max_stride;  // from head to head; kLanes for the other two
};

struct AttentionTable {
    // out[i] = row `order[i]` or `first + i`, as floats and turned.
    void (*gather)(const RowsIn&, std::int64_t first, std::int64_t n, std::int64_t width,
                   float* out);
    // in[lane][d] for `queries` rows, turned by their phases, zero beyond, as absorb and weigh read
    // them: width * kLanes floats. The phases, if any, go to phase_out [2 * pairs][kLanes].
    void (*pack)(const RowsIn&, std::int64_t first, std::int64_t queries, std::int64_t width,
                 float* out, float* phase_out, float* scratch);

    void (*reset)(const BlockState&, const TopState*, const BlockShape&);
    // Takes in some keys; scratch has room for [kKeys][kLanes]. With `kept_max` it has room for all
    // of the keys, whose exponentials stay there; every kKeys of them are to the maximum that
    // kept_max [..][kLanes] is given.
    void (*absorb)(const BlockState&, const TopState*, const BlockShape&, const float* queries,
                   const KeyBlock&, float* scratch, float* kept_max);
    // into += from, of the same queries and other keys. The units of `from` may be null: its keys
    // then are all of `unit` (n_units: of none).
    void (*merge)(const BlockState& into, const BlockState& from, const BlockShape&,
                  std::int64_t unit);
    void (*merge_top)(const TopState& into, const TopState& from, const BlockShape&);
    // Writes results; the state is used up. scratch as for absorb.
    void (*finish)(const BlockState&, const TopState*, const BlockShape&, const BlockOut&,
                   float* scratch);

    // Second pass, with the `max` and `inverse` [kLanes] that finish() wrote: adds to
    // marginals[key][width of a register] the weights times query_weights [kLanes], and writes the
    // weights themselves to weights[query][key] with a stride; either may be null.
    void (*weigh)(const BlockShape&, const float* queries, const float* max, const float* inverse,
                  const float* query_weights, std::int64_t n_queries, const KeyBlock&,
                  float* marginals, float* weights, std::int64_t weights_stride, float* scratch);
    // The same from kept exponentials, which it uses up: writes marginals[key], summed.
    void (*weigh_kept)(const BlockShape&, const Kept&, const float* query_weights,
                       std::int64_t n_queries, float* marginals, float* weights,
                       std::int64_t weights_stride);
    // Mean and maximum over heads of the weights from kept exponentials of each, [query][key] with
    // a stride; either may be null. norms has room for [heads][kLanes], scratch as for absorb.
    void (*fuse)(const BlockShape&, const Kept&, std::int64_t heads, std::int64_t n_queries,
                 float* mean, float* most, std::int64_t stride, float* norms, float* scratch);
    // out[key] = sum of its marginals.
    void (*sum_marginals)(const float* marginals, std::int64_t n, float* out);

    // phase[i][0][f] = cos(times[i] omega[f]), phase[i][1][f] its sine.
    void (*phases)(const double* times, std::int64_t n, const double* omega, std::int64_t n_omega,
                   float* out);
};

ATTENDRITE_DECLARE_TABLE(AttentionTable, attention_table)

}  // namespace attendrite
