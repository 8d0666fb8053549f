// Requests of attendrite.h as results of attention calls, one call for all that fit in one.
#pragma once

#include <cstdint>

#include "attention.hpp"
#include "model_parts.hpp"

namespace attendrite {

// Sizes of a run: tokens of the longest window, queries of each.
struct Sizes {
    std::int64_t windows, longest, queries, units, requests;
};

// Raises std::invalid_argument for a request that no site can serve, or without room for what it
// asks.
void check_request(const Model::Parts&, const attendrite_request&, const Sizes&);

// The request for one window of the run.
attendrite_request of_window(const Model::Parts&, const attendrite_request&, const Sizes&,
                             std::int64_t window);

// A call at a site, and which tokens count for the sums per unit that it returns.
struct Pass {
    enum class Units { none, all, spikes };
    AttentionProblem problem;
    Units units;

    // Takes a request in, unless it needs another call.
    bool take(const attendrite_request&);
};

// Whether a result has an axis of keys, whose order then is that of the batch.
bool has_keys(const attendrite_request&);

// Rows [n][width] of features, from one order into the other: the model's, or Parts::order.
enum class Order { models, parts };
void reorder(const Model::Parts&, Order to, const float* rows, std::int64_t n, float* out);

// Writes a request for what goes into a call or comes out of it, in the model's order of features,
// and brings partial results into it; nothing for other requests. `output` is of one window, `row`
// has room for one row of a head.
void order_features(const Model::Parts&, const attendrite_request&, const AttentionProblem&,
                    const HeadRowsOut& output, float* row);

// Clears what belongs to queries that do not exist; `exist` is [queries].
void clear_missing(const attendrite_request&, const AttentionProblem&, std::int64_t width,
                   const float* exist);

}  // namespace attendrite
