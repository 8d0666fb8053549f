// Dense binning, once per instruction-set level: see levels.hpp. Only binning.cpp calls it.
//
// The kernels trust nothing about times and units: they check as they go and write nowhere else
// than where they may. They report that something is wrong; what it is, a second, slow look finds.
#pragma once

#include <cstdint>

#include "levels.hpp"
#include "spikes.hpp"

namespace attendrite {

enum class Fault { none, bad_spikes, overflow };

// The part of a call that one task does: bins first..last-1.
struct BinRange {
    std::int64_t first, last;
};

struct SpikeRange {
    std::int64_t begin, end;
};

struct DenseOut {
    CountType type;
    void* counts;      // the whole [n_bins, n_units] or [n_units, n_bins]; need not be zeroed
    bool past_caches;  // how it is written: see levels/lines.hpp
};

// Bytes of a cache line.
constexpr std::int64_t kLine = 64;
// Bytes that a buffer needs beside its largest piece: see levels/lines.hpp.
constexpr std::int64_t kLineRoom = 3 * kLine;

struct DenseTable {
    // out[i] = the smallest time whose tick is at or after the start of bin first + i.
    void (*bin_edges)(const Grid&, std::int64_t first, std::int64_t count, double* out);

    // Are these spikes sorted, not NaN, and of known units? With the one before, if there is one.
    bool (*check_flat)(const FlatSpikes&, SpikeRange);
    bool (*check_times)(const double* times, SpikeRange);

    // Flat spikes of a range, all within the bins of another, into [n_bins, n_units]. `buffer` has
    // room for a row and kLineRoom.
    Fault (*flat_to_time)(const FlatSpikes&, SpikeRange, const Grid&, BinRange, DenseOut,
                          void* buffer);
    // The same into [n_units, n_bins]. `buffer` has room for two lines per unit.
    Fault (*flat_to_unit)(const FlatSpikes&, SpikeRange, const Grid&, BinRange, DenseOut,
                          void* buffer);

    // Spikes of one unit, all within the grid, into its row [n_bins], the counts of DenseOut.
    Fault (*unit_to_row)(const double* times, SpikeRange, const Grid&, DenseOut);
    // Spikes of all units, unit u's being begins[u]..ends[u]-1 and all within the range of bins,
    // into [n_bins, n_units]. Moves `begins` to `ends`. `buffer` has room for bins_per_tile() rows
    // and kLineRoom.
    Fault (*units_to_time)(const UnitSpikes&, std::int64_t* begins, const std::int64_t* ends,
                           const Grid&, BinRange, DenseOut, void* buffer);
};

// Bins of a tile whose rows [n_units] of counts take about half a MiB, the size of a cache.
static constexpr std::int64_t bins_per_tile(std::int64_t row_bytes) {
    return row_bytes < (1 << 15) ? (1 << 19) / (row_bytes + 1) : 16;
}

ATTENDRITE_DECLARE_TABLE(DenseTable, dense_table)

}  // namespace attendrite
