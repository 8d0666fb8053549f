// The slow second look at spikes that a kernel found at fault: which value is the first bad one.
#pragma once

#include <cstdint>
#include <string>

#include "spikes.hpp"

namespace attendrite {

// A float64 as Python writes it: 3.1, 5.0, 1e-07, nan.
std::string text_of(double value);

// Throws std::invalid_argument when the grid breaks what spikes.hpp says about it.
void check_grid(const Grid& grid);

// Throw std::invalid_argument for the first fault of the spikes, in the order: finite, sorted,
// known units, inside the bins (unless `drop`), counts that fit. They never return.
[[noreturn]] void throw_fault(const FlatSpikes& spikes, const Grid& grid, CountType type,
                              bool drop);
[[noreturn]] void throw_fault(const UnitSpikes& spikes, const Grid& grid, CountType type,
                              bool drop);

// The single faults, for callers that know where they are.
[[noreturn]] void throw_not_finite(std::int64_t index, double time);
[[noreturn]] void throw_unsorted(std::int64_t index, double time, double before);
[[noreturn]] void throw_unknown_unit(std::int64_t index, std::int64_t unit, std::int64_t n_units);
[[noreturn]] void throw_overflow(CountType type, std::int64_t count, std::int64_t unit,
                                 std::int64_t bin);

std::int64_t largest_count(CountType type);
std::int64_t unit_at(const FlatSpikes& spikes, std::int64_t index);

}  // namespace attendrite
