// Sparse (CSR) binning, once per instruction-set level: see levels.hpp. Only binning.cpp calls it.
// The kernels check as those of dense_table.hpp do.
#pragma once

#include <cstdint>

#include "dense_table.hpp"
#include "levels.hpp"
#include "spikes.hpp"

namespace attendrite {

// Where one task writes its entries, row after row, columns ascending within a row; there is room
// for as many as the task has spikes.
struct SparseOut {
    std::int64_t* row_sizes;  // of the whole matrix
    std::int32_t* indices;    // of the task
    CountType type;
    void* counts;  // of the task
};

// Workspace for rows that are counted densely before their entries are picked: cells as `wide`
// says, int32 or uint8 (Fault::overflow asks for wide ones, unless counts are uint8 too).
struct SparseScratch {
    bool wide;
    void* cells;             // one row [n_units] for flat spikes, bins_per_tile() rows by unit
    std::int32_t* nonzeros;  // [n_units]
};

struct SparseTable {
    // Rows are bins. `size` is the number of entries written.
    Fault (*flat_to_bins)(const FlatSpikes&, SpikeRange, const Grid&, BinRange, SparseOut,
                          SparseScratch, std::int64_t* size);
    Fault (*units_to_bins)(const UnitSpikes&, std::int64_t* begins, const std::int64_t* ends,
                           const Grid&, BinRange, SparseOut, SparseScratch, std::int64_t* size);

    // Rows are units. One unit's row; `out.row_sizes` is not used.
    Fault (*unit_to_row)(const double* times, SpikeRange, const Grid&, SparseOut,
                         std::int64_t* size);
    // Flat spikes need two looks: sizes[u] += number of different bins with spikes of u; then the
    // entries, those of unit u from at[u] on, which ends behind them. `last` [n_units] is
    // workspace.
    Fault (*count_entries)(const FlatSpikes&, SpikeRange, const Grid&, BinRange,
                           std::int64_t* sizes, std::int32_t* last);
    Fault (*write_entries)(const FlatSpikes&, SpikeRange, const Grid&, BinRange, SparseOut,
                           std::int64_t* at, std::int32_t* last);
};

ATTENDRITE_DECLARE_TABLE(SparseTable, sparse_table)

}  // namespace attendrite
