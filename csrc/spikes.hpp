// Spikes and bins as the kernels see them: plain views, nothing owned. Includable by levels/.
#pragma once

#include <cstdint>

namespace attendrite {

enum class CountType { u8, u16, i32, f32 };
enum class UnitType { i32, u16 };

// The bins: a spike at t [s] has tick rint(t * tick_rate) and lies in bin
// floor((tick - start) / width); bins 0..n_bins-1 exist. Ticks of all edges lie within +-2^50, so
// that they are exact doubles.
struct Grid {
    double tick_rate;    // [Hz]
    std::int64_t start;  // [ticks]
    std::int64_t width;  // [ticks], >= 1
    std::int64_t n_bins;
};

// Spikes of all units in time order; fewer than 2^31.
struct FlatSpikes {
    const double* times;  // [n], s
    const void* units;    // [n] of unit_type, each in 0..n_units-1
    UnitType unit_type;
    std::int64_t n;
    std::int64_t n_units;
};

// Spikes unit by unit, in time order within a unit: those of unit u are
// times[offsets[u]] .. times[offsets[u + 1] - 1]; fewer than 2^31.
struct UnitSpikes {
    const double* times;          // [n], s
    const std::int64_t* offsets;  // [n_units + 1], from 0 to n, never decreasing
    std::int64_t n;
    std::int64_t n_units;
};

}  // namespace attendrite
