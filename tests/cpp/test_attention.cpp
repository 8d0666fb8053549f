// Every result against plain loops in double, in memory of exactly the size that was asked for: the
// sanitizers see what is read or written beyond it.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "attention.hpp"
#include "check.hpp"

using namespace attendrite;

namespace {

using Numbers = std::vector<float>;
using Indices = std::vector<std::int64_t>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Sizes {
    std::int64_t batch, heads, queries, keys, width, value_width, units, pairs;
    bool tables;         // keys are rows of tables
    float sharp = 1.0F;  // factor of the queries: scores far apart move the maximum
    bool halves = false;
    std::int64_t period = 0;  // of queries in what does not turn, given as tables; 0: no tables
};

// Inputs of a call, padded keys, and room for all results.
struct Call {
    explicit Call(const Sizes& s, unsigned seed) : sizes(s) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        const auto fill = [&](Numbers& x, std::int64_t n) {
            x.resize(at(n));
            for (float& y : x) y = normal(random);
        };
        n_rows = s.tables ? 2 * s.units : s.keys;
        const std::int64_t sets = s.tables ? 1 : s.batch;
        fill(q, s.batch * s.heads * s.queries * s.width);
        for (float& x : q) x *= s.sharp;
        fill(k, sets * s.heads * n_rows * s.width);
        fill(v, sets * s.heads * n_rows * s.value_width);
        fill(weights, s.batch * s.heads * s.queries);
        for (auto [phase, n] : {std::pair{&query_phase, s.queries}, {&key_phase, s.keys}}) {
            for (std::int64_t i = 0; i < s.batch * n; ++i) {
                for (const bool sine : {false, true}) {
                    for (std::int64_t f = 0; f < s.pairs; ++f) {
                        const double angle = 0.1 * static_cast<double>(i * (f + 1));
                        phase->push_back(
                            static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
                    }
                }
            }
        }
        for (std::int64_t b = 0; b < s.batch; ++b) {
            begin.push_back(b * s.keys);
            count.push_back(b == 0 ? s.keys : static_cast<std::int64_t>(random() % at(s.keys + 1)));
            for (std::int64_t i = 0; i < s.keys; ++i) {
                units.push_back(static_cast<std::int64_t>(random() % at(s.units + 1)) - 1);
                rows.push_back(static_cast<std::int64_t>(random() % at(n_rows)));
                key_times.push_back(100 + 0.01 * static_cast<double>(random() % 100));
            }
            for (std::int64_t i = 0; i < s.queries; ++i) query_times.push_back(100.5);
        }
        if (s.period > 0) make_still();
    }

    // Queries that are alike in what does not turn, units that follow from rows, rows in order in
    // the first batch element, and the table of products.
    void make_still() {
        const Sizes& s = sizes;
        const std::int64_t turning = 2 * s.pairs;
        const auto query = [&](std::int64_t b, std::int64_t h, std::int64_t i) {
            return q.data() + ((b * s.heads + h) * s.queries + i) * s.width;
        };
        for (std::int64_t b = 0; b < s.batch; ++b) {
            for (std::int64_t h = 0; h < s.heads; ++h) {
                for (std::int64_t i = 0; i < s.queries; ++i) {
                    std::copy_n(query(0, h, i % s.period) + turning, s.width - turning,
                                query(b, h, i) + turning);
                }
            }
        }
        std::sort(rows.begin(), rows.begin() + s.keys);
        for (std::size_t i = 0; i < rows.size(); ++i) units[i] = rows[i] % (s.units + 1) - 1;
        for (std::int64_t h = 0; h < s.heads; ++h) {
            for (std::int64_t row = 0; row < n_rows; ++row) {
                const float* const key = k.data() + (h * n_rows + row) * s.width;
                for (std::int64_t i = 0; i < still_period(); ++i) {
                    double product = 0;
                    for (std::int64_t d = turning; d < s.width; ++d) {
                        product += static_cast<double>(query(0, h, i % s.period)[d]) *
                                   static_cast<double>(key[d]);
                    }
                    still.push_back(static_cast<float>(product));
                }
            }
        }
    }

    std::int64_t still_period() const { return std::lcm(sizes.period, kLanes); }

    AttentionProblem problem() {
        const Sizes& s = sizes;
        const std::int64_t n = s.batch * s.heads * s.queries;
        const std::int64_t sets = s.tables ? 0 : 1;
        for (auto [room, width] : {std::pair{&output, s.value_width},
                                   {&lse, std::int64_t{1}},
                                   {&entropy, std::int64_t{1}},
                                   {&lag, std::int64_t{1}},
                                   {&per_query_unit, s.units},
                                   {&full, s.keys},
                                   {&part_lse, s.units},
                                   {&part_output, s.units * s.value_width}}) {
            room->assign(at(n * width), NAN);
        }
        per_unit.assign(at(s.batch * s.heads * s.units), NAN);
        per_key.assign(at(s.batch * s.heads * s.keys), NAN);
        AttentionProblem p{};
        p.element = Element::f32;
        p.batch = s.batch;
        p.heads = s.heads;
        p.queries = s.queries;
        p.width = s.width;
        p.value_width = s.value_width;
        p.q = {q.data(), s.heads * s.queries * s.width, s.queries * s.width, s.width};
        p.k = {k.data(), sets * s.heads * n_rows * s.width, n_rows * s.width, s.width};
        p.v = {v.data(), sets * s.heads * n_rows * s.value_width, n_rows * s.value_width,
               s.value_width};
        p.n_keys = s.batch * s.keys;
        p.longest = s.keys;
        p.begin = begin.data();
        p.count = count.data();
        p.rows = s.tables ? rows.data() : nullptr;
        p.n_rows = n_rows;
        p.units = units.data();
        p.n_units = s.units;
        p.key_times = key_times.data();
        p.pairs = s.pairs;
        p.query_phase = {query_phase.data(), s.queries * 2 * s.pairs};
        p.key_phase = {key_phase.data(), s.keys * 2 * s.pairs};
        p.rotate_values = s.pairs > 0;
        p.query_times = query_times.data();
        p.query_weights = weights.data();
        p.scale = 0.3F;
        p.halves = s.halves;
        if (s.period > 0) {
            p.width = 2 * s.pairs;
            p.still_scores = still.data();
            p.still_period = still_period();
            p.still_values = s.value_width - 2 * s.pairs;
        }
        const std::int64_t head = s.queries * s.value_width;
        p.output = {output.data(), s.heads * head, head, s.value_width};
        p.lse = lse.data();
        p.entropy = entropy.data();
        p.lag = lag.data();
        p.per_unit = per_unit.data();
        p.per_query_unit = per_query_unit.data();
        p.per_key = per_key.data();
        p.weights = full.data();
        return p;
    }

    Sizes sizes;
    std::int64_t n_rows = 0;
    Numbers q, k, v, weights, query_phase, key_phase, still;
    Indices begin, count, units, rows;
    std::vector<double> key_times, query_times;
    Numbers output, lse, entropy, lag, per_unit, per_query_unit, per_key, full, part_lse,
        part_output;
};

void run(const AttentionProblem& p, int threads) {
    const std::size_t size = attention_workspace(p, threads);
    const std::size_t rounded = (size + 63) / 64 * 64;
    const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(64, rounded),
                                                             std::free);
    attention(p, memory.get(), threads);
}

std::vector<double> turned(const float* row, std::int64_t width, const float* phase, const Sizes& s,
                           double sign) {
    const std::int64_t pairs = s.pairs;
    std::vector<double> x(row, row + width);
    for (std::int64_t i = 0; i < pairs; ++i) {
        const double c = static_cast<double>(phase[i]);
        const double sine = sign * static_cast<double>(phase[pairs + i]);
        double& first = x[at(s.halves ? i : 2 * i)];
        double& second = x[at(s.halves ? pairs + i : 2 * i + 1)];
        const double even = first;
        const double odd = second;
        first = even * c - odd * sine;
        second = odd * c + even * sine;
    }
    return x;
}

// Scores of float32 are as exact as they are large, and weights as exact as their scores.
double tolerance = 2e-5;

bool near(float found, double exact) {
    if (std::isinf(exact)) return static_cast<double>(found) == exact;
    return std::abs(static_cast<double>(found) - exact) <
           tolerance * std::max(1.0, std::abs(exact));
}

// Checks what run() wrote for one query; adds to the sums over queries.
void check_query(const Call& call, std::int64_t b, std::int64_t h, std::int64_t q,
                 std::vector<double>& per_unit, std::vector<double>& per_key) {
    const Sizes& s = call.sizes;
    const std::int64_t n = call.count[at(b)];
    const std::int64_t query = (b * s.heads + h) * s.queries + q;
    const std::int64_t set = s.tables ? 0 : b;
    const float* const phase = call.query_phase.data() + (b * s.queries + q) * 2 * s.pairs;
    const auto x = turned(call.q.data() + query * s.width, s.width, phase, s, 1);
    std::vector<double> scores, output(at(s.value_width)), by_unit(at(s.units));
    std::vector<std::vector<double>> values;
    double most = -1e300;
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t place = b * s.keys + i;
        const std::int64_t row =
            (set * s.heads + h) * call.n_rows + (s.tables ? call.rows[at(place)] : i);
        const float* const turn = call.key_phase.data() + place * 2 * s.pairs;
        const auto k = turned(call.k.data() + row * s.width, s.width, turn, s, 1);
        values.push_back(turned(call.v.data() + row * s.value_width, s.value_width, turn, s, 1));
        double score = 0;
        for (std::int64_t d = 0; d < s.width; ++d) score += x[at(d)] * k[at(d)];
        scores.push_back(0.3F * score);
        most = std::max(most, scores.back());
    }
    double total = 0;
    for (const double score : scores) total += std::exp(score - most);
    const double lse = n > 0 ? most + std::log(total) : -INFINITY;
    double entropy = 0;
    double lag = 0;
    for (std::int64_t i = 0; i < s.keys; ++i) {
        const double weight = i < n ? std::exp(scores[at(i)] - lse) : 0;
        CHECK(near(call.full[at(query * s.keys + i)], weight));
        if (i >= n) continue;
        const auto unit = call.units[at(b * s.keys + i)];
        entropy -= weight * (scores[at(i)] - lse);
        lag += weight * (100.5 - call.key_times[at(b * s.keys + i)]);
        for (std::int64_t d = 0; d < s.value_width; ++d) {
            output[at(d)] += weight * values[at(i)][at(d)];
        }
        const double share = weight * static_cast<double>(call.weights[at(query)]);
        per_key[at(i)] += share;
        if (unit < 0) continue;
        by_unit[at(unit)] += weight;
        per_unit[at(unit)] += share;
    }
    CHECK(near(call.lse[at(query)], lse));
    CHECK(near(call.entropy[at(query)], entropy));
    CHECK(near(call.lag[at(query)], lag));
    for (std::int64_t u = 0; u < s.units; ++u) {
        CHECK(near(call.per_query_unit[at(query * s.units + u)], by_unit[at(u)]));
    }
    const Numbers single(output.begin(), output.end());
    const auto back = turned(single.data(), s.value_width, phase, s, -1);
    for (std::int64_t d = 0; d < s.value_width; ++d) {
        CHECK(near(call.output[at(query * s.value_width + d)], back[at(d)]));
    }
}

// Beside all else and alone, from any number of threads.
void weights_over_heads(Call& call, const Call& one) {
    const Sizes& s = call.sizes;
    const std::size_t size = at(s.batch * s.queries * s.keys);
    for (const bool alone : {false, true}) {
        Numbers mean(size, NAN), most(size, NAN);
        AttentionProblem p = call.problem();
        if (alone) {
            p.per_key = p.weights = p.lse = p.entropy = p.lag = nullptr;
            p.per_unit = p.per_query_unit = nullptr;
        }
        p.weights_mean = mean.data();
        p.weights_max = most.data();
        run(p, alone ? 3 : 1);
        for (std::size_t i = 0; i < call.output.size(); ++i) {
            CHECK(near(call.output[i], static_cast<double>(one.output[i])));
        }
        for (std::size_t i = 0; i < call.per_key.size() && !alone; ++i) {
            CHECK(near(call.per_key[i], static_cast<double>(one.per_key[i])));
        }
        for (std::int64_t b = 0; b < s.batch; ++b) {
            for (std::int64_t i = 0; i < s.queries * s.keys; ++i) {
                double sum = 0;
                double top = 0;
                for (std::int64_t h = 0; h < s.heads; ++h) {
                    const float* const all =
                        one.full.data() + (b * s.heads + h) * s.queries * s.keys;
                    const auto weight = static_cast<double>(all[i]);
                    sum += weight / static_cast<double>(s.heads);
                    top = std::max(top, weight);
                }
                CHECK(near(mean[at(b * s.queries * s.keys + i)], sum));
                CHECK(near(most[at(b * s.queries * s.keys + i)], top));
            }
        }
    }
}

// Rows of the output with heads side by side and a gap behind them, which stays as it is.
void output_lies_where_it_is_told(Call& call, const Call& one) {
    const Sizes& s = call.sizes;
    const std::int64_t row = s.heads * s.value_width + 3;
    Numbers side_by_side(at(s.batch * s.queries * row), NAN);
    AttentionProblem p = call.problem();
    p.output = {side_by_side.data(), s.queries * row, s.value_width, row};
    run(p, 2);
    for (std::int64_t i = 0; i < s.batch * s.queries; ++i) {
        for (std::int64_t j = 0; j < row; ++j) {
            const float x = side_by_side[at(i * row + j)];
            const std::int64_t head = i / s.queries * s.heads + j / s.value_width;
            if (j >= row - 3) {
                CHECK(std::isnan(x));
            } else {
                CHECK(x == one.output[at((head * s.queries + i % s.queries) * s.value_width +
                                         j % s.value_width)]);
            }
        }
    }
}

void against_plain_loops(const Sizes& s, unsigned seed) {
    tolerance = 2e-5 * static_cast<double>(s.sharp);
    Call call(s, seed);
    run(call.problem(), 1);
    for (std::int64_t b = 0; b < s.batch; ++b) {
        for (std::int64_t h = 0; h < s.heads; ++h) {
            std::vector<double> per_unit(at(s.units)), per_key(at(s.keys));
            for (std::int64_t q = 0; q < s.queries; ++q)
                check_query(call, b, h, q, per_unit, per_key);
            const std::int64_t head = b * s.heads + h;
            for (std::int64_t u = 0; u < s.units; ++u) {
                CHECK(near(call.per_unit[at(head * s.units + u)], per_unit[at(u)]));
            }
            for (std::int64_t i = 0; i < s.keys; ++i) {
                CHECK(near(call.per_key[at(head * s.keys + i)], per_key[at(i)]));
            }
        }
    }
    const Call one = call;
    run(call.problem(), 3);
    CHECK(call.output == one.output);
    CHECK(call.per_unit == one.per_unit);
    CHECK(call.per_key == one.per_key);
    output_lies_where_it_is_told(call, one);

    // Sums over queries alone take a shorter way.
    AttentionProblem sums = call.problem();
    sums.per_query_unit = nullptr;
    run(sums, 1);
    for (std::size_t i = 0; i < call.per_unit.size(); ++i) {
        CHECK(near(call.per_unit[i], static_cast<double>(one.per_unit[i])));
    }

    weights_over_heads(call, one);

    // The same by way of the units: partial results merge into the whole.
    AttentionProblem p = call.problem();
    p.per_key = p.weights = nullptr;
    p.still_scores = nullptr;  // not by way of the units
    p.still_values = 0;
    p.width = s.width;
    p.partial_lse = call.part_lse.data();
    p.partial_output = call.part_output.data();
    run(p, 2);
    for (std::size_t i = 0; i < call.output.size(); ++i) {
        CHECK(near(call.output[i], static_cast<double>(one.output[i])));
    }
    for (std::size_t i = 0; i < call.lse.size(); ++i) {
        CHECK(near(call.entropy[i], static_cast<double>(one.entropy[i])));
        CHECK(near(call.lag[i], static_cast<double>(one.lag[i])));
        for (std::int64_t u = 0; u < s.units; ++u) {
            const std::size_t cell = i * at(s.units) + at(u);
            const double part = static_cast<double>(call.part_lse[cell]);
            const double share =
                std::isinf(part) ? 0 : std::exp(part - static_cast<double>(one.lse[i]));
            CHECK(near(one.per_query_unit[cell], share));
        }
    }
}

void indices_that_do_not_exist() {
    Call call({1, 1, 2, 5, 8, 8, 3, 0, true}, 1);
    call.units[4] = 3;
    CHECK(contains(thrown_by([&] { run(call.problem(), 2); }), "units must be in -1..2, got 3"));
    call.units[4] = 0;
    call.rows[0] = 6;
    CHECK(contains(thrown_by([&] { run(call.problem(), 2); }), "rows must be in 0..5, got 6"));
    call.rows[0] = 0;
    call.count[0] = 6;
    CHECK(contains(thrown_by([&] { run(call.problem(), 2); }), "lengths must be in 0..5, got 6"));
    Call still({1, 1, 2, 5, 8, 8, 3, 2, true, 1.0F, true, 2}, 1);
    AttentionProblem p = still.problem();
    p.rows = nullptr;
    CHECK(contains(thrown_by([&] { run(p, 1); }), "still_scores must have float32 tables"));
    p = still.problem();
    p.still_period = 2;
    CHECK(contains(thrown_by([&] { run(p, 1); }), "still_period must be a multiple of 64, got 2"));
}

}  // namespace

int main() {
    on_every_level([] {
        unsigned seed = 0;
        for (const Sizes& sizes :
             std::vector<Sizes>{{1, 1, 1, 1, 1, 1, 1, 0, false},
                                {2, 2, 17, 63, 16, 16, 5, 0, false},
                                {2, 1, 70, 97, 33, 20, 4, 3, false},
                                {3, 2, 5, 111, 16, 48, 40, 8, true},
                                {1, 1, 130, 200, 155, 155, 9, 20, true},
                                {1, 1, 2, 9000, 8, 8, 6, 2, false},
                                {1, 2, 20, 700, 24, 24, 7, 2, false, 20.0F},
                                {1, 1, 20, 1500, 24, 24, 7, 2, true, 20.0F},
                                {2, 2, 130, 300, 24, 40, 7, 5, false, 1.0F, true},
                                {2, 1, 130, 200, 64, 64, 7, 16, true, 1.0F, true, 16},
                                {2, 2, 70, 300, 30, 26, 7, 5, true, 1.0F, false, 12},
                                {2, 1, 70, 1500, 24, 24, 7, 9, true, 1.0F, true, 70},
                                {1, 1, 20, 9000, 24, 24, 7, 9, true, 20.0F, true, 8}}) {
            against_plain_loops(sizes, ++seed);
        }
        indices_that_do_not_exist();
    });
    return failures() == 0 ? 0 : 1;
}
