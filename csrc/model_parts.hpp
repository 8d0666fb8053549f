// What a model is made of once its weights are bound, and what its units are made of: all that no
// run changes. model_parts.cpp makes both; window.cpp runs them.
//
// Layer normalisation's gain is folded into the projection that follows it, its offset into a bias.
// Features of a head are reordered where weights are bound: of the pairs that turn the first
// partners come first, then the second ones, then what does not turn; to_out takes them so. Before
// it turns, a token is the sum of what its unit is and of what is added to it (its type, or its
// dF/F times a vector), normalised and projected. Both parts are projected here, once, so that
//
//     keys, values = (unit + v added) / sqrt(variance(unit + v added) + eps) + offset
//
// with v = 1 for spikes. All folds are made in double.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "blocks.hpp"
#include "model.hpp"

namespace attendrite {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Vocabulary = std::map<std::string, std::int64_t, std::less<>>;

constexpr float kNormEps = 1e-5F;
constexpr std::int64_t kSpikeTypes = 3;  // spike, START, END

// An attention layer and what follows it.
struct Layer {
    std::string site;
    std::int64_t heads;
    bool has_units;     // keys are tokens
    bool turns_values;  // values are relative in time
    Linear out;         // [heads width] to [dim], added to latents or queries
    Linear up, down;    // the gated feed-forward part, added too
    Linear next;  // projections of the next site, of normalised latents; nothing after the last
};

// How tokens become keys and values [2 inner]; see above.
struct TokenParts {
    Floats units;  // [unit_rows][unit_width], as stored
    std::int64_t unit_rows, unit_width;
    Doubles before;          // features of every unit before its own ones: [dim - unit_width]
    Linear project;          // of a centred embedding
    Floats offset;           // [2 inner]
    std::int64_t kinds;      // 3: types; 1: the values' vector
    Doubles added;           // [kinds][dim], centred
    Floats added_projected;  // [kinds][2 inner]
    bool has_values;
};

struct Model::Parts {
    attendrite_model_info info;
    std::vector<Layer> layers;  // encoder, processor, decoder
    std::vector<TaskFact> tasks;
    Vocabulary units, sessions;

    std::int64_t width, inner;        // of a head, of encoder and decoder
    std::vector<std::int64_t> order;  // place i of a head holds the model's feature order[i]
    Doubles omega;                    // rad/s, of the pairs that turn
    float scale;                      // of scores

    TokenParts tokens;
    Floats latents;             // at rest, [latents][dim]
    Doubles latent_times;       // s
    Floats latent_phase;        // [latents][2][pairs]
    Floats encoder_queries;     // [latents][inner]
    std::vector<Linear> still;  // by head: products of the features that do not turn with those
                                // of latents 0..still_period - 1; none for calcium
    std::int64_t still_period;

    Floats session_table, task_table;  // [rows][dim]
    std::int64_t session_rows, task_rows;
    Linear ask;                    // queries of the decoder, of normalised embeddings
    std::vector<Linear> readouts;  // one, or one for each task
};

// Tables of bound units.
struct UnitTables {
    std::vector<std::int64_t> rows;  // of the unit table
    Floats keys_values;              // spikes: [units][types][2 inner]; calcium: [units][2 inner],
                                     // the unit's part alone
    Floats still_scores;             // [heads][units types][still_period]; spikes
    Doubles variances;               // [units][2] of the unit's part, and twice its covariance with
                                     // the values' vector; calcium
    double added_variance;           // of that vector
};

// Raises std::invalid_argument for rows that are no unit's.
std::shared_ptr<const UnitTables> make_tables(const Model::Parts&, const std::int64_t* rows,
                                              std::int64_t n, int threads);

// `what must be, got value`: thrown as std::invalid_argument.
[[noreturn]] void refuse(const std::string& what, const std::string& be, const std::string& got);

}  // namespace attendrite
