// One window of a run, on one thread or shared by several: its tokens are brought into the order of
// their table rows; then each layer is one call of attention() and one region in which threads take
// blocks of rows through all that lies between two attentions.
#pragma once

#include <cstdint>

#include "arena.hpp"
#include "attendrite.h"
#include "captures.hpp"
#include "model_parts.hpp"

namespace attendrite {

// What a run is given.
struct Given {
    const Model::Parts& parts;
    const UnitTables& tables;
    const attendrite_batch& batch;
    const attendrite_request* requests;
    float* const* predictions;
    const float* encoded;         // what the encoder's attention gives; or nullptr: from tokens
    const std::int64_t* earlier;  // [windows][read-outs] rows of each that belong to windows before
    Sizes sizes;
};

// Where windows are run, one at a time.
struct Place {
    Memory rooms, workspace;
};

// Numbers that the encoder's attention gives for a window.
inline std::int64_t encoded_numbers(const Model::Parts& parts) {
    return parts.info.latents * parts.inner;
}

// Computes a window of a batch that has been checked. Takes no memory that the place has already.
void run_window(const Given&, Place&, int threads, std::int64_t window);

// Takes the memory that a window needs with the common statistics at every site. Of what is given,
// the batch is not read.
void reserve_window(const Given&, Place&, int threads);

}  // namespace attendrite
