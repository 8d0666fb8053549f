// Attention of one level: see attention_table.hpp for what each function does.
#include "attention_products.hpp"
#include "attention_rows.hpp"
#include "attention_softmax.hpp"
#include "attention_table.hpp"
#include "vector.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

constexpr float kLn2 = 0.693147181F;

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
