#include "window.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "attention.hpp"
#include "threads.hpp"

namespace attendrite {
namespace {

// Latents or queries that a task works on, at most: all of a window of the published models, so
// that weights come from the outermost cache once for each thread.
constexpr std::int64_t kRows = 256;

std::int64_t ceiling(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// What one thread works with: a block of rows.
struct Desk {
    float *normed, *hidden;  // rows of dim, 4 dim
    float* row;              // of a head
};

// The memory of a window.
struct Rooms {
    double* key_times;                            // [tokens]
    std::int64_t *key_rows, *key_units;           // [tokens]
    std::int64_t* places;                         // [table rows + 1]
    float *key_values, *key_phase, *keys_values;  // [tokens] each; the last for calcium
    float* latents;                               // [latents][dim]
    float* output;                                // of attention
    float* projected;                             // queries, keys and values of the next site
    float *asked, *queries, *query_phase;         // [queries] each
    float *exist, *query_weights;                 // [queries], [heads][queries]
    std::int64_t* answers;                        // [queries] those of one read-out
    attendrite_request* requests;                 // of this window
    bool* served;                                 // [requests]
    Desk* desks;                                  // [threads]
};

Rooms take_rooms(Arena& arena, const Model::Parts& parts, const Sizes& s, int threads) {
    const auto pairs = static_cast<std::int64_t>(parts.omega.size());
    const std::int64_t latents = parts.info.latents;
    std::int64_t widest = 0;  // of the heads of a site together
    std::int64_t projected = 0;
    for (const Layer& layer : parts.layers) {
        widest = std::max(widest, layer.heads * parts.width);
        projected = std::max(projected, latents * layer.next.outputs());
    }
    Rooms r{};
    r.key_times = arena.take<double>(s.longest);
    r.key_rows = arena.take<std::int64_t>(s.longest);
    r.key_units = arena.take<std::int64_t>(s.longest);
    r.places = arena.take<std::int64_t>(s.units * parts.tokens.kinds + 1);
    r.key_phase = arena.take<float>(s.longest * 2 * pairs);
    if (parts.tokens.has_values) {
        r.key_values = arena.take<float>(s.longest);
        r.keys_values = arena.take<float>(s.longest * 2 * parts.inner);
    }
    r.latents = arena.take<float>(latents * parts.info.dim);
    r.output = arena.take<float>(std::max(latents, s.queries) * widest);
    r.projected = arena.take<float>(projected);
    r.asked = arena.take<float>(s.queries * parts.info.dim);
    r.queries = arena.take<float>(s.queries * parts.inner);
    r.query_phase = arena.take<float>(s.queries * 2 * pairs);
    if (!parts.tasks.empty()) {
        r.exist = arena.take<float>(s.queries);
        r.query_weights = arena.take<float>(s.queries * parts.layers.back().heads);
    }
    r.answers = arena.take<std::int64_t>(s.queries);
    r.requests = arena.take<attendrite_request>(s.requests);
    r.served = arena.take<bool>(s.requests);
    r.desks = arena.take<Desk>(threads);
    const std::int64_t rows = std::min(kRows, std::max(latents, s.queries));
    for (int i = 0; i < threads; ++i) {
        const Desk desk{arena.take<float>(rows * parts.info.dim),
                        arena.take<float>(rows * 4 * parts.info.dim),
                        arena.take<float>(parts.width)};
        if (r.desks != nullptr) r.desks[i] = desk;
    }
    return r;
}

// One window of a run.
class Forward {
  public:
    Forward(const Given& given, Place& place, int threads, std::int64_t window)
        : parts_(given.parts),
          tables_(given.tables),
          batch_(given.batch),
          s_(given.sizes),
          given_(given),
          workspace_(place.workspace),
          threads_(threads),
          window_(window),
          pairs_(static_cast<std::int64_t>(given.parts.omega.size())) {
        Arena count(nullptr);
        take_rooms(count, parts_, s_, threads);
        Arena arena(place.rooms.at_least(count.used()));
        r_ = take_rooms(arena, parts_, s_, threads);
    }

    void run() {
        for (std::int64_t i = 0; i < s_.requests; ++i) {
            r_.requests[i] = of_window(parts_, given_.requests[i], s_, window_);
        }
        if (given_.encoded == nullptr) {
            tokens_ = batch_.count[window_];
            prepare_tokens();
            attend(0);
        } else {
            take_encoded(given_.encoded + window_ * encoded_numbers(parts_));
        }
        follow(0);
        prepare_queries();
        for (std::size_t i = 1; i < parts_.layers.size(); ++i) {
            attend(i);
            follow(i);
        }
        read_out();
    }

    // Takes the memory that run() needs with the common statistics at every site.
    void reserve() {
        float unread = 0;
        for (std::size_t i = 0; i < parts_.layers.size(); ++i) {
            AttentionProblem p = problem(i);
            p.lse = p.entropy = p.lag = p.per_key = &unread;
            if (parts_.layers[i].has_units) p.per_unit = &unread;
            workspace_.at_least(attention_workspace(p, threads_));
        }
    }

  private:
    // Runs work(task, desk) for all tasks, each thread with a desk of its own.
    template <class Work>
    void share_out(std::int64_t tasks, const Work& work) const {
        std::atomic<std::int64_t> next{0};
        parallel_for(std::min<std::int64_t>(tasks, threads_), threads_, [&](std::int64_t thread) {
            for (std::int64_t task = next++; task < tasks; task = next++) {
                work(task, r_.desks[thread]);
            }
        });
    }

    // Runs work(first, n, desk) for blocks of rows; how they are cut changes no result.
    template <class Work>
    void by_rows(std::int64_t rows, const Work& work) const {
        const std::int64_t size = std::clamp<std::int64_t>(ceiling(rows, threads_), 1, kRows);
        share_out(ceiling(rows, size), [&](std::int64_t task, const Desk& desk) {
            work(task * size, std::min(size, rows - task * size), desk);
        });
    }

    // ---- inputs ----

    // Tokens in the order of their rows, unless a result has an axis of keys.
    void prepare_tokens() const {
        bool sorts = true;
        for (std::int64_t i = 0; i < s_.requests; ++i) {
            const attendrite_request& r = r_.requests[i];
            if (parts_.layers[at(r.site)].has_units && has_keys(r)) sorts = false;
        }
        order_tokens(sorts);
        phases(r_.key_times, tokens_, parts_.omega.data(), pairs_, r_.key_phase, threads_);
        if (parts_.tokens.has_values) make_keys();
    }

    std::int64_t row_of(std::int64_t token) const {
        const std::int64_t unit = batch_.units[token];
        return parts_.tokens.has_values ? unit : unit * kSpikeTypes + batch_.types[token];
    }

    // Sorted by row, by counting, or as they come.
    void order_tokens(bool sorts) const {
        const std::int64_t first = batch_.first[window_];
        if (sorts) {
            const std::int64_t rows = s_.units * parts_.tokens.kinds;
            std::fill_n(r_.places, rows + 1, 0);
            for (std::int64_t i = first; i < first + tokens_; ++i) ++r_.places[row_of(i) + 1];
            for (std::int64_t row = 0; row < rows; ++row) r_.places[row + 1] += r_.places[row];
        }
        for (std::int64_t i = first; i < first + tokens_; ++i) {
            const std::int64_t row = row_of(i);
            const std::int64_t to = sorts ? r_.places[row]++ : i - first;
            r_.key_times[to] = batch_.times[i];
            r_.key_rows[to] = row;
            if (parts_.tokens.has_values) r_.key_values[to] = batch_.values[i];
        }
    }

    // Keys and values of tokens that have a value: see model_parts.hpp.
    void make_keys() const {
        const std::int64_t columns = 2 * parts_.inner;
        const float* const added = parts_.tokens.added_projected.data();
        const float* const offset = parts_.tokens.offset.data();
        by_rows(tokens_, [&](std::int64_t first, std::int64_t n, const Desk&) {
            for (std::int64_t i = first; i < first + n; ++i) {
                const std::int64_t unit = r_.key_rows[i];
                const float value = r_.key_values[i];
                const auto v = static_cast<double>(value);
                const double variance = tables_.variances[at(2 * unit)] +
                                        v * tables_.variances[at(2 * unit + 1)] +
                                        v * v * tables_.added_variance;
                const auto by = static_cast<float>(
                    1 / std::sqrt(std::max(variance, 0.0) + static_cast<double>(kNormEps)));
                const float* const own = tables_.keys_values.data() + unit * columns;
                float* const out = r_.keys_values + i * columns;
                for (std::int64_t j = 0; j < columns; ++j) {
                    out[j] = (own[j] + value * added[j]) * by + offset[j];
                }
            }
        });
    }

    void prepare_queries() const {
        const std::int64_t before = window_ * s_.queries;
        phases(batch_.query_times + before, s_.queries, parts_.omega.data(), pairs_, r_.query_phase,
               threads_);
        by_rows(s_.queries, [&](std::int64_t first, std::int64_t n, const Desk& desk) {
            for (std::int64_t i = first; i < first + n; ++i) embed_query(i);
            project(parts_.ask, r_.asked, first, n, desk, r_.queries);
        });
        if (parts_.tasks.empty()) return;
        for (std::int64_t i = 0; i < s_.queries; ++i) {
            r_.exist[i] = batch_.task_rows[before + i] > 0 ? 1.0F : 0.0F;
        }
        for (std::int64_t h = 0; h < parts_.layers.back().heads; ++h) {
            std::copy_n(r_.exist, s_.queries, r_.query_weights + h * s_.queries);
        }
    }

    void embed_query(std::int64_t i) const {
        const std::int64_t dim = parts_.info.dim;
        const std::int64_t query = window_ * s_.queries + i;
        float* const out = r_.asked + i * dim;
        std::copy_n(parts_.session_table.data() + batch_.session_rows[query] * dim, dim, out);
        if (parts_.tasks.empty()) return;
        const float* const task = parts_.task_table.data() + batch_.task_rows[query] * dim;
        for (std::int64_t j = 0; j < dim; ++j) out[j] += task[j];
    }

    // What the encoder's attention would give: [heads][latents][width].
    void take_encoded(const float* from) const {
        const HeadRowsOut to = output_of(0);
        for (std::int64_t h = 0; h < parts_.layers[0].heads; ++h) {
            for (std::int64_t i = 0; i < parts_.info.latents; ++i, from += parts_.width) {
                float* const row = static_cast<float*>(to.data) + h * to.head + i * to.row;
                reorder(parts_, Order::parts, from, 1, row);
            }
        }
    }

    // ---- layers ----

    // Heads side by side, as the projection that follows reads them.
    HeadRowsOut output_of(std::size_t site) const {
        const std::int64_t width = parts_.width;
        return {r_.output, 0, width, parts_.layers[site].heads * width};
    }

    AttentionProblem problem(std::size_t i) const {
        const Layer& layer = parts_.layers[i];
        const bool decodes = i + 1 == parts_.layers.size();
        const std::int64_t latents = parts_.info.latents;
        AttentionProblem p{};
        p.element = Element::f32;
        p.batch = 1;
        p.heads = layer.heads;
        p.width = p.value_width = parts_.width;
        p.pairs = pairs_;
        p.halves = true;
        p.rotate_values = layer.turns_values;
        p.scale = parts_.scale;
        p.queries = latents;
        p.query_phase = {parts_.latent_phase.data(), 0};
        p.query_times = parts_.latent_times.data();
        if (layer.has_units) {
            tokens_of(p);
            return p;
        }
        const std::int64_t inner = layer.heads * parts_.width;
        const std::int64_t row = parts_.layers[i - 1].next.outputs();
        const auto part = [&](std::int64_t k) {
            return HeadRows{r_.projected + k * inner, 0, parts_.width, row};
        };
        if (decodes) {
            p.queries = s_.queries;
            p.q = {r_.queries, 0, parts_.width, inner};
            p.k = part(0);
            p.v = part(1);
            p.query_phase = {r_.query_phase, 0};
            p.query_times = batch_.query_times + window_ * s_.queries;
            p.query_weights = r_.query_weights;
        } else {
            p.q = part(0);
            p.k = part(1);
            p.v = part(2);
        }
        p.n_keys = p.longest = latents;
        p.begin = &kFirst;
        p.count = &parts_.info.latents;
        p.key_times = parts_.latent_times.data();
        p.key_phase = {parts_.latent_phase.data(), 0};
        return p;
    }

    // The encoder's queries are always the same, and its keys are rows of the tables.
    void tokens_of(AttentionProblem& p) const {
        const std::int64_t columns = 2 * parts_.inner;
        p.q = {parts_.encoder_queries.data(), 0, parts_.width, parts_.inner};
        const float* const keys =
            parts_.tokens.has_values ? r_.keys_values : tables_.keys_values.data();
        p.k = {keys, 0, parts_.width, columns};
        p.v = {keys + parts_.inner, 0, parts_.width, columns};
        p.n_keys = p.longest = s_.longest;
        p.packed = true;
        p.begin = &kFirst;
        p.count = &tokens_;
        p.units = r_.key_units;
        p.n_units = s_.units;
        p.key_times = r_.key_times;
        p.key_phase = {r_.key_phase, 0};
        if (parts_.tokens.has_values) return;
        p.rows = r_.key_rows;
        p.n_rows = s_.units * kSpikeTypes;
        if (parts_.still.empty()) return;
        p.width = 2 * pairs_;
        p.still_scores = tables_.still_scores.data();
        p.still_period = parts_.still_period;
        p.still_values = parts_.width - p.width;
    }

    // Partial results have the plain form of the problem alone.
    static void turn_all(AttentionProblem& p) {
        p.width = p.value_width;
        p.still_scores = nullptr;
        p.still_period = p.still_values = 0;
    }

    // Attention of a site with all that is asked there, in as many calls as that takes.
    void attend(std::size_t site) const {
        const auto asked = [&](std::int64_t i) {
            return r_.requests[i].site == static_cast<std::int64_t>(site);
        };
        bool rest = true;
        for (bool first = true; rest; first = false) {
            Pass pass{problem(site), Pass::Units::none};
            if (first) pass.problem.output = output_of(site);
            rest = false;
            for (std::int64_t i = 0; i < s_.requests; ++i) {
                if (!asked(i) || (!first && r_.served[i])) continue;
                r_.served[i] = pass.take(r_.requests[i]);
                rest = rest || !r_.served[i];
            }
            if (pass.units != Pass::Units::none) count_units(pass.units);
            AttentionProblem& p = pass.problem;
            if (p.partial_lse != nullptr) turn_all(p);
            attention(p, workspace_.at_least(attention_workspace(p, threads_)), threads_);
        }
        const AttentionProblem p = problem(site);
        for (std::int64_t i = 0; i < s_.requests; ++i) {
            if (!asked(i)) continue;
            order_features(parts_, r_.requests[i], p, output_of(site), r_.desks[0].row);
            if (p.query_weights != nullptr) {
                clear_missing(r_.requests[i], p, parts_.width, r_.exist);
            }
        }
    }

    // The unit of each token, of START and END only where these count.
    void count_units(Pass::Units units) const {
        constexpr std::int64_t kNoUnit = -1;
        const std::int64_t kinds = parts_.tokens.kinds;
        for (std::int64_t i = 0; i < tokens_; ++i) {
            const std::int64_t row = r_.key_rows[i];
            const bool counts = units == Pass::Units::all || row % kinds == ATTENDRITE_SPIKE;
            r_.key_units[i] = counts ? row / kinds : kNoUnit;
        }
    }

    // From the attention of a layer to the projections of the next one.
    void follow(std::size_t i) const {
        const Layer& layer = parts_.layers[i];
        const bool decodes = i + 1 == parts_.layers.size();
        const std::int64_t dim = parts_.info.dim;
        const std::int64_t inner = layer.heads * parts_.width;
        const std::int64_t rows = decodes ? s_.queries : parts_.info.latents;
        float* const x = decodes ? r_.asked : r_.latents;
        by_rows(rows, [&](std::int64_t first, std::int64_t n, const Desk& desk) {
            if (layer.has_units) {
                std::copy_n(parts_.latents.data() + first * dim, n * dim, x + first * dim);
            }
            float* const mine = x + first * dim;
            layer.out(r_.output + first * inner, n, inner, mine, dim, mine, dim);
            project(layer.up, x, first, n, desk, nullptr);
            layer.down(desk.hidden, n, layer.down.inputs(), mine, dim, mine, dim);
            if (!decodes) project(layer.next, x, first, n, desk, r_.projected);
        });
    }

    // Projects normalised rows of x to the same rows of y, or without one to the desk.
    void project(const Linear& linear, const float* x, std::int64_t first, std::int64_t n,
                 const Desk& desk, float* y) const {
        const std::int64_t dim = parts_.info.dim;
        layer_norm(x + first * dim, n, dim, dim, nullptr, nullptr, kNormEps, desk.normed, dim);
        float* const to = y == nullptr ? desk.hidden : y + first * linear.outputs();
        linear(desk.normed, n, dim, nullptr, 0, to, linear.outputs());
    }

    // ---- outputs ----

    // Every read-out takes its queries in their order, after those of the windows before.
    void read_out() const {
        const std::int64_t dim = parts_.info.dim;
        const std::int64_t before = window_ * s_.queries;
        for (std::size_t t = 0; t < parts_.readouts.size(); ++t) {
            const auto mine = [&](std::int64_t query) {
                return parts_.tasks.empty() || batch_.task_rows[query] == parts_.tasks[t].id;
            };
            std::int64_t answers = 0;
            for (std::int64_t i = 0; i < s_.queries; ++i) {
                if (mine(before + i)) r_.answers[answers++] = i;
            }
            const Linear& linear = parts_.readouts[t];
            const std::int64_t earlier = given_.earlier[at(window_) * parts_.readouts.size() + t];
            float* const out = given_.predictions[t] + earlier * linear.outputs();
            by_rows(answers, [&](std::int64_t first, std::int64_t n, const Desk& desk) {
                for (std::int64_t i = 0; i < n; ++i) {
                    std::copy_n(r_.asked + r_.answers[first + i] * dim, dim, desk.normed + i * dim);
                }
                linear(desk.normed, n, dim, nullptr, 0, out + first * linear.outputs(),
                       linear.outputs());
            });
        }
    }

    static constexpr std::int64_t kFirst = 0;

    const Model::Parts& parts_;
    const UnitTables& tables_;
    const attendrite_batch& batch_;
    const Sizes& s_;
    const Given& given_;
    Memory& workspace_;
    const int threads_;
    const std::int64_t window_;
    const std::int64_t pairs_;
    std::int64_t tokens_ = 0;
    Rooms r_{};
};

}  // namespace

void run_window(const Given& given, Place& place, int threads, std::int64_t window) {
    Forward(given, place, threads, window).run();
}

void reserve_window(const Given& given, Place& place, int threads) {
    Forward(given, place, threads, 0).reserve();
}

}  // namespace attendrite
