#include "model_parts.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <set>
#include <stdexcept>

#include "attention.hpp"
#include "threads.hpp"

namespace attendrite {

void refuse(const std::string& what, const std::string& be, const std::string& got) {
    throw std::invalid_argument(what + " must " + be + ", got " + got);
}

namespace {

using Shape = std::vector<std::int64_t>;

// The limits of engine/models/_perceiver.py.
constexpr std::int64_t kMostLatents = 1 << 16;
constexpr double kMostSteps = 1 << 16, kMostLayers = 1024, kWidest = 1 << 16, kLongest = 1e6;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::string text(double x) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%g", x);
    return buffer;
}

// A foreign name as one printable line.
std::string quoted(std::string name) {
    for (char& c : name) {
        if (c < ' ' || c > '~') c = '?';
    }
    return "'" + name + "'";
}

std::string text(const Shape& shape) {
    std::string out = "[";
    for (const std::int64_t n : shape) {
        if (out.size() > 1) out += ", ";
        out += std::to_string(n);
    }
    return out + "]";
}

// The weights of a bundle, checked as they are asked for.
class Weights {
  public:
    explicit Weights(const Bundle& bundle) : bundle_(bundle) {}

    // -1: any length.
    const Tensor& tensor(const std::string& name, const Shape& shape) {
        const Tensor& found = named(name);
        bool fits = found.shape.size() == shape.size();
        for (std::size_t i = 0; fits && i < shape.size(); ++i) {
            fits = shape[i] == found.shape[i] || (shape[i] < 0 && found.shape[i] > 0);
        }
        if (!fits) refuse("weights '" + name + "'", "have shape " + text(shape), text(found.shape));
        return found;
    }

    Doubles doubles(const std::string& name, const Shape& shape) {
        return tensor(name, shape).doubles();
    }

    // [rows][width], with as many rows as there are.
    Floats table(const std::string& name, std::int64_t width, std::int64_t* rows) {
        const Tensor& found = tensor(name, {-1, width});
        *rows = found.shape[0];
        return found.floats();
    }

    void check_all_known() const {
        for (const auto& [name, tensor] : bundle_.weights) {
            if (asked_.count(name) == 0) {
                refuse("weights of a " + bundle_.family + " model", "all be known", quoted(name));
            }
        }
    }

  private:
    const Tensor& named(const std::string& name) {
        const auto found = bundle_.weights.find(name);
        if (found == bundle_.weights.end()) {
            refuse("weights of a " + bundle_.family + " model", "hold '" + name + "'",
                   "none of that name");
        }
        asked_.insert(name);
        return found->second;
    }

    const Bundle& bundle_;
    std::set<std::string> asked_;
};

// W x + b.
struct Projection {
    std::int64_t outputs, inputs;
    Doubles weights, bias;
};

// Of features that are normalised, but neither scaled nor shifted yet.
Projection after_norm(Weights& weights, const std::string& norm, Projection p) {
    const Doubles gain = weights.doubles(norm + ".weight", {p.inputs});
    const Doubles offset = weights.doubles(norm + ".bias", {p.inputs});
    for (std::int64_t i = 0; i < p.outputs; ++i) {
        for (std::int64_t j = 0; j < p.inputs; ++j) {
            double& w = p.weights[at(i * p.inputs + j)];
            p.bias[at(i)] += w * offset[at(j)];
            w *= gain[at(j)];
        }
    }
    return p;
}

Projection projection(Weights& weights, const std::string& name, std::int64_t outputs,
                      std::int64_t inputs, bool biased) {
    Projection p{outputs, inputs, weights.doubles(name + ".weight", {outputs, inputs}), {}};
    p.bias = biased ? weights.doubles(name + ".bias", {outputs}) : Doubles(at(outputs), 0.0);
    return p;
}

// The outputs of p in the order of `order`, head after head.
Projection reordered(const Projection& p, const std::vector<std::int64_t>& order) {
    Projection out = p;
    const auto width = static_cast<std::int64_t>(order.size());
    for (std::int64_t to = 0; to < p.outputs; ++to) {
        const std::int64_t from = to / width * width + order[at(to % width)];
        std::copy_n(p.weights.begin() + from * p.inputs, p.inputs,
                    out.weights.begin() + to * p.inputs);
        out.bias[at(to)] = p.bias[at(from)];
    }
    return out;
}

// A p that takes its inputs in that order.
Projection taking(const Projection& p, const std::vector<std::int64_t>& order) {
    Projection out = p;
    const auto width = static_cast<std::int64_t>(order.size());
    for (std::int64_t row = 0; row < p.outputs; ++row) {
        for (std::int64_t to = 0; to < p.inputs; ++to) {
            const std::int64_t from = to / width * width + order[at(to % width)];
            out.weights[at(row * p.inputs + to)] = p.weights[at(row * p.inputs + from)];
        }
    }
    return out;
}

Floats rounded(const Doubles& x) { return Floats(x.begin(), x.end()); }

Linear packed(const Projection& p, Precision precision, After after = After::nothing,
              bool biased = true) {
    const Floats weights = rounded(p.weights);
    const Floats bias = rounded(p.bias);
    return Linear(weights.data(), p.outputs, p.inputs, biased ? bias.data() : nullptr, after, 0,
                  precision);
}

Doubles product(const Projection& p, const double* x) {
    Doubles y(at(p.outputs), 0.0);
    for (std::int64_t i = 0; i < p.outputs; ++i) {
        y[at(i)] = std::inner_product(x, x + p.inputs, p.weights.begin() + i * p.inputs, 0.0);
    }
    return y;
}

double mean_product(const double* x, const double* y, std::int64_t n) {
    return std::inner_product(x, x + n, y, 0.0) / static_cast<double>(n);
}

void centre(double* x, std::int64_t n) {
    const double mean = std::accumulate(x, x + n, 0.0) / static_cast<double>(n);
    for (std::int64_t i = 0; i < n; ++i) x[i] -= mean;
}

double seconds(const Bundle& bundle, const char* name) {
    const auto found = bundle.config.find(name);
    const double value = found == bundle.config.end() ? NAN : found->second;
    if (!(value > 0 && value <= kLongest)) {
        refuse("config '" + std::string(name) + "'",
               "be a number of seconds > 0, at most " + text(kLongest), text(value));
    }
    return value;
}

std::int64_t whole(const Bundle& bundle, const char* name, double low, double most) {
    const auto found = bundle.config.find(name);
    const double value = found == bundle.config.end() ? NAN : found->second;
    if (!(value >= low && value <= most && value == std::floor(value))) {
        refuse("config '" + std::string(name) + "'",
               "be an integer, " + text(low) + ".." + text(most), text(value));
    }
    return static_cast<std::int64_t>(value);
}

void check_rows(const char* what, const Vocabulary& vocabulary, std::int64_t rows) {
    for (const auto& [name, row] : vocabulary) {
        if (row < 1 || row >= rows) {
            refuse("row of " + std::string(what) + " " + quoted(name),
                   "be 1.." + std::to_string(rows - 1), std::to_string(row));
        }
    }
}

// Makes the parts of one bundle, in the order of the functions.
class Maker {
  public:
    Maker(const Bundle& bundle, Precision precision, Model::Parts& parts)
        : b_(bundle), precision_(precision), w_(bundle), p_(parts) {}

    void make() {
        sizes();
        rotation();
        layers();
        latents();
        tokens();
        queries();
        w_.check_all_known();
    }

  private:
    void sizes() {
        for (const char* known : {"poyo", "poyo_plus", "calcium_poyo_plus"}) {
            if (b_.family == known) family_known_ = true;
        }
        if (!family_known_) {
            refuse("model family", "be poyo, poyo_plus or calcium_poyo_plus",
                   quoted(b_.family) + "; upgrade attendrite");
        }
        p_.info = {};
        p_.info.sequence_length = seconds(b_, "sequence_length");
        const double step = seconds(b_, "latent_step");
        const double steps = p_.info.sequence_length / step;
        if (!(steps >= 1 && steps <= kMostSteps)) {
            refuse("config 'latent_step'",
                   "divide sequence_length into 1.." + text(kMostSteps) + " steps",
                   text(steps) + " steps");
        }
        per_step_ = whole(b_, "num_latents_per_step", 1, kWidest);
        dim_ = whole(b_, "dim", 1, kWidest);
        p_.width = whole(b_, "dim_head", 1, kWidest);
        depth_ = whole(b_, "depth", 0, kMostLayers);
        cross_ = whole(b_, "cross_heads", 1, kWidest);
        self_ = whole(b_, "self_heads", 1, kWidest);
        p_.inner = cross_ * p_.width;
        p_.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(p_.width)));
        const auto n_steps = static_cast<std::int64_t>(std::ceil(steps));
        if (n_steps * per_step_ > kMostLatents) {
            refuse("latents of a window", "be at most " + std::to_string(kMostLatents),
                   std::to_string(n_steps * per_step_));
        }
        for (std::int64_t i = 0; i < n_steps * per_step_; ++i) {
            p_.latent_times.push_back(static_cast<double>(i / per_step_) * step + step / 2);
        }
        p_.info.dim = dim_;
        p_.info.latents = n_steps * per_step_;
        p_.info.sites = depth_ + 2;
        p_.info.takes_values = b_.family == "calcium_poyo_plus" ? 1 : 0;
        p_.tokens.has_values = p_.info.takes_values != 0;
        if (p_.tokens.has_values && dim_ % 2 != 0) {
            refuse("config 'dim'", "be even, for value and unit share it", std::to_string(dim_));
        }
        p_.units = b_.units;
        p_.sessions = b_.sessions;
        p_.tasks = b_.tasks;
    }

    void rotation() {
        p_.omega = w_.doubles("rotary_emb.omega", {p_.width / 2});
        while (!p_.omega.empty() && p_.omega.back() == 0) p_.omega.pop_back();
        const auto pairs = static_cast<std::int64_t>(p_.omega.size());
        for (std::int64_t i = 0; i < p_.width; ++i) {
            const std::int64_t half = i < pairs ? 0 : 1;
            p_.order.push_back(i < 2 * pairs ? 2 * (i - half * pairs) + half : i);
        }
        p_.latent_phase.resize(at(2 * pairs * p_.info.latents));
        phases(p_.latent_times.data(), p_.info.latents, p_.omega.data(), pairs,
               p_.latent_phase.data(), 1);
    }

    // Queries, keys or values, whatever a layer projects: of normalised features, reordered.
    Projection heads(const std::string& norm, const std::string& name, std::int64_t outputs) {
        return reordered(after_norm(w_, norm, projection(w_, name, outputs, dim_, false)),
                         p_.order);
    }

    Layer layer(const std::string& site, std::int64_t n_heads, const std::string& attention,
                const std::string& feed_forward) {
        Layer out{};
        out.site = site;
        out.heads = n_heads;
        out.out = packed(
            taking(projection(w_, attention + ".to_out", dim_, n_heads * p_.width, true), p_.order),
            precision_);
        out.up = packed(after_norm(w_, feed_forward + ".0",
                                   projection(w_, feed_forward + ".1.net.0", 8 * dim_, dim_, true)),
                        precision_, After::gated);
        out.down =
            packed(projection(w_, feed_forward + ".1.net.3", dim_, 4 * dim_, true), precision_);
        return out;
    }

    void layers() {
        p_.layers.push_back(layer("encoder", cross_, "enc_atn", "enc_ffn"));
        p_.layers.back().has_units = true;
        for (std::int64_t i = 0; i < depth_; ++i) {
            const std::string name = "proc_layers." + std::to_string(i);
            p_.layers.back().next = packed(
                heads(name + ".0.norm", name + ".0.to_qkv", 3 * self_ * p_.width), precision_);
            p_.layers.push_back(
                layer("processor." + std::to_string(i), self_, name + ".0", name + ".1"));
        }
        for (Layer& made : p_.layers) made.turns_values = true;
        p_.layers.back().next =
            packed(heads("dec_atn.norm_context", "dec_atn.to_kv", 2 * p_.inner), precision_);
        p_.layers.push_back(layer("decoder", cross_, "dec_atn", "dec_ffn"));
        p_.ask = packed(heads("dec_atn.norm", "dec_atn.to_q", p_.inner), precision_);
    }

    void latents() {
        const Doubles table = w_.doubles("latent_emb.weight", {per_step_, dim_});
        const Projection ask = heads("enc_atn.norm", "enc_atn.to_q", p_.inner);
        Doubles queries;
        for (std::int64_t i = 0; i < per_step_; ++i) {
            Doubles x(table.begin() + i * dim_, table.begin() + (i + 1) * dim_);
            centre(x.data(), dim_);
            const double by = 1 / std::sqrt(mean_product(x.data(), x.data(), dim_) +
                                            static_cast<double>(kNormEps));
            for (double& feature : x) feature *= by;
            const Doubles q = product(ask, x.data());
            for (std::int64_t j = 0; j < p_.inner; ++j) {
                queries.push_back(q[at(j)] + ask.bias[at(j)]);
            }
        }
        for (std::int64_t i = 0; i < p_.info.latents; ++i) {
            const std::int64_t from = i % per_step_;
            p_.latents.insert(p_.latents.end(), table.begin() + from * dim_,
                              table.begin() + (from + 1) * dim_);
            p_.encoder_queries.insert(p_.encoder_queries.end(), queries.begin() + from * p_.inner,
                                      queries.begin() + (from + 1) * p_.inner);
        }
        if (!p_.tokens.has_values) still();
    }

    // Latents of one step differ from those of another in their phase alone.
    void still() {
        const auto turning = static_cast<std::int64_t>(2 * p_.omega.size());
        if (turning == 0 || turning == p_.width) return;
        const auto lanes = [](std::int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; };
        p_.still_period = std::min(std::lcm(per_step_, kLanes), lanes(p_.info.latents));
        for (std::int64_t h = 0; h < cross_; ++h) {
            Floats queries;
            for (std::int64_t i = 0; i < p_.still_period; ++i) {
                const auto q = p_.encoder_queries.begin() + i % per_step_ * p_.inner + h * p_.width;
                queries.insert(queries.end(), q + turning, q + p_.width);
            }
            p_.still.emplace_back(queries.data(), p_.still_period, p_.width - turning, nullptr);
        }
    }

    void tokens() {
        TokenParts& t = p_.tokens;
        t.unit_width = t.has_values ? dim_ / 2 : dim_;
        t.units = w_.table("unit_emb.weight", t.unit_width, &t.unit_rows);
        check_rows("unit", p_.units, t.unit_rows);
        constexpr std::int64_t kStoredTypes = 4;  // the last one is never used
        t.added = w_.doubles("token_type_emb.weight", {kStoredTypes, dim_});
        t.kinds = kSpikeTypes;
        if (t.has_values) {
            t.kinds = 1;
            t.added = w_.doubles("input_value_map.weight", {dim_ / 2, 1});
            t.before = w_.doubles("input_value_map.bias", {dim_ / 2});
        }
        t.added.resize(at(t.kinds * dim_), 0.0);
        const Projection p = heads("enc_atn.norm_context", "enc_atn.to_kv", 2 * p_.inner);
        for (std::int64_t kind = 0; kind < t.kinds; ++kind) {
            double* const x = t.added.data() + kind * dim_;
            centre(x, dim_);
            const Doubles projected = product(p, x);
            t.added_projected.insert(t.added_projected.end(), projected.begin(), projected.end());
        }
        t.project = packed(p, Precision::float32, After::nothing, false);
        t.offset = rounded(p.bias);
    }

    void queries() {
        p_.session_table = w_.table("session_emb.weight", dim_, &p_.session_rows);
        check_rows("session", p_.sessions, p_.session_rows);
        if (b_.family == "poyo") {
            if (!p_.tasks.empty()) {
                refuse("tasks of a poyo model", "be none", std::to_string(p_.tasks.size()));
            }
            p_.info.width = w_.tensor("readout.weight", {-1, dim_}).shape[0];
            p_.readouts.push_back(read_out("readout", p_.info.width));
            return;
        }
        p_.task_table = w_.table("task_emb.weight", dim_, &p_.task_rows);
        p_.info.tasks = static_cast<std::int64_t>(p_.tasks.size());
        for (const TaskFact& task : p_.tasks) {
            if (task.id < 1 || task.id >= p_.task_rows) {
                refuse("id of task '" + task.name + "'",
                       "be 1.." + std::to_string(p_.task_rows - 1), std::to_string(task.id));
            }
            p_.readouts.push_back(read_out("readout.projections." + task.name, task.width));
        }
    }

    Linear read_out(const std::string& name, std::int64_t width) {
        return packed(projection(w_, name, width, dim_, true), Precision::float32);
    }

    const Bundle& b_;
    const Precision precision_;
    Weights w_;
    Model::Parts& p_;
    std::int64_t per_step_ = 0, dim_ = 0, depth_ = 0, cross_ = 0, self_ = 0;
    bool family_known_ = false;
};

}  // namespace

Model::Model(const Bundle& bundle, Precision precision) {
    auto parts = std::make_unique<Parts>();
    Maker(bundle, precision, *parts).make();
    parts_ = std::move(parts);
}

Model::~Model() = default;

namespace {

constexpr std::int64_t kUnitRows = 64;  // units that a task works on

// Tables of some of the units.
void fill_tables(const Model::Parts& parts, UnitTables& tables, std::int64_t first,
                 std::int64_t n) {
    const TokenParts& t = parts.tokens;
    const std::int64_t dim = parts.info.dim;
    const std::int64_t columns = 2 * parts.inner;
    Doubles embedded(at(n * dim));
    for (std::int64_t i = 0; i < n; ++i) {
        double* const x = embedded.data() + i * dim;
        const auto own = t.units.begin() + tables.rows[at(first + i)] * t.unit_width;
        std::copy(own, own + t.unit_width, std::copy(t.before.begin(), t.before.end(), x));
        centre(x, dim);
    }
    const Floats centred = rounded(embedded);
    if (t.has_values) {
        t.project(centred.data(), n, dim, nullptr, 0, tables.keys_values.data() + first * columns,
                  columns);
        for (std::int64_t i = 0; i < n; ++i) {
            const double* const x = embedded.data() + i * dim;
            tables.variances[at(2 * (first + i))] = mean_product(x, x, dim);
            tables.variances[at(2 * (first + i) + 1)] = 2 * mean_product(x, t.added.data(), dim);
        }
        return;
    }
    Floats own(at(n * columns));
    t.project(centred.data(), n, dim, nullptr, 0, own.data(), columns);
    Doubles whole(at(dim));
    for (std::int64_t i = 0; i < n * t.kinds; ++i) {
        const std::int64_t unit = i / t.kinds;
        const std::int64_t kind = i % t.kinds;
        std::transform(embedded.begin() + unit * dim, embedded.begin() + (unit + 1) * dim,
                       t.added.begin() + kind * dim, whole.begin(), std::plus<>());
        const auto by =
            static_cast<float>(1 / std::sqrt(mean_product(whole.data(), whole.data(), dim) +
                                             static_cast<double>(kNormEps)));
        const float* const a = own.data() + unit * columns;
        const float* const b = t.added_projected.data() + kind * columns;
        float* const row = tables.keys_values.data() + (first * t.kinds + i) * columns;
        for (std::int64_t j = 0; j < columns; ++j) {
            row[j] = (a[j] + b[j]) * by + t.offset[at(j)];
        }
    }
    const auto turning = static_cast<std::int64_t>(2 * parts.omega.size());
    const auto n_rows = static_cast<std::int64_t>(tables.rows.size()) * t.kinds;
    for (std::size_t h = 0; h < parts.still.size(); ++h) {
        const auto head = static_cast<std::int64_t>(h);
        const float* const keys =
            tables.keys_values.data() + first * t.kinds * columns + head * parts.width + turning;
        parts.still[h](
            keys, n * t.kinds, columns, nullptr, 0,
            tables.still_scores.data() + (head * n_rows + first * t.kinds) * parts.still_period,
            parts.still_period);
    }
}

}  // namespace

std::shared_ptr<const UnitTables> make_tables(const Model::Parts& parts, const std::int64_t* rows,
                                              std::int64_t n, int threads) {
    const TokenParts& t = parts.tokens;
    for (std::int64_t i = 0; i < n; ++i) {
        if (rows[i] < 1 || rows[i] >= t.unit_rows) {
            refuse("rows of units", "be in 1.." + std::to_string(t.unit_rows - 1),
                   std::to_string(rows[i]));
        }
    }
    auto tables = std::make_shared<UnitTables>();
    tables->rows.assign(rows, rows + n);
    tables->keys_values.resize(at(n * t.kinds * 2 * parts.inner));
    tables->still_scores.resize(parts.still.size() * at(n * t.kinds * parts.still_period));
    if (t.has_values) {
        tables->variances.resize(at(2 * n));
        tables->added_variance = mean_product(t.added.data(), t.added.data(), parts.info.dim);
    }
    parallel_for((n + kUnitRows - 1) / kUnitRows, threads, [&](std::int64_t task) {
        const std::int64_t first = task * kUnitRows;
        fill_tables(parts, *tables, first, std::min(kUnitRows, n - first));
    });
    return tables;
}

}  // namespace attendrite
