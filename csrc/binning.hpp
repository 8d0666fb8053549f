// Spike counts per bin and unit, dense or sparse (CSR), from flat spikes or spikes by unit.
//
// Every function checks all of its input on the way and throws std::invalid_argument that names the
// first bad value: times not finite or not sorted, units unknown, spikes outside the bins (unless
// `drop`), counts that the type cannot hold. What `out` holds then is undefined.
#pragma once

#include <cstdint>

#include "spikes.hpp"

namespace attendrite {

enum class Layout { time, unit };    // of a dense result: [n_bins, n_units] or [n_units, n_bins]
enum class RowsAre { bins, units };  // of a sparse one

// Spikes before the first bin and after the last; zeros unless they were to be dropped.
struct Dropped {
    std::int64_t before = 0;
    std::int64_t after = 0;
};

struct Options {
    bool drop = false;  // spikes outside the bins
    int threads = 1;
};

// Row r has entries row_starts[r] .. row_starts[r + 1] - 1, columns ascending.
struct SparseCounts {
    std::int64_t* row_starts;  // [rows + 1]
    std::int32_t* indices;     // room for n spikes
    CountType type;
    void* counts;  // room for n spikes
};

Dropped bin_dense(const FlatSpikes& spikes, const Grid& grid, Layout layout, CountType type,
                  void* out, Options options);
Dropped bin_dense(const UnitSpikes& spikes, const Grid& grid, Layout layout, CountType type,
                  void* out, Options options);

Dropped bin_sparse(const FlatSpikes& spikes, const Grid& grid, RowsAre rows, SparseCounts out,
                   Options options);
Dropped bin_sparse(const UnitSpikes& spikes, const Grid& grid, RowsAre rows, SparseCounts out,
                   Options options);

}  // namespace attendrite
