// POYO tokens of many windows: START and END of every unit, and its spikes.
#pragma once

#include <cstdint>

#include "tokens_table.hpp"

namespace attendrite {

// The tokens of each window where `windows.exists` is given: 2 for every unit that exists and 1 for
// every spike of such a unit.
// Returns the first window with a unit out of range, or -1; `lengths` is then undefined.
std::int64_t count_tokens(const TokenWindows& windows, std::int64_t* lengths, int threads);

// Writes all tokens, sorted by unit where `target.unit_offsets` is given, else in time order.
// Returns the first window with an unsorted, non-finite or outlying time or a unit out of range, or
// -1; the tokens are then undefined.
std::int64_t write_tokens(const TokenWindows& windows, const TokenTarget& target, int threads);

// For each start, the first spike at or after the tick of the start, and at or after that tick plus
// `length_ticks`; a time counts as the tick rint(time * tick_rate). `times` is sorted.
void window_ranges(const double* times, std::int64_t n, const double* starts,
                   std::int64_t n_windows, double length_ticks, double tick_rate,
                   std::int64_t* begin, std::int64_t* end);

}  // namespace attendrite
