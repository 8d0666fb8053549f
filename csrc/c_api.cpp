// attendrite.h over Runner: checks what a C caller can get wrong, and lets no exception out.
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "attendrite.h"
#include "bundle.hpp"
#include "model.hpp"
#include "model_parts.hpp"

using attendrite::Bundle;
using attendrite::Model;
using attendrite::Runner;

struct attendrite_engine {
    Runner runner;
};

namespace {

// Writes a line, cut to what fits and not within a character.
void say(char* message, std::size_t size, const char* text) {
    if (message == nullptr || size == 0) return;
    std::size_t n = std::strlen(text);
    if (n >= size) {
        n = size - 1;
        while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) --n;
    }
    for (std::size_t i = 0; i < n; ++i) {  // foreign names may hold line ends
        const auto byte = static_cast<unsigned char>(text[i]);
        message[i] = byte < 0x20 || byte == 0x7F ? '?' : text[i];
    }
    message[n] = '\0';
}

template <class Body>
int guarded(char* message, std::size_t size, const Body& body) noexcept {
    try {
        body();
        return ATTENDRITE_OK;
    } catch (const std::invalid_argument& error) {
        say(message, size, error.what());
        return ATTENDRITE_BAD_INPUT;
    } catch (const std::bad_alloc&) {
        say(message, size, "memory must suffice, got none; run fewer windows at a time");
    } catch (const std::exception& error) {
        say(message, size, error.what());
    } catch (...) {
        say(message, size, "an error without words");
    }
    return ATTENDRITE_FAULT;
}

void check(bool fine, const char* what, const char* be, const std::string& got) {
    if (!fine) attendrite::refuse(what, be, got);
}

void check_pointer(const void* pointer, const char* what) {
    check(pointer != nullptr, what, "not be null", "null");
}

void check_size(std::int64_t n, const char* what) {
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    check(n >= 0 && n <= kMost, what, "be in 0..2147483647", std::to_string(n));
}

void check_threads(int threads) {
    check(threads >= 1, "threads", "be at least 1", std::to_string(threads));
}

// What the arrays hold, and which of them a model takes, is checked where they are used.
void check_tokens(const attendrite_batch& batch) {
    if (batch.windows == 0) return;
    check_pointer(batch.first, "first of a batch");
    check_pointer(batch.count, "count of a batch");
    bool any = false;
    for (std::int64_t w = 0; w < batch.windows; ++w) {
        check_size(batch.count[w], "count of a batch");
        any = any || batch.count[w] > 0;
    }
    if (any) {
        check_pointer(batch.times, "times of a batch");
        check_pointer(batch.units, "units of a batch");
    }
}

void check_batch(const Model::Parts& parts, const attendrite_batch& batch) {
    check_size(batch.windows, "windows of a batch");
    check_size(batch.queries, "queries of a batch");
    if (batch.windows == 0 || batch.queries == 0) return;
    check_pointer(batch.query_times, "query_times of a batch");
    check_pointer(batch.session_rows, "session_rows of a batch");
    if (!parts.tasks.empty()) check_pointer(batch.task_rows, "task_rows of a batch");
}

// An array may be missing where nothing is written to it.
void check_predictions(const Model::Parts& parts, const attendrite_batch& batch,
                       float* const* predictions) {
    const std::int64_t n = batch.windows * batch.queries;
    if (n == 0) return;
    check_pointer(predictions, "predictions");
    if (parts.tasks.empty()) check_pointer(predictions[0], "predictions[0]");
    for (std::size_t t = 0; t < parts.tasks.size(); ++t) {
        if (predictions[t] != nullptr) continue;
        for (std::int64_t i = 0; i < n; ++i) {
            if (batch.task_rows[i] == parts.tasks[t].id) {
                check_pointer(nullptr, "the prediction of a task with queries");
            }
        }
    }
}

const Model::Parts& parts_of(const attendrite_engine* engine) {
    check_pointer(engine, "engine");
    return engine->runner.model().parts();
}

void check_run(const attendrite_engine* engine, const attendrite_batch* batch,
               const attendrite_request* requests, std::int64_t n_requests,
               float* const* predictions) {
    const Model::Parts& parts = parts_of(engine);
    check_pointer(batch, "batch");
    check_size(n_requests, "number of requests");
    if (n_requests > 0) check_pointer(requests, "requests");
    check_batch(parts, *batch);
    check_predictions(parts, *batch, predictions);
}

template <class Vocabulary>
std::int64_t row_of(const Vocabulary& vocabulary, const char* id) {
    const auto found = vocabulary.find(std::string_view(id));
    return found == vocabulary.end() ? -1 : found->second;
}

attendrite_engine* engine_of(const Bundle& bundle, int threads) {
    return new attendrite_engine{Runner(std::make_shared<const Model>(bundle), threads)};
}

}  // namespace

int attendrite_abi(void) { return ATTENDRITE_ABI; }

int attendrite_open(const char* folder, int threads, attendrite_engine** engine, char* message,
                    size_t size) {
    return guarded(message, size, [&] {
        check_pointer(folder, "folder");
        check_pointer(engine, "engine");
        check_threads(threads);
        *engine = engine_of(attendrite::read_bundle(folder), threads);
    });
}

int attendrite_parse(const char* manifest, size_t manifest_bytes, const void* weights,
                     size_t weights_bytes, int threads, attendrite_engine** engine, char* message,
                     size_t size) {
    return guarded(message, size, [&] {
        check_pointer(manifest, "manifest");
        check_pointer(weights, "weights");
        check_pointer(engine, "engine");
        check_threads(threads);
        *engine = engine_of(
            attendrite::parse_bundle({manifest, manifest_bytes}, weights, weights_bytes), threads);
    });
}

int attendrite_share(const attendrite_engine* engine, attendrite_engine** other, char* message,
                     size_t size) {
    return guarded(message, size, [&] {
        check_pointer(engine, "engine");
        check_pointer(other, "other");
        *other = new attendrite_engine{Runner(engine->runner)};
    });
}

void attendrite_close(attendrite_engine* engine) { delete engine; }

void attendrite_set_threads(attendrite_engine* engine, int threads) {
    guarded(nullptr, 0, [&] {
        check_pointer(engine, "engine");
        check_threads(threads);
        engine->runner.set_threads(threads);
    });
}

void attendrite_model_of(const attendrite_engine* engine, attendrite_model_info* info) {
    guarded(nullptr, 0, [&] {
        check_pointer(info, "info");
        *info = parts_of(engine).info;
    });
}

int attendrite_site(const attendrite_engine* engine, int64_t i, attendrite_site_info* site) {
    return guarded(nullptr, 0, [&] {
        check_pointer(site, "site");
        const Model::Parts& parts = parts_of(engine);
        check(i >= 0 && i < parts.info.sites, "site", "exist", std::to_string(i));
        const attendrite::Layer& layer = parts.layers[static_cast<std::size_t>(i)];
        *site = {layer.site.c_str(), layer.heads, parts.width, layer.has_units ? 1 : 0, 0};
    });
}

int attendrite_task(const attendrite_engine* engine, int64_t i, attendrite_task_info* task) {
    return guarded(nullptr, 0, [&] {
        check_pointer(task, "task");
        const auto& tasks = parts_of(engine).tasks;
        check(i >= 0 && i < static_cast<std::int64_t>(tasks.size()), "task", "exist",
              std::to_string(i));
        const attendrite::TaskFact& fact = tasks[static_cast<std::size_t>(i)];
        *task = {fact.name.c_str(), fact.id, fact.width, fact.kind.c_str()};
    });
}

int64_t attendrite_unit_row(const attendrite_engine* engine, const char* id) {
    if (engine == nullptr || id == nullptr) return -1;
    return row_of(engine->runner.model().parts().units, id);
}

int64_t attendrite_session_row(const attendrite_engine* engine, const char* id) {
    if (engine == nullptr || id == nullptr) return -1;
    return row_of(engine->runner.model().parts().sessions, id);
}

int attendrite_bind_units(attendrite_engine* engine, const int64_t* rows, int64_t n, char* message,
                          size_t size) {
    return guarded(message, size, [&] {
        check_pointer(engine, "engine");
        check_size(n, "number of units");
        if (n > 0) check_pointer(rows, "rows of units");
        engine->runner.bind_units(rows, n);
    });
}

int64_t attendrite_tokens(const attendrite_engine* engine, const double* spike_times,
                          const int64_t* spike_units, int64_t n, double* times, int64_t* units,
                          int64_t* types) {
    std::int64_t written = -1;
    guarded(nullptr, 0, [&] {
        check_pointer(engine, "engine");
        check_size(n, "number of spikes");
        if (n > 0) {
            check_pointer(spike_times, "spike_times");
            check_pointer(spike_units, "spike_units");
        }
        check_pointer(times, "times");
        check_pointer(units, "units");
        check_pointer(types, "types");
        written = engine->runner.tokens(spike_times, spike_units, n, times, units, types);
    });
    return written;
}

int attendrite_run(attendrite_engine* engine, const attendrite_batch* batch,
                   const attendrite_request* requests, int64_t n_requests,
                   float* const* predictions, char* message, size_t size) {
    return guarded(message, size, [&] {
        check_run(engine, batch, requests, n_requests, predictions);
        check_tokens(*batch);
        engine->runner.run(*batch, requests, n_requests, predictions);
    });
}

int attendrite_run_encoded(attendrite_engine* engine, const attendrite_batch* batch,
                           const float* encoded, const attendrite_request* requests,
                           int64_t n_requests, float* const* predictions, char* message,
                           size_t size) {
    return guarded(message, size, [&] {
        check_run(engine, batch, requests, n_requests, predictions);
        if (batch->windows > 0) check_pointer(encoded, "encoded");
        engine->runner.run(*batch, requests, n_requests, predictions, encoded);
    });
}

int attendrite_reserve(attendrite_engine* engine, int64_t windows, int64_t tokens, int64_t longest,
                       int64_t queries, char* message, size_t size) {
    return guarded(message, size, [&] {
        check_pointer(engine, "engine");
        check_size(windows, "windows");
        check_size(tokens, "tokens");
        check_size(longest, "longest");
        check_size(queries, "queries");
        engine->runner.reserve(windows, tokens, longest, queries);
    });
}
