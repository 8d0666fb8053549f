// Spikes in time order and spikes by unit: both directions, stable.
#pragma once

#include <cstdint>

namespace attendrite {

// Sorts spikes by unit, keeping their order within each. `offsets` [n_units + 1] receives where
// each unit starts. Returns false, with the outputs undefined, when a time is not finite or smaller
// than the one before it, or a unit is out of range.
bool group_by_unit(const double* times, const std::int32_t* units, std::int64_t n,
                   std::int64_t n_units, double* times_by_unit, std::int64_t* offsets, int threads);

// Merges the times of all units, unit u at offsets[u]..offsets[u + 1] - 1, into one time order;
// equal times stay in the order of their units. Returns false, with the outputs undefined, when a
// time is not finite or smaller than the one before it in its unit.
bool merge_units(const double* times_by_unit, const std::int64_t* offsets, std::int64_t n_units,
                 double* times, std::int32_t* units, int threads);

}  // namespace attendrite
