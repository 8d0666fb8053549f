// Steps of streaming binning, once per instruction-set level: see levels.hpp. Only stream_bins.cpp
// calls them.
#pragma once

#include <cstdint>

#include "levels.hpp"
#include "spikes.hpp"

namespace attendrite {

struct StreamTable {
    double (*bin_start)(const Grid&, std::int64_t bin);  // as DenseTable::bin_edges

    // Are the spikes sorted, finite, not before `earliest`, and of known units?
    bool (*valid)(const FlatSpikes&, double earliest);

    // First spike at or after the edge, from `begin` on.
    std::int64_t (*find_end)(const FlatSpikes&, std::int64_t begin, double edge);

    // Adds spikes begin..end-1 to counts per unit.
    void (*add)(const FlatSpikes&, std::int64_t begin, std::int64_t end, std::uint32_t* counts);

    // Writes counts as `type`; false when one does not fit.
    bool (*convert)(const std::uint32_t* counts, std::int64_t n_units, CountType type, void* out);
};

ATTENDRITE_DECLARE_TABLE(StreamTable, stream_table)

}  // namespace attendrite
