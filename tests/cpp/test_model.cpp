// Whole models of random weights against plain loops in double: predictions and every statistic at
// every site; what must not change a result; bad input; and that a run takes no memory.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

#include "check.hpp"
#include "model_parts.hpp"

using namespace attendrite;

// Requests for memory are counted where the allocator can be stood in for.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_MEMORY 1
namespace {
std::atomic<long> requests_for_memory{0};
}
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t n) {
    ++requests_for_memory;
    return __libc_malloc(n);
}
void* calloc(std::size_t n, std::size_t size) {
    ++requests_for_memory;
    return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t n) {
    ++requests_for_memory;
    return __libc_realloc(p, n);
}
void* aligned_alloc(std::size_t line, std::size_t n) {
    ++requests_for_memory;
    return __libc_memalign(line, n);
}
}
#endif

namespace {

using Indices = std::vector<std::int64_t>;
using Rows = std::vector<Doubles>;  // [n][features]

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::mt19937& random_bits() {
    static std::mt19937 bits(1);
    return bits;
}

double normal() {
    static std::normal_distribution<double> distribution;
    return distribution(random_bits());
}

std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_bits()() % at(n)); }

constexpr double kStep = 0.25;  // s, between latents
const char* const kFamilies[] = {"poyo", "poyo_plus", "calcium_poyo_plus"};

struct Shape {
    std::int64_t dim, width, pairs, cross, self, depth, per_step, steps;
};

// A bundle of random weights.
struct Made {
    Made(const std::string& family, const Shape& shape) : s(shape) {
        bundle.family = family;
        for (const auto& [name, value] :
             std::map<std::string, std::int64_t>{{"dim", s.dim},
                                                 {"dim_head", s.width},
                                                 {"depth", s.depth},
                                                 {"cross_heads", s.cross},
                                                 {"self_heads", s.self},
                                                 {"num_latents_per_step", s.per_step}}) {
            bundle.config[name] = static_cast<double>(value);
        }
        bundle.config["latent_step"] = kStep;
        bundle.config["sequence_length"] = kStep * static_cast<double>(s.steps);
        calcium = family == "calcium_poyo_plus";
        const std::int64_t dim = s.dim;
        add("unit_emb.weight", {kUnitRows, calcium ? dim / 2 : dim}, 1);
        add("session_emb.weight", {4, dim}, 1);
        add("token_type_emb.weight", {4, dim}, 1);
        add("latent_emb.weight", {s.per_step, dim}, 1);
        Doubles omega(at(s.width / 2), 0.0);
        for (std::int64_t i = 0; i < s.pairs; ++i) omega[at(i)] = 40.0 / static_cast<double>(i + 1);
        store("rotary_emb.omega", {s.width / 2}, omega);
        for (const std::string name : {"enc_atn", "dec_atn"}) {
            norm(name + ".norm");
            norm(name + ".norm_context");
            add(name + ".to_q.weight", {s.cross * s.width, dim}, 1);
            add(name + ".to_kv.weight", {2 * s.cross * s.width, dim}, 1);
            linear(name + ".to_out", dim, s.cross * s.width);
        }
        feed_forward("enc_ffn");
        feed_forward("dec_ffn");
        for (std::int64_t i = 0; i < s.depth; ++i) {
            const std::string name = "proc_layers." + std::to_string(i);
            norm(name + ".0.norm");
            add(name + ".0.to_qkv.weight", {3 * s.self * s.width, dim}, 1);
            linear(name + ".0.to_out", dim, s.self * s.width);
            feed_forward(name + ".1");
        }
        if (calcium) linear("input_value_map", dim / 2, 1);
        if (family == "poyo") {
            linear("readout", 2, dim);
            return;
        }
        add("task_emb.weight", {5, dim}, 1);
        bundle.tasks = {{"where", 1, 3, "continuous"}, {"which", 4, 7, "multinomial"}};
        for (const TaskFact& task : bundle.tasks) {
            linear("readout.projections." + task.name, task.width, dim);
        }
    }

    void add(const std::string& name, const Indices& shape, double deviation) {
        const std::int64_t n =
            std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
        const double by = deviation / std::sqrt(shape.size() < 2 ? 1.0 : double(shape.back()));
        Doubles numbers;
        for (std::int64_t i = 0; i < n; ++i) {
            numbers.push_back(static_cast<double>(static_cast<float>(by * normal())));
        }
        store(name, shape, numbers);
    }

    void store(const std::string& name, const Indices& shape, const Doubles& numbers) {
        Doubles& kept = numbers_of[name] = numbers;
        bundle.weights[name] = {Stored::f64, shape,
                                reinterpret_cast<const unsigned char*>(kept.data())};
    }

    void norm(const std::string& name) {
        add(name + ".weight", {s.dim}, 1);
        add(name + ".bias", {s.dim}, 1);
    }

    void linear(const std::string& name, std::int64_t outputs, std::int64_t inputs) {
        add(name + ".weight", {outputs, inputs}, 1);
        add(name + ".bias", {outputs}, 0.3);
    }

    void feed_forward(const std::string& name) {
        norm(name + ".0");
        linear(name + ".1.net.0", 8 * s.dim, s.dim);
        linear(name + ".1.net.3", s.dim, 4 * s.dim);
    }

    std::int64_t latents() const { return s.steps * s.per_step; }

    static constexpr std::int64_t kUnitRows = 9;
    Shape s;
    bool calcium = false;
    Bundle bundle;
    std::map<std::string, Doubles> numbers_of;
};

// Windows of unequal length, the second one empty, with gaps between them.
struct Input {
    Input(const Made& made, Indices counts, std::int64_t n_queries) : count(std::move(counts)) {
        const double length = kStep * static_cast<double>(made.s.steps);
        const auto time = [&] { return length * static_cast<double>(below(1000)) / 1000; };
        const bool tasks = !made.bundle.tasks.empty();
        for (const std::int64_t n : count) {
            first.push_back(static_cast<std::int64_t>(times.size()));
            for (std::int64_t i = 0; i < n + 2; ++i) {
                const bool gap = i >= n;
                times.push_back(gap ? NAN : time());
                units.push_back(gap ? -7 : below(static_cast<std::int64_t>(unit_rows.size())));
                types.push_back(gap ? -7 : below(kSpikeTypes));
                values.push_back(gap ? NAN : static_cast<float>(normal()));
            }
            for (std::int64_t q = 0; q < n_queries; ++q) {
                query_times.push_back(time());
                sessions.push_back(1 + below(3));
                task_rows.push_back(tasks ? below(5) : 0);
            }
        }
        batch = {};
        batch.windows = static_cast<std::int64_t>(count.size());
        batch.first = first.data();
        batch.count = count.data();
        batch.times = times.data();
        batch.units = units.data();
        batch.types = made.calcium ? nullptr : types.data();
        batch.values = made.calcium ? values.data() : nullptr;
        batch.queries = n_queries;
        batch.query_times = query_times.data();
        batch.session_rows = sessions.data();
        batch.task_rows = tasks ? task_rows.data() : nullptr;
    }

    std::int64_t longest() const { return *std::max_element(count.begin(), count.end()); }

    Indices unit_rows = {3, 1, 8, 5};
    Indices first, count, units, types, sessions, task_rows;
    Doubles times, query_times;
    Floats values;
    attendrite_batch batch;
};

// ---- the model in plain loops, one window at a time ----

struct Attended {
    std::vector<Rows> q, k, output, weights, scores;  // [heads][n][..]; keys turned for partials
    std::vector<Rows> turned_v;
};

class Plain {
  public:
    Plain(const Made& made, const Input& input, std::int64_t window)
        : m_(made), in_(input), window_(window) {}

    void run() {
        const std::int64_t first = in_.first[at(window_)];
        Doubles key_times(in_.times.begin() + first,
                          in_.times.begin() + first + in_.count[at(window_)]);
        Doubles latent_times;
        Rows x;
        for (std::int64_t i = 0; i < m_.latents(); ++i) {
            latent_times.push_back(kStep * (0.5 + static_cast<double>(i / m_.s.per_step)));
            x.push_back(row("latent_emb.weight", i % m_.s.per_step));
        }
        Rows tokens;
        for (std::int64_t i = first; i < first + in_.count[at(window_)]; ++i) {
            tokens.push_back(token(i));
        }
        cross("enc_atn", x, latent_times, tokens, key_times, true);
        feed_forward("enc_ffn", x);
        for (std::int64_t i = 0; i < m_.s.depth; ++i) {
            const std::string name = "proc_layers." + std::to_string(i);
            const Rows qkv = linear(name + ".0.to_qkv", normed(name + ".0.norm", x));
            attend(name + ".0", m_.s.self, x, part(qkv, 0, 3), latent_times, part(qkv, 1, 3),
                   part(qkv, 2, 3), latent_times, true);
            feed_forward(name + ".1", x);
        }
        Doubles query_times;
        Rows asked;
        for (std::int64_t q = 0; q < in_.batch.queries; ++q) {
            const auto i = at(window_ * in_.batch.queries + q);
            query_times.push_back(in_.query_times[i]);
            asked.push_back(row("session_emb.weight", in_.sessions[i]));
            if (m_.bundle.tasks.empty()) continue;
            const Doubles task = row("task_emb.weight", in_.task_rows[i]);
            std::transform(task.begin(), task.end(), asked.back().begin(), asked.back().begin(),
                           std::plus<>());
        }
        cross("dec_atn", asked, query_times, x, latent_times, false);
        feed_forward("dec_ffn", asked);
        decoded = asked;
    }

    Rows read_out(const std::string& name) const { return linear(name, decoded); }

    std::vector<Attended> sites;
    Rows decoded;

  private:
    const Doubles& numbers(const std::string& name) const { return m_.numbers_of.at(name); }

    Doubles row(const std::string& name, std::int64_t i) const {
        const std::int64_t width = m_.bundle.weights.at(name).shape[1];
        const auto begin = numbers(name).begin() + i * width;
        return {begin, begin + width};
    }

    Doubles token(std::int64_t i) const {
        const std::int64_t unit_row = in_.unit_rows[at(in_.units[at(i)])];
        Doubles unit = row("unit_emb.weight", unit_row);
        if (m_.calcium) {
            const auto value = static_cast<double>(in_.values[at(i)]);
            Rows mapped = linear("input_value_map", {{value}});
            mapped[0].insert(mapped[0].end(), unit.begin(), unit.end());
            return mapped[0];
        }
        const Doubles type = row("token_type_emb.weight", in_.types[at(i)]);
        std::transform(type.begin(), type.end(), unit.begin(), unit.begin(), std::plus<>());
        return unit;
    }

    Rows linear(const std::string& name, const Rows& x) const {
        const Indices& shape = m_.bundle.weights.at(name + ".weight").shape;
        const bool biased = m_.numbers_of.count(name + ".bias") > 0;
        Rows y;
        for (const Doubles& features : x) {
            y.emplace_back();
            for (std::int64_t o = 0; o < shape[0]; ++o) {
                const Doubles w = row(name + ".weight", o);
                y.back().push_back(
                    std::inner_product(w.begin(), w.end(), features.begin(),
                                       biased ? numbers(name + ".bias")[at(o)] : 0.0));
            }
        }
        return y;
    }

    Rows normed(const std::string& name, Rows x) const {
        for (Doubles& features : x) {
            const auto n = static_cast<double>(features.size());
            const double mean = std::accumulate(features.begin(), features.end(), 0.0) / n;
            double squares = 0;
            for (const double f : features) squares += (f - mean) * (f - mean);
            for (std::size_t i = 0; i < features.size(); ++i) {
                features[i] = (features[i] - mean) / std::sqrt(squares / n + 1e-5) *
                                  numbers(name + ".weight")[i] +
                              numbers(name + ".bias")[i];
            }
        }
        return x;
    }

    static Rows part(const Rows& x, std::size_t i, std::size_t of) {
        Rows out;
        for (const Doubles& features : x) {
            const auto width = static_cast<std::ptrdiff_t>(features.size() / of);
            const auto begin = features.begin() + static_cast<std::ptrdiff_t>(i) * width;
            out.emplace_back(begin, begin + width);
        }
        return out;
    }

    Doubles turned(Doubles x, double time, double sign) const {
        for (std::int64_t i = 0; i < m_.s.pairs; ++i) {
            const double angle = time * numbers("rotary_emb.omega")[at(i)];
            const double even = x[at(2 * i)];
            const double odd = x[at(2 * i + 1)];
            x[at(2 * i)] = even * std::cos(angle) - sign * odd * std::sin(angle);
            x[at(2 * i + 1)] = odd * std::cos(angle) + sign * even * std::sin(angle);
        }
        return x;
    }

    void cross(const std::string& name, Rows& x, const Doubles& times, const Rows& context,
               const Doubles& key_times, bool turns_values) {
        const Rows kv = linear(name + ".to_kv", normed(name + ".norm_context", context));
        attend(name, m_.s.cross, x, linear(name + ".to_q", normed(name + ".norm", x)), times,
               part(kv, 0, 2), part(kv, 1, 2), key_times, turns_values);
    }

    void attend(const std::string& name, std::int64_t heads, Rows& x, const Rows& q,
                const Doubles& times, const Rows& k, const Rows& v, const Doubles& key_times,
                bool turns_values) {
        Attended found;
        Rows joined(x.size());
        for (std::int64_t h = 0; h < heads; ++h) {
            const auto head = [&](const Rows& rows) { return part(rows, at(h), at(heads)); };
            const Rows queries = head(q);
            const Rows keys = head(k);
            Rows values = head(v);
            for (std::size_t i = 0; turns_values && i < values.size(); ++i) {
                values[i] = turned(values[i], key_times[i], 1);
            }
            Rows all_scores, all_weights, outputs;
            for (std::size_t i = 0; i < queries.size(); ++i) {
                const Doubles query = turned(queries[i], times[i], 1);
                Doubles scores;
                for (std::size_t j = 0; j < keys.size(); ++j) {
                    const Doubles key = turned(keys[j], key_times[j], 1);
                    scores.push_back(
                        std::inner_product(key.begin(), key.end(), query.begin(), 0.0) /
                        std::sqrt(static_cast<double>(m_.s.width)));
                }
                double total = 0;
                for (const double score : scores) total += std::exp(score);
                Doubles weights;
                Doubles output(at(m_.s.width), 0.0);
                for (std::size_t j = 0; j < keys.size(); ++j) {
                    weights.push_back(std::exp(scores[j]) / total);
                    for (std::size_t d = 0; d < output.size(); ++d) {
                        output[d] += weights[j] * values[j][d];
                    }
                }
                if (turns_values) output = turned(output, times[i], -1);
                joined[i].insert(joined[i].end(), output.begin(), output.end());
                all_scores.push_back(scores);
                all_weights.push_back(weights);
                outputs.push_back(output);
            }
            found.q.push_back(queries);
            found.k.push_back(keys);
            found.turned_v.push_back(values);
            found.output.push_back(outputs);
            found.weights.push_back(all_weights);
            found.scores.push_back(all_scores);
        }
        add(x, linear(name + ".to_out", joined));
        sites.push_back(found);
    }

    void feed_forward(const std::string& name, Rows& x) const {
        Rows hidden = linear(name + ".1.net.0", normed(name + ".0", x));
        for (Doubles& features : hidden) {
            const std::size_t half = features.size() / 2;
            for (std::size_t i = 0; i < half; ++i) {
                const double gate = features[half + i];
                features[i] *= gate * 0.5 * std::erfc(-gate / std::sqrt(2.0));
            }
            features.resize(half);
        }
        add(x, linear(name + ".1.net.3", hidden));
    }

    static void add(Rows& x, const Rows& y) {
        for (std::size_t i = 0; i < x.size(); ++i) {
            std::transform(y[i].begin(), y[i].end(), x[i].begin(), x[i].begin(), std::plus<>());
        }
    }

    const Made& m_;
    const Input& in_;
    std::int64_t window_;
};

// ---- runs ----

// Room for a result, filled with what nobody writes.
struct Answer {
    attendrite_request request{};
    Floats numbers, more;
    Indices keys;
};

// Everything that every site can be asked, at once.
struct Asked {
    Asked(const Made& made, const Input& in) {
        constexpr std::int64_t kRanks = 5;
        const std::int64_t sites = made.s.depth + 2;
        for (std::int64_t site = 0; site < sites; ++site) {
            const bool units = site == 0;
            const bool decoder = site == sites - 1;
            const std::int64_t heads = units || decoder ? made.s.cross : made.s.self;
            const std::int64_t n = decoder ? in.batch.queries : made.latents();
            const std::int64_t keys = units ? in.longest() : made.latents();
            const auto n_units = static_cast<std::int64_t>(in.unit_rows.size());
            const std::int64_t all = in.batch.windows * heads;
            const std::int64_t sizes[] = {n * keys,
                                          keys,
                                          n_units,
                                          n * n_units,
                                          n,
                                          n,
                                          n * kRanks,
                                          n * n_units,
                                          n,
                                          n * made.s.width,
                                          n * made.s.width,
                                          keys * made.s.width};
            for (std::int32_t statistic = 0; statistic <= ATTENDRITE_KEYS; ++statistic) {
                const bool per_unit = statistic == ATTENDRITE_PER_UNIT ||
                                      statistic == ATTENDRITE_PER_QUERY_UNIT ||
                                      statistic == ATTENDRITE_PARTIALS;
                if (per_unit && !units) continue;
                if (statistic == ATTENDRITE_KEYS && units) continue;
                for (std::int32_t spikes = 0; spikes <= (per_unit ? 1 : 0); ++spikes) {
                    Answer answer;
                    answer.numbers.assign(at(all * sizes[statistic]), NAN);
                    const std::int64_t second =
                        statistic == ATTENDRITE_PARTIALS ? all * n * n_units * made.s.width : 0;
                    answer.more.assign(at(second), NAN);
                    answer.keys.assign(statistic == ATTENDRITE_TOP_K ? at(all * n * kRanks) : 0,
                                       -77);
                    answer.request = {site, statistic, spikes, kRanks, nullptr, nullptr};
                    answers.push_back(std::move(answer));
                }
            }
        }
        for (Answer& answer : answers) {
            answer.request.result = answer.numbers.data();
            answer.request.second =
                answer.more.empty() ? static_cast<void*>(answer.keys.data()) : answer.more.data();
            requests.push_back(answer.request);
        }
    }

    std::vector<Answer> answers;
    std::vector<attendrite_request> requests;
};

// The predictions of all read-outs.
struct Predictions {
    Predictions(const Made& made, const Input& in) {
        const auto n = static_cast<std::int64_t>(in.query_times.size());
        const auto add = [&](std::int64_t rows, std::int64_t width) {
            numbers.emplace_back(at(rows * width), NAN);
        };
        if (made.bundle.tasks.empty()) add(n, 2);
        for (const TaskFact& task : made.bundle.tasks) {
            add(std::count(in.task_rows.begin(), in.task_rows.end(), task.id), task.width);
        }
        for (Floats& room : numbers) rooms.push_back(room.data());
    }

    std::vector<Floats> numbers;
    std::vector<float*> rooms;
};

std::unique_ptr<Runner> runner(const Made& made, const Input& in, int threads) {
    auto out = std::make_unique<Runner>(std::make_shared<Model>(made.bundle), threads);
    out->bind_units(in.unit_rows.data(), static_cast<std::int64_t>(in.unit_rows.size()));
    return out;
}

// Float32 through some layers, whose numbers are of the order of 1.
bool near(float found, double exact) {
    if (!std::isfinite(exact)) return static_cast<double>(found) == exact;
    return std::abs(static_cast<double>(found) - exact) < 3e-5 * std::max(1.0, std::abs(exact));
}

class Judge {
  public:
    Judge(const Made& made, const Input& in, const std::vector<Plain>& truth)
        : made_(made), in_(in), truth_(truth) {}

    void predictions(const Predictions& found) const {
        const std::size_t outs = found.numbers.size();
        for (std::size_t t = 0; t < outs; ++t) {
            const bool tasks = !made_.bundle.tasks.empty();
            std::size_t next = 0;
            for (std::size_t w = 0; w < truth_.size(); ++w) {
                const Rows all = truth_[w].read_out(
                    tasks ? "readout.projections." + made_.bundle.tasks[t].name : "readout");
                for (std::size_t q = 0; q < all.size(); ++q) {
                    const std::int64_t task = in_.task_rows[w * all.size() + q];
                    if (tasks && task != made_.bundle.tasks[t].id) continue;
                    for (const double exact : all[q]) CHECK(near(found.numbers[t][next++], exact));
                }
            }
            CHECK(next == found.numbers[t].size());
        }
    }

    void statistics(const Asked& asked) {
        for (const Answer& answer : asked.answers) {
            next_ = more_ = 0;
            const auto site = at(answer.request.site);
            for (std::size_t w = 0; w < truth_.size(); ++w) {
                const Attended& exact = truth_[w].sites[site];
                for (std::size_t h = 0; h < exact.q.size(); ++h) one(answer, w, h, exact);
            }
            CHECK(next_ == answer.numbers.size());
        }
    }

  private:
    bool exists(const Answer& a, std::size_t w, std::size_t q) const {
        const bool decoder = a.request.site == made_.s.depth + 1;
        return !decoder || made_.bundle.tasks.empty() ||
               in_.task_rows[w * at(in_.batch.queries) + q] > 0;
    }

    // The unit that a key counts for.
    std::int64_t unit(const Answer& a, std::size_t w, std::size_t key) const {
        const std::size_t i = at(in_.first[w]) + key;
        const bool spike = made_.calcium || in_.types[i] == ATTENDRITE_SPIKE;
        return spike || a.request.spikes_only == 0 ? in_.units[i] : -1;
    }

    void expect(const Answer& a, double exact) { CHECK(near(a.numbers[next_++], exact)); }

    void one(const Answer& a, std::size_t w, std::size_t h, const Attended& exact) {
        const Rows& weights = exact.weights[h];
        const auto n_keys =
            at(a.request.site == 0 ? in_.longest() : made_.latents());  // with padding
        const std::size_t n = exact.k[h].size();
        const auto n_units = static_cast<std::int64_t>(in_.unit_rows.size());
        Doubles by_key(n_keys, 0.0);
        Doubles by_unit(at(n_units), 0.0);
        for (std::size_t q = 0; q < weights.size(); ++q) {
            const bool there = exists(a, w, q);
            Doubles mine(at(n_units), 0.0);
            double entropy = 0;
            double lag = 0;
            double total = 0;
            for (std::size_t i = 0; i < n; ++i) {
                const double weight = there ? weights[q][i] : 0.0;
                by_key[i] += weight;
                entropy -= weight > 0 ? weight * std::log(weight) : 0;
                lag += weight * (time(a, w, q) - key_time(a, w, i));
                total += std::exp(exact.scores[h][q][i]);
                if (a.request.site == 0 && unit(a, w, i) >= 0) mine[at(unit(a, w, i))] += weight;
            }
            for (std::size_t u = 0; u < mine.size(); ++u) by_unit[u] += mine[u];
            switch (a.request.statistic) {
                case ATTENDRITE_WEIGHTS:
                    for (std::size_t i = 0; i < n_keys; ++i) {
                        expect(a, i < n && there ? weights[q][i] : 0);
                    }
                    break;
                case ATTENDRITE_PER_QUERY_UNIT:
                    for (const double share : mine) expect(a, share);
                    break;
                case ATTENDRITE_ENTROPY:
                    expect(a, entropy);
                    break;
                case ATTENDRITE_LSE:
                    expect(a, there ? std::log(total) : 0);
                    break;
                case ATTENDRITE_LAG:
                    expect(a, lag);
                    break;
                case ATTENDRITE_TOP_K:
                    ranks(a, weights[q], there);
                    break;
                case ATTENDRITE_PARTIALS:
                    partials(a, w, h, q, exact);
                    break;
                case ATTENDRITE_OUTPUT:
                    row(a, exact.output[h][q], there);
                    break;
                case ATTENDRITE_QUERIES:
                    row(a, exact.q[h][q], there);
                    break;
                default:
                    break;
            }
        }
        if (a.request.statistic == ATTENDRITE_PER_KEY) {
            for (const double sum : by_key) expect(a, sum);
        } else if (a.request.statistic == ATTENDRITE_PER_UNIT) {
            for (const double sum : by_unit) expect(a, sum);
        } else if (a.request.statistic == ATTENDRITE_KEYS) {
            for (const Doubles& key : exact.k[h]) row(a, key, true);
        }
    }

    double latent_time(std::size_t i) const {
        return kStep * (0.5 + static_cast<double>(i / at(made_.s.per_step)));
    }

    double time(const Answer& a, std::size_t w, std::size_t q) const {
        const bool decoder = a.request.site == made_.s.depth + 1;
        return decoder ? in_.query_times[w * at(in_.batch.queries) + q] : latent_time(q);
    }

    double key_time(const Answer& a, std::size_t w, std::size_t i) const {
        return a.request.site == 0 ? in_.times[at(in_.first[w]) + i] : latent_time(i);
    }

    void row(const Answer& a, const Doubles& exact, bool there) {
        for (const double x : exact) expect(a, there ? x : 0);
    }

    void ranks(const Answer& a, const Doubles& weights, bool there) {
        Doubles sorted = there ? weights : Doubles();
        std::sort(sorted.rbegin(), sorted.rend());
        for (std::size_t r = 0; r < at(a.request.k); ++r) {
            const std::int64_t key = a.keys[next_];
            CHECK((key < 0) == (r >= sorted.size()));
            expect(a, r < sorted.size() ? sorted[r] : 0);
            if (r < sorted.size() && key >= 0) CHECK(near(a.numbers[next_ - 1], weights[at(key)]));
        }
    }

    void partials(const Answer& a, std::size_t w, std::size_t h, std::size_t q,
                  const Attended& exact) {
        for (std::int64_t u = 0; u < static_cast<std::int64_t>(in_.unit_rows.size()); ++u) {
            double total = 0;
            Doubles output(at(made_.s.width), 0.0);
            for (std::size_t i = 0; i < exact.k[h].size(); ++i) {
                if (unit(a, w, i) != u) continue;
                const double by = std::exp(exact.scores[h][q][i]);
                total += by;
                for (std::size_t d = 0; d < output.size(); ++d) {
                    output[d] += by * exact.turned_v[h][i][d];
                }
            }
            expect(a, std::log(total));
            // Outputs turn back with the query, of which the angle is that of its latent.
            for (std::int64_t i = 0; i < made_.s.pairs; ++i) {
                const double angle =
                    latent_time(q) * made_.numbers_of.at("rotary_emb.omega")[at(i)];
                const double even = output[at(2 * i)];
                const double odd = output[at(2 * i + 1)];
                output[at(2 * i)] = even * std::cos(angle) + odd * std::sin(angle);
                output[at(2 * i + 1)] = odd * std::cos(angle) - even * std::sin(angle);
            }
            for (const double x : output) {
                CHECK(near(a.more[more_++], total > 0 ? x / total : 0));
            }
        }
    }

    const Made& made_;
    const Input& in_;
    const std::vector<Plain>& truth_;
    std::size_t next_ = 0, more_ = 0;
};

void against_plain_loops(const Made& made, const Input& in) {
    std::vector<Plain> truth;
    for (std::int64_t w = 0; w < in.batch.windows; ++w) {
        truth.emplace_back(made, in, w);
        truth.back().run();
    }
    const auto model = runner(made, in, 1);
    Predictions plain(made, in);
    model->run(in.batch, nullptr, 0, plain.rooms.data());
    Judge(made, in, truth).predictions(plain);

    Asked asked(made, in);
    Predictions beside(made, in);
    const auto n = static_cast<std::int64_t>(asked.requests.size());
    model->run(in.batch, asked.requests.data(), n, beside.rooms.data());
    Judge judge(made, in, truth);
    judge.predictions(beside);
    judge.statistics(asked);

    Asked backwards(made, in);  // another order, other calls
    std::reverse(backwards.requests.begin(), backwards.requests.end());
    model->run(in.batch, backwards.requests.data(), n, beside.rooms.data());
    judge.statistics(backwards);

    // The same bits with threads, and from a runner that shares the model.
    model->set_threads(3);
    Predictions again(made, in);
    Runner(*model).run(in.batch, nullptr, 0, again.rooms.data());
    CHECK(again.numbers == plain.numbers);
}

// Where there are many windows each thread has its own: the same bits.
void many_windows(const Made& made) {
    const Input in(made, {3, 0, 50, 1, 9, 70, 2, 2, 31, 4, 0, 8, 20}, 2);
    Predictions rooms[2] = {{made, in}, {made, in}};
    Asked asked[2] = {{made, in}, {made, in}};
    const auto model = runner(made, in, 1);
    for (const int threads : {1, 3}) {
        const std::size_t i = threads == 1 ? 0 : 1;
        model->set_threads(threads);
        model->run(in.batch, asked[i].requests.data(),
                   static_cast<std::int64_t>(asked[i].requests.size()), rooms[i].rooms.data());
    }
    CHECK(rooms[0].numbers == rooms[1].numbers);
    for (std::size_t i = 0; i < asked[0].answers.size(); ++i) {
        CHECK(asked[0].answers[i].numbers == asked[1].answers[i].numbers);
        CHECK(asked[0].answers[i].keys == asked[1].answers[i].keys);
        CHECK(asked[0].answers[i].more == asked[1].answers[i].more);
    }
}

// A batch without its tokens.
attendrite_batch without_tokens(attendrite_batch batch) {
    batch.first = batch.count = nullptr;
    batch.times = nullptr;
    batch.units = batch.types = nullptr;
    batch.values = nullptr;
    return batch;
}

std::int64_t encoded_numbers(const Made& made, std::int64_t windows) {
    return windows * made.s.cross * made.latents() * made.s.width;
}

// What the encoder's attention gave is enough for all that follows: the same bits, without tokens
// and units.
void from_encoded(const Made& made, const Input& in) {
    Floats encoded(at(encoded_numbers(made, in.batch.windows)), NAN);
    const attendrite_request output{0, ATTENDRITE_OUTPUT, 0, 0, encoded.data(), nullptr};
    const auto drop_encoder = [](Asked& asked) {
        const auto of_encoder = [](const auto& r) { return r.site == 0; };
        asked.requests.erase(
            std::remove_if(asked.requests.begin(), asked.requests.end(), of_encoder),
            asked.requests.end());
    };
    Predictions plain(made, in);
    Asked asked(made, in);
    drop_encoder(asked);
    std::vector<attendrite_request> requests = asked.requests;
    requests.push_back(output);
    runner(made, in, 1)
        ->run(in.batch, requests.data(), static_cast<std::int64_t>(requests.size()),
              plain.rooms.data());
    const auto model = std::make_shared<Model>(made.bundle);
    for (const int threads : {1, 2, 5}) {
        Predictions found(made, in);
        Asked again(made, in);
        drop_encoder(again);
        Runner(model, threads)
            .run(without_tokens(in.batch), again.requests.data(),
                 static_cast<std::int64_t>(again.requests.size()), found.rooms.data(),
                 encoded.data());
        CHECK(found.numbers == plain.numbers);
        for (std::size_t i = 0; i < asked.answers.size(); ++i) {
            if (asked.answers[i].request.site == 0) continue;
            CHECK(again.answers[i].numbers == asked.answers[i].numbers);
            CHECK(again.answers[i].keys == asked.answers[i].keys);
        }
    }
}

// ---- bad input ----

void bad_input() {
    const Made made("poyo_plus", {8, 4, 1, 1, 1, 1, 2, 2});
    const Input sound(made, {3, 2}, 2);
    const auto model = runner(made, sound, 2);
    const auto refused = [&](Input in, const attendrite_request& r = {}) {
        Predictions rooms(made, in);
        const std::int64_t n = r.result != nullptr || r.site != 0 || r.statistic != 0 ? 1 : 0;
        return thrown_by([&] { model->run(in.batch, &r, n, rooms.rooms.data()); });
    };
    const auto changed = [&](auto&& change) {
        Input in(made, {3, 2}, 2);
        change(in);
        return refused(std::move(in));
    };
    CHECK(changed([](Input&) {}).empty());
    CHECK(contains(changed([](Input& in) { in.units[1] = 4; }), "units must be in 0..3, got 4"));
    CHECK(contains(changed([](Input& in) { in.units[0] = -1; }), "units must be in 0..3, got -1"));
    CHECK(contains(changed([](Input& in) { in.types[2] = 3; }), "types must be in 0..2, got 3"));
    CHECK(contains(changed([](Input& in) { in.times[0] = NAN; }), "times must be finite, got"));
    CHECK(contains(changed([](Input& in) { in.query_times[3] = INFINITY; }),
                   "query_times must be finite, got inf"));
    CHECK(contains(changed([](Input& in) { in.sessions[0] = 4; }),
                   "session_rows must be in 0..3, got 4"));
    CHECK(contains(changed([](Input& in) { in.task_rows[0] = 5; }),
                   "task_rows must be in 0..4, got 5"));
    CHECK(contains(changed([](Input& in) { in.count[1] = -1; }), "count must be at least 0"));
    CHECK(contains(changed([](Input& in) { in.first[0] = -1; }), "first must be at least 0"));
    CHECK(contains(changed([](Input& in) { in.batch.windows = -1; }), "windows must be at least"));
    CHECK(contains(changed([](Input& in) { in.batch.queries = -1; }), "queries must be at least"));
    CHECK(contains(changed([](Input& in) { in.batch.types = nullptr; }), "types must be given"));
    CHECK(contains(changed([](Input& in) { in.batch.task_rows = nullptr; }),
                   "task_rows must be given for a model with tasks, got none"));

    float room[64];
    const auto asking = [&](const attendrite_request& r) {
        return refused(Input(made, {3, 2}, 2), r);
    };
    CHECK(contains(asking({3, ATTENDRITE_LSE, 0, 0, room, nullptr}), "site of a request must"));
    CHECK(
        contains(asking({0, 12, 0, 0, room, nullptr}), "statistic of a request must be in 0..11"));
    CHECK(contains(asking({1, ATTENDRITE_PER_UNIT, 0, 0, room, nullptr}), "site 'processor.0'"));
    CHECK(contains(asking({0, ATTENDRITE_KEYS, 0, 0, room, nullptr}), "site 'encoder'"));
    CHECK(contains(asking({0, ATTENDRITE_TOP_K, 0, 0, room, room}), "k of a request must be at"));
    CHECK(contains(asking({0, ATTENDRITE_TOP_K, 0, 1, room, nullptr}), "must point to memory"));
    CHECK(contains(asking({1, ATTENDRITE_LSE, 0, 0, nullptr, nullptr}), "must point to memory"));

    Floats encoded(at(encoded_numbers(made, 2)), 0.5F);
    const auto given = [&](const attendrite_request& r, std::int64_t n) {
        Predictions rooms(made, sound);
        const std::string words = thrown_by([&] {
            model->run(without_tokens(sound.batch), &r, n, rooms.rooms.data(), encoded.data());
        });
        for (const Floats& numbers : rooms.numbers) {
            for (const float x : numbers) CHECK(std::isfinite(x) == words.empty());
        }
        return words;
    };
    const attendrite_request of_decoder{2, ATTENDRITE_ENTROPY, 0, 0, room, nullptr};
    CHECK(given(of_decoder, 1).empty());
    CHECK(contains(given({0, ATTENDRITE_ENTROPY, 0, 0, room, nullptr}, 1),
                   "site of a request must be after the encoder where its output is given, got 0"));
    encoded.back() = -INFINITY;
    CHECK(contains(given({}, 0), "encoded must be finite, got -inf"));
    encoded.back() = NAN;
    CHECK(contains(given({}, 0), "encoded must be finite, got "));

    const std::int64_t rows[] = {1, 9};
    CHECK(contains(thrown_by([&] { model->bind_units(rows, 2); }),
                   "rows of units must be in 1..8, got 9"));
    CHECK(contains(thrown_by([&] { model->set_threads(0); }), "threads must be at least 1"));
    CHECK(refused(sound).empty());  // nothing above has changed it
}

// What a bundle can lack or hold wrongly.
void bad_weights() {
    const Shape shape{8, 4, 1, 1, 1, 1, 2, 2};
    const auto refused = [&](auto&& change, const char* family = "poyo_plus") {
        Made made(family, shape);
        change(made);
        return thrown_by([&] { Model model(made.bundle); });
    };
    CHECK(refused([](Made&) {}).empty());
    const Made sound("poyo_plus", shape);
    for (const auto& entry : sound.bundle.weights) {
        const std::string& name = entry.first;
        CHECK(contains(refused([&](Made& m) { m.bundle.weights.erase(name); }),
                       "hold '" + name + "', got none of that name"));
        CHECK(contains(refused([&](Made& m) { m.bundle.weights[name].shape.push_back(1); }),
                       "weights '" + name + "' must have shape ["));
    }
    CHECK(contains(refused([](Made& m) { m.add("stranger", {2}, 1); }),
                   "weights of a poyo_plus model must all be known, got 'stranger'"));
    CHECK(contains(refused([](Made& m) { m.add("str\nange", {2}, 1); }), "got 'str?ange'"));
    CHECK(contains(refused([](Made& m) { m.bundle.family = "poyo9"; }), "model family must be"));
    for (const char* name : {"dim", "depth", "latent_step"}) {
        CHECK(contains(refused([&](Made& m) { m.bundle.config.erase(name); }),
                       "config '" + std::string(name) + "' must be a"));
    }
    CHECK(contains(refused([](Made& m) { m.bundle.config["depth"] = 0.5; }), "be an integer"));
    CHECK(contains(refused([](Made& m) { m.bundle.config["latent_step"] = 9; }), "divide"));
    CHECK(contains(refused([](Made& m) { m.bundle.tasks[0].id = 5; }), "id of task 'where'"));
    CHECK(contains(refused([](Made& m) { m.bundle.units["u"] = 9; }), "row of unit 'u' must be"));
    CHECK(contains(refused([](Made& m) { m.bundle.sessions["s"] = 4; }), "row of session 's'"));
}

// From the second run of a batch on, and after reserve() from the first, no memory is taken.
void memory() {
#if defined(COUNTS_MEMORY)
    for (const char* family : kFamilies) {
        const Made made(family, {8, 64, 16, 1, 2, 1, 3, 4});
        const Input in(made, {40, 0, 1000}, 3);
        const Input one(made, {5000}, 3);
        const Input many(made, Indices(12, 700), 3);
        for (const int threads : {1, 3}) {
            const auto model = runner(made, in, threads);
            Asked asked(made, in);
            const auto n = static_cast<std::int64_t>(asked.requests.size());
            const auto taken = [&](Runner& by, const Input& input, std::int64_t n_requests) {
                Predictions rooms(made, input);
                const long before = requests_for_memory;
                by.run(input.batch, asked.requests.data(), n_requests, rooms.rooms.data());
                return requests_for_memory - before;
            };
            CHECK(taken(*model, in, n) > 0);
            CHECK(taken(*model, in, n) == 0);
            CHECK(taken(*model, in, 0) == 0);
            CHECK(taken(*model, one, 0) > 0);
            CHECK(taken(*model, one, 0) == 0);
            CHECK(taken(*model, in, n) == 0);
            CHECK(taken(*model, many, 0) >= 0);
            CHECK(taken(*model, many, 0) == 0);

            const auto taken_encoded = [&](Runner& by, const Input& input) {
                Predictions rooms(made, input);
                const Floats encoded(at(encoded_numbers(made, input.batch.windows)), 0.5F);
                const attendrite_batch queries = without_tokens(input.batch);
                const long before = requests_for_memory;
                by.run(queries, nullptr, 0, rooms.rooms.data(), encoded.data());
                return requests_for_memory - before;
            };
            Runner fresh(std::make_shared<Model>(made.bundle), threads);
            CHECK(taken_encoded(fresh, in) > 0);
            CHECK(taken_encoded(fresh, in) == 0);
            CHECK(taken_encoded(fresh, many) >= 0);
            CHECK(taken_encoded(fresh, many) == 0);
            CHECK(taken_encoded(*model, many) == 0);  // which has run more
            Runner made_ready(std::make_shared<Model>(made.bundle), threads);
            made_ready.reserve(12, 0, 0, 3);
            CHECK(taken_encoded(made_ready, in) == 0);
            CHECK(taken_encoded(made_ready, many) == 0);

            const auto reserved = runner(made, in, threads);
            reserved->reserve(12, 60000, 5000, 3);
            std::vector<attendrite_request> common;
            for (const attendrite_request& r : asked.requests) {
                const auto s = r.statistic;
                const bool sums = s == ATTENDRITE_PER_UNIT || s == ATTENDRITE_PER_KEY;
                const bool of_queries = s == ATTENDRITE_ENTROPY || s == ATTENDRITE_LSE;
                if ((sums || of_queries) && r.spikes_only == 0) common.push_back(r);
            }
            asked.requests.swap(common);
            const auto n_common = static_cast<std::int64_t>(asked.requests.size());
            CHECK(taken(*reserved, in, n_common) == 0);
            CHECK(taken(*reserved, in, 0) == 0);
            CHECK(taken(*reserved, many, 0) == 0);
            CHECK(taken(*reserved, one, 0) == 0);
        }
    }
#else
    std::printf("memory is not counted here\n");
#endif
}

void tokens_of_spikes() {
    const Made made("poyo", {8, 4, 1, 1, 1, 0, 2, 2});
    const Input in(made, {1}, 1);
    const auto model = runner(made, in, 1);
    const Doubles times = {0.1, 0.2};
    const Indices units = {3, 0};
    Doubles out_times(10);
    Indices out_units(10), out_types(10);
    CHECK(model->tokens(times.data(), units.data(), 2, out_times.data(), out_units.data(),
                        out_types.data()) == 10);
    CHECK(out_units == (Indices{0, 0, 1, 1, 2, 2, 3, 3, 3, 0}));
    CHECK(out_types == (Indices{1, 2, 1, 2, 1, 2, 1, 2, 0, 0}));
    CHECK(out_times == (Doubles{0, 0.5, 0, 0.5, 0, 0.5, 0, 0.5, 0.1, 0.2}));
}

}  // namespace

int main() {
    on_every_level([] {
        for (const char* family : kFamilies) {
            for (const Shape& shape : std::vector<Shape>{{12, 8, 2, 2, 3, 2, 3, 4},
                                                         {8, 4, 2, 1, 2, 0, 1, 1},  // all turns
                                                         {8, 6, 0, 2, 1, 1, 2, 3},  // nothing does
                                                         {16, 8, 2, 1, 2, 1, 20, 5}}) {
                const Made made(family, shape);
                against_plain_loops(made, Input(made, {17, 0, 90}, 5));
                against_plain_loops(made, Input(made, {33}, 0));
                against_plain_loops(made, Input(made, {0}, 1));
                many_windows(made);
                from_encoded(made, Input(made, {17, 0, 90}, 5));
                from_encoded(made, Input(made, {3, 0}, 0));
                from_encoded(made, Input(made, {3, 0, 50, 1, 9, 70, 2, 2, 31, 4, 0, 8, 20}, 2));
            }
        }
        memory();
    });
    bad_input();
    bad_weights();
    tokens_of_spikes();
    return failures() == 0 ? 0 : 1;
}
