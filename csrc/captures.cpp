#include "captures.hpp"

#include <algorithm>
#include <string>

namespace attendrite {
namespace {

constexpr std::int64_t kNoKey = -1;

bool needs_units(const attendrite_request& r) {
    return r.statistic == ATTENDRITE_PER_UNIT || r.statistic == ATTENDRITE_PER_QUERY_UNIT ||
           r.statistic == ATTENDRITE_PARTIALS;
}

bool has_second(const attendrite_request& r) {
    return r.statistic == ATTENDRITE_TOP_K || r.statistic == ATTENDRITE_PARTIALS;
}

// The place of a statistic among the results of a call; top_k and partials by their first array.
float** slot(AttentionProblem& p, std::int32_t statistic) {
    switch (statistic) {
        case ATTENDRITE_WEIGHTS:
            return &p.weights;
        case ATTENDRITE_PER_KEY:
            return &p.per_key;
        case ATTENDRITE_PER_UNIT:
            return &p.per_unit;
        case ATTENDRITE_PER_QUERY_UNIT:
            return &p.per_query_unit;
        case ATTENDRITE_ENTROPY:
            return &p.entropy;
        case ATTENDRITE_LSE:
            return &p.lse;
        case ATTENDRITE_TOP_K:
            return &p.top_weight;
        case ATTENDRITE_PARTIALS:
            return &p.partial_lse;
        case ATTENDRITE_LAG:
            return &p.lag;
        default:
            return nullptr;  // copied, not computed
    }
}

// Rows [heads][n][width].
void copy_rows(const Model::Parts& parts, const HeadRows& rows, std::int64_t heads, std::int64_t n,
               float* out) {
    const float* const from = static_cast<const float*>(rows.data);
    for (std::int64_t i = 0; i < heads * n; ++i) {
        const float* const row = from + i / n * rows.head + i % n * rows.row;
        reorder(parts, Order::models, row, 1, out + i * parts.width);
    }
}

// Numbers of a result for each query of a head; 0: it has no axis of queries.
std::int64_t per_query(const attendrite_request& r, std::int64_t keys, std::int64_t units,
                       std::int64_t width) {
    switch (r.statistic) {
        case ATTENDRITE_WEIGHTS:
            return keys;
        case ATTENDRITE_PER_QUERY_UNIT:
        case ATTENDRITE_PARTIALS:
            return units;
        case ATTENDRITE_TOP_K:
            return r.k;
        case ATTENDRITE_ENTROPY:
        case ATTENDRITE_LSE:
        case ATTENDRITE_LAG:
            return 1;
        case ATTENDRITE_OUTPUT:
        case ATTENDRITE_QUERIES:
            return width;
        default:
            return 0;
    }
}

// Numbers in the first array of a result, for one window.
std::int64_t numbers(const Model::Parts& parts, const attendrite_request& r, const Sizes& s) {
    const std::int64_t latents = parts.info.latents;
    const std::int64_t keys = r.site == 0 ? s.longest : latents;
    const std::int64_t queries = r.site + 1 == parts.info.sites ? s.queries : latents;
    const std::int64_t heads = parts.layers[static_cast<std::size_t>(r.site)].heads;
    switch (r.statistic) {
        case ATTENDRITE_PER_UNIT:
            return heads * s.units;
        case ATTENDRITE_PER_KEY:
            return heads * keys;
        case ATTENDRITE_KEYS:
            return heads * keys * parts.width;
        default:
            return heads * queries * per_query(r, keys, s.units, parts.width);
    }
}

}  // namespace

void check_request(const Model::Parts& parts, const attendrite_request& r, const Sizes& sizes) {
    if (r.site < 0 || r.site >= parts.info.sites) {
        refuse("site of a request", "be in 0.." + std::to_string(parts.info.sites - 1),
               std::to_string(r.site));
    }
    const Layer& layer = parts.layers[static_cast<std::size_t>(r.site)];
    if (r.statistic < ATTENDRITE_WEIGHTS || r.statistic > ATTENDRITE_KEYS) {
        refuse("statistic of a request", "be in 0.." + std::to_string(ATTENDRITE_KEYS),
               std::to_string(r.statistic));
    }
    if (needs_units(r) && !layer.has_units) {
        refuse("statistic " + std::to_string(r.statistic),
               "be asked where keys are tokens of units", "site '" + layer.site + "'; ask per key");
    }
    if (r.statistic == ATTENDRITE_KEYS && layer.has_units) {
        refuse("keys", "be asked where they are latents", "site '" + layer.site + "'");
    }
    if (r.statistic == ATTENDRITE_TOP_K && r.k < 1) {
        refuse("k of a request", "be at least 1", std::to_string(r.k));
    }
    const bool lacks = r.result == nullptr || (has_second(r) && r.second == nullptr);
    if (lacks && sizes.windows * numbers(parts, r, sizes) > 0) {
        refuse("result of a request", "point to memory", "null");
    }
}

attendrite_request of_window(const Model::Parts& parts, const attendrite_request& r,
                             const Sizes& sizes, std::int64_t window) {
    const std::int64_t before = window * numbers(parts, r, sizes);
    attendrite_request out = r;
    out.result = static_cast<float*>(r.result) + before;
    if (r.statistic == ATTENDRITE_TOP_K) {
        out.second = static_cast<std::int64_t*>(r.second) + before;
    } else if (r.statistic == ATTENDRITE_PARTIALS) {
        out.second = static_cast<float*>(r.second) + before * parts.width;
    }
    return out;
}

bool Pass::take(const attendrite_request& r) {
    float** const place = slot(problem, r.statistic);
    if (place == nullptr) return true;
    if (*place != nullptr) return false;
    // Partial results go through the keys by unit, ranks in order.
    if (r.statistic == ATTENDRITE_TOP_K && problem.partial_lse != nullptr) return false;
    if (r.statistic == ATTENDRITE_PARTIALS && problem.top_weight != nullptr) return false;
    if (needs_units(r)) {
        const Units wanted = r.spikes_only != 0 ? Units::spikes : Units::all;
        if (units != Units::none && units != wanted) return false;
        units = wanted;
    }
    *place = static_cast<float*>(r.result);
    if (r.statistic == ATTENDRITE_TOP_K) {
        problem.top_key = static_cast<std::int64_t*>(r.second);
        problem.top_k = r.k;
    } else if (r.statistic == ATTENDRITE_PARTIALS) {
        problem.partial_output = static_cast<float*>(r.second);
    }
    return true;
}

bool has_keys(const attendrite_request& r) {
    return r.statistic == ATTENDRITE_WEIGHTS || r.statistic == ATTENDRITE_PER_KEY ||
           r.statistic == ATTENDRITE_TOP_K;
}

void reorder(const Model::Parts& parts, Order to, const float* rows, std::int64_t n, float* out) {
    const auto width = static_cast<std::int64_t>(parts.order.size());
    for (std::int64_t i = 0; i < n; ++i, rows += width, out += width) {
        for (std::int64_t place = 0; place < width; ++place) {
            const std::int64_t feature = parts.order[static_cast<std::size_t>(place)];
            if (to == Order::models) {
                out[feature] = rows[place];
            } else {
                out[place] = rows[feature];
            }
        }
    }
}

void order_features(const Model::Parts& parts, const attendrite_request& r,
                    const AttentionProblem& p, const HeadRowsOut& output, float* row) {
    const std::int64_t width = parts.width;
    float* const out = static_cast<float*>(r.result);
    if (r.statistic == ATTENDRITE_OUTPUT) {
        copy_rows(parts, {output.data, 0, output.head, output.row}, p.heads, p.queries, out);
    } else if (r.statistic == ATTENDRITE_QUERIES) {
        copy_rows(parts, p.q, p.heads, p.queries, out);
    } else if (r.statistic == ATTENDRITE_KEYS) {
        copy_rows(parts, p.k, p.heads, p.longest, out);
    } else if (r.statistic == ATTENDRITE_PARTIALS) {
        float* const partial = static_cast<float*>(r.second);
        for (std::int64_t i = 0; i < p.heads * p.queries * p.n_units; ++i) {
            std::copy_n(partial + i * width, width, row);
            reorder(parts, Order::models, row, 1, partial + i * width);
        }
    }
}

void clear_missing(const attendrite_request& r, const AttentionProblem& p, std::int64_t width,
                   const float* exist) {
    const std::int64_t n = per_query(r, p.longest, p.n_units, width);
    for (std::int64_t i = 0; n > 0 && i < p.heads * p.queries; ++i) {
        if (exist[i % p.queries] != 0) continue;
        std::fill_n(static_cast<float*>(r.result) + i * n, n, 0.0F);
        if (r.statistic == ATTENDRITE_TOP_K) {
            std::fill_n(static_cast<std::int64_t*>(r.second) + i * n, n, kNoKey);
        } else if (r.statistic == ATTENDRITE_PARTIALS) {
            std::fill_n(static_cast<float*>(r.second) + i * n * width, n * width, 0.0F);
        }
    }
}

}  // namespace attendrite
