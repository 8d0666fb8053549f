// Binning of a live spike stream: chunks of any size come in, rows of completed bins go out.
#pragma once

#include <cstdint>
#include <vector>

#include "spikes.hpp"

namespace attendrite {

struct StreamTable;

// Keeps the counts of the open bin between chunks. A call either does all of its work or throws
// std::invalid_argument and changes nothing. push() and advance() allocate nothing and lock
// nothing; one binner is not for several threads at once.
class StreamBinner {
  public:
    // Spikes have units 0..n_units-1; grid.n_bins is not used.
    StreamBinner(std::int64_t n_units, const Grid& grid, CountType type);

    std::int64_t n_units() const { return n_units_; }
    CountType type() const { return type_; }

    // Bins closed so far, which is the number of the open bin.
    std::int64_t closed() const { return closed_; }

    // Bins that advance(time), or a chunk whose last spike is at `time`, would close; 0 for a time
    // that these would refuse.
    std::int64_t closes(double time) const;

    // Takes a chunk of spikes in time order, which also follow the chunk before, and writes the
    // bins that it closes to `out`, [closes(last time), n_units].
    void push(const FlatSpikes& chunk, void* out);

    // Takes note that no spike before `time` will come any more, and writes the bins that this
    // closes to `out`, [closes(time), n_units].
    void advance(double time, void* out);

  private:
    void take(const FlatSpikes& chunk, std::int64_t closes, void* out);
    void write_row(const std::vector<std::uint32_t>& counts, std::int64_t bin, void* out,
                   std::int64_t row) const;
    void check_reach(double time, const char* what) const;
    [[noreturn]] void throw_fault(const FlatSpikes& chunk) const;

    const StreamTable& steps_;
    Grid grid_;
    CountType type_;
    std::int64_t n_units_;
    std::int64_t closed_ = 0;
    double open_start_;  // the open bin holds times from here
    double open_end_;    // to before here
    double last_spike_;
    std::vector<std::uint32_t> open_;     // counts of the open bin
    std::vector<std::uint32_t> working_;  // of the bin in work, so that a throw changes nothing
};

}  // namespace attendrite
