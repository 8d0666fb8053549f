// What a run is given is checked; then windows are computed one by one, so that what is computed of
// a window stays in the cache: where there are many of them each thread has its own, else all
// threads share one.
#include "model.hpp"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <string>

#include "threads.hpp"
#include "window.hpp"

namespace attendrite {
namespace {

constexpr std::int64_t kManyWindows = 4;  // for each thread: then it has windows of its own

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void check_finite(const char* what, double x) {
    if (!std::isfinite(x)) refuse(what, "be finite", std::to_string(x));
}

void check_below(const char* what, std::int64_t i, std::int64_t n) {
    if (i < 0 || i >= n) refuse(what, "be in 0.." + std::to_string(n - 1), std::to_string(i));
}

void check_tokens(const Given& given, std::int64_t window) {
    const attendrite_batch& batch = given.batch;
    const std::int64_t first = batch.first[window];
    for (std::int64_t i = first; i < first + batch.count[window]; ++i) {
        check_finite("times", batch.times[i]);
        check_below("units", batch.units[i], given.sizes.units);
        if (given.parts.tokens.has_values) {
            check_finite("values", static_cast<double>(batch.values[i]));
        } else {
            check_below("types", batch.types[i], kSpikeTypes);
        }
    }
}

void check_encoded(const Given& given, std::int64_t window) {
    const std::int64_t n = encoded_numbers(given.parts);
    const float* const x = given.encoded + window * n;
    bool fine = true;  // without a branch for each number
    for (std::int64_t i = 0; i < n; ++i) fine &= std::abs(x[i]) <= FLT_MAX;
    for (std::int64_t i = 0; !fine && i < n; ++i) {
        check_finite("encoded", static_cast<double>(x[i]));
    }
}

void check_queries(const Given& given) {
    const attendrite_batch& batch = given.batch;
    for (std::int64_t i = 0; i < given.sizes.windows * given.sizes.queries; ++i) {
        check_finite("query_times", batch.query_times[i]);
        check_below("session_rows", batch.session_rows[i], given.parts.session_rows);
        if (!given.parts.tasks.empty()) {
            check_below("task_rows", batch.task_rows[i], given.parts.task_rows);
        }
    }
}

void check_not_negative(const char* what, std::int64_t n) {
    if (n < 0) refuse(what, "be at least 0", std::to_string(n));
}

// What can be checked before memory is taken.
Sizes checked_sizes(const Model::Parts& parts, const attendrite_batch& batch, bool has_tokens) {
    Sizes s{};
    check_not_negative("windows", batch.windows);
    check_not_negative("queries", batch.queries);
    s.windows = batch.windows;
    s.queries = batch.queries;
    for (std::int64_t w = 0; has_tokens && w < s.windows; ++w) {
        check_not_negative("first", batch.first[w]);
        check_not_negative("count", batch.count[w]);
        s.longest = std::max(s.longest, batch.count[w]);
    }
    const bool has_values = parts.tokens.has_values;
    if (s.longest > 0 && (has_values ? batch.values == nullptr : batch.types == nullptr)) {
        refuse(has_values ? "values" : "types", "be given for this model", "none");
    }
    if (s.windows * s.queries > 0 && parts.tasks.empty() != (batch.task_rows == nullptr)) {
        refuse("task_rows",
               parts.tasks.empty() ? "be absent for a model with one read-out"
                                   : "be given for a model with tasks",
               batch.task_rows == nullptr ? "none" : "some");
    }
    return s;
}

// Rows of each read-out that belong to windows before each one: [windows][read-outs].
void count_answers(const Given& given, std::int64_t* earlier) {
    const std::vector<TaskFact>& tasks = given.parts.tasks;
    const auto n = static_cast<std::int64_t>(given.parts.readouts.size());
    const std::int64_t queries = given.sizes.queries;
    for (std::int64_t w = 0; w < given.sizes.windows; ++w) {
        for (std::int64_t t = 0; t < n; ++t) {
            std::int64_t before = 0;
            if (w > 0) {
                const std::int64_t* const asked = given.batch.task_rows + (w - 1) * queries;
                before =
                    earlier[(w - 1) * n + t] +
                    (tasks.empty() ? queries : std::count(asked, asked + queries, tasks[at(t)].id));
            }
            earlier[w * n + t] = before;
        }
    }
}

}  // namespace

struct Runner::State {
    std::shared_ptr<const Model> model;
    int threads = 0;
    std::shared_ptr<const UnitTables> tables;
    std::vector<Place> places;  // one for each thread
    Memory answers;             // of count_answers()

    // Which place a window comes to is chance: the next run may need in one what now is in another.
    void level() {
        std::size_t rooms = 0;
        std::size_t workspace = 0;
        for (const Place& place : places) {
            rooms = std::max(rooms, place.rooms.size());
            workspace = std::max(workspace, place.workspace.size());
        }
        for (Place& place : places) {
            place.rooms.at_least(rooms);
            place.workspace.at_least(workspace);
        }
    }

    bool many(std::int64_t windows) const {
        return threads > 1 && windows >= kManyWindows * threads;
    }
};

Runner::Runner(std::shared_ptr<const Model> model, int threads)
    : state_(std::make_unique<State>()) {
    state_->tables = make_tables(model->parts(), nullptr, 0, 1);
    state_->model = std::move(model);
    set_threads(threads);
}

Runner::Runner(const Runner& other) : state_(std::make_unique<State>()) {
    state_->model = other.state_->model;
    state_->tables = other.state_->tables;
    set_threads(other.state_->threads);
}

Runner::~Runner() = default;

const Model& Runner::model() const { return *state_->model; }

void Runner::set_threads(int threads) {
    if (threads < 1) refuse("threads", "be at least 1", std::to_string(threads));
    state_->threads = threads;
    if (state_->places.size() < at(threads)) state_->places.resize(at(threads));
}

void Runner::bind_units(const std::int64_t* rows, std::int64_t n) {
    check_not_negative("number of units", n);
    const std::vector<std::int64_t>& bound = state_->tables->rows;
    if (std::equal(bound.begin(), bound.end(), rows, rows + n)) return;
    state_->tables = make_tables(model().parts(), rows, n, state_->threads);
}

void Runner::reserve(std::int64_t windows, std::int64_t tokens, std::int64_t longest,
                     std::int64_t queries) {
    check_not_negative("windows", windows);
    check_not_negative("tokens", tokens);
    check_not_negative("longest", longest);
    check_not_negative("queries", queries);
    const Model::Parts& parts = model().parts();
    const attendrite_batch none{};
    Given given{parts, *state_->tables, none, nullptr, nullptr, nullptr, nullptr, {}};
    given.sizes.queries = queries;
    given.sizes.requests = parts.info.sites * (ATTENDRITE_KEYS + 1);
    given.sizes.units = static_cast<std::int64_t>(state_->tables->rows.size());
    const auto reserve_places = [&](std::int64_t n) {
        given.sizes.longest = n;
        reserve_window(given, state_->places[0], state_->threads);
        for (int i = 0; state_->many(windows) && i < state_->threads; ++i) {
            reserve_window(given, state_->places[at(i)], 1);
        }
    };
    // Shorter windows may take more: what attention keeps depends on their length.
    for (std::int64_t n = 1; n < longest; n *= 2) reserve_places(n);
    reserve_places(longest);
    state_->level();
    state_->answers.at_least(at(windows) * parts.readouts.size() * sizeof(std::int64_t));
}

std::int64_t Runner::tokens(const double* times, const std::int64_t* units, std::int64_t n,
                            double* out_times, std::int64_t* out_units,
                            std::int64_t* out_types) const {
    const auto bound = static_cast<std::int64_t>(state_->tables->rows.size());
    std::int64_t to = 0;
    const auto put = [&](double time, std::int64_t unit, std::int64_t type) {
        out_times[to] = time;
        out_units[to] = unit;
        out_types[to++] = type;
    };
    for (std::int64_t unit = 0; unit < bound; ++unit) {
        put(0.0, unit, ATTENDRITE_START);
        put(model().parts().info.sequence_length, unit, ATTENDRITE_END);
    }
    for (std::int64_t i = 0; i < n; ++i) put(times[i], units[i], ATTENDRITE_SPIKE);
    return to;
}

void Runner::run(const attendrite_batch& batch, const attendrite_request* requests,
                 std::int64_t n_requests, float* const* predictions, const float* encoded) {
    const Model::Parts& parts = model().parts();
    Given given{
        parts,       *state_->tables, batch,   requests,
        predictions, encoded,         nullptr, checked_sizes(parts, batch, encoded == nullptr)};
    Sizes& sizes = given.sizes;
    sizes.units = static_cast<std::int64_t>(state_->tables->rows.size());
    sizes.requests = n_requests;
    for (std::int64_t i = 0; i < n_requests; ++i) {
        check_request(parts, requests[i], sizes);
        if (encoded != nullptr && requests[i].site == 0) {
            refuse("site of a request", "be after the encoder where its output is given", "0");
        }
    }
    check_queries(given);
    const int threads = state_->threads;
    parallel_for(sizes.windows, threads, [&](std::int64_t w) {
        encoded == nullptr ? check_tokens(given, w) : check_encoded(given, w);
    });
    auto* const earlier = static_cast<std::int64_t*>(
        state_->answers.at_least(at(sizes.windows) * parts.readouts.size() * sizeof(std::int64_t)));
    count_answers(given, earlier);
    given.earlier = earlier;

    if (!state_->many(sizes.windows)) {
        for (std::int64_t w = 0; w < sizes.windows; ++w) {
            run_window(given, state_->places[0], threads, w);
        }
        return;
    }
    std::atomic<std::int64_t> next{0};
    parallel_for(threads, threads, [&](std::int64_t thread) {
        for (std::int64_t w = next++; w < sizes.windows; w = next++) {
            run_window(given, state_->places[at(thread)], 1, w);
        }
    });
    state_->level();
}

}  // namespace attendrite
