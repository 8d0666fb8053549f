// Dense binning of one level: see dense_table.hpp for what each function does.
#include "dense_table.hpp"
#include "lines.hpp"
#include "scan.hpp"
#include "transpose.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// ---- flat spikes ----

template <class T, class U>
Fault flat_to_time(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                   DenseOut out, void* buffer) {
    FlatScan<U> scan(spikes, range);
    const auto row_bytes = spikes.n_units * static_cast<std::int64_t>(sizeof(T));
    PieceWriter rows(static_cast<T*>(out.counts) + bins.first * spikes.n_units, out.past_caches,
                     buffer);
    const Fault fault = each_bin(grid, bins, [&](std::int64_t, double edge) {
        const Fault found = scan.fill(static_cast<T*>(rows.room()), edge);
        rows.push(row_bytes);
        return found;
    });
    rows.finish();
    return fault == Fault::none && !scan.done() ? Fault::bad_spikes : fault;
}

// Turns tiles of time-major counts, a line of bins for each unit, into unit-major ones. A line of
// the output has bins of two tiles, so what a tile does not finish waits for the next one.
template <class T>
class TileTransposer {
  public:
    static constexpr auto kBins = static_cast<std::int64_t>(kLine / sizeof(T));

    // The bins in question, and room for a line per unit.
    TileTransposer(DenseOut out, BinRange bins, std::int64_t n_bins, std::int64_t n_units,
                   T* waiting)
        : out_(static_cast<T*>(out.counts)),
          past_caches_(out.past_caches),
          bins_(bins),
          n_bins_(n_bins),
          n_units_(n_units),
          waiting_(waiting) {}

    // tile [last - first, n_units] with the bins of `now`: kBins or, at the end, fewer.
    void write(const T* tile, BinRange now) {
        for (std::int64_t u = 0; u < n_units_; u += kUnits) {
            const std::int64_t units = n_units_ - u < kUnits ? n_units_ - u : kUnits;
            T lines[kUnits * 2 * kBins];  // of each unit those of the tile before and of this one
            transpose(tile + u, n_units_, now.last - now.first, units, lines + kBins, 2 * kBins);
            for (std::int64_t j = 0; j < units; ++j) {
                T* const line = lines + (2 * j + 1) * kBins;
                T* const waiting = waiting_ + (u + j) * kBins;
                std::memcpy(line - kBins, waiting, kLine);
                std::memcpy(waiting, line, kLine);
                write_line(line, out_ + (u + j) * n_bins_ + now.first, now);
            }
        }
    }

  private:
    static constexpr std::int64_t kUnits = Square<T>::size;

    // The counts at `from`, behind those of the tile before, belong to this place: writes the line
    // that begins there or before and, at the end of the bins, all that is left.
    void write_line(const T* counts, T* place, BinRange now) const {
        const auto* const from = reinterpret_cast<const std::uint8_t*>(counts);
        auto* const to = reinterpret_cast<std::uint8_t*>(place);
        const std::int64_t phase = past_caches_ ? phase_of(to) : 0;
        const bool first = now.first == bins_.first;
        const bool last = now.last == bins_.last;
        if (past_caches_ && !first && !last) {
            copy_line(to - phase, from - phase);
            return;
        }
        const auto bytes = (now.last - now.first) * static_cast<std::int64_t>(sizeof(T));
        const std::int64_t begin = first ? 0 : -phase;
        const std::int64_t end = last ? bytes : kLine - phase;
        std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
    }

    T* out_;
    bool past_caches_;
    BinRange bins_;
    std::int64_t n_bins_, n_units_;
    T* waiting_;
};

// Bins go to a time-major tile that stays in the cache, and from there in whole cache lines to the
// rows of the units: counting straight into those would touch n_units lines per bin.
template <class T, class U>
Fault flat_to_unit(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                   DenseOut out, void* buffer) {
    using Transposer = TileTransposer<T>;
    FlatScan<U> scan(spikes, range);
    T* const tile = static_cast<T*>(buffer);
    Transposer rows(out, bins, grid.n_bins, spikes.n_units,
                    tile + Transposer::kBins * spikes.n_units);
    Fault fault = Fault::none;
    for (BinRange now = bins; now.first < bins.last && fault == Fault::none; now.first = now.last) {
        const std::int64_t left = bins.last - now.first;
        now.last = now.first + (left < Transposer::kBins ? left : Transposer::kBins);
        fault = each_bin(grid, now, [&](std::int64_t bin, double edge) {
            return scan.fill(tile + (bin - now.first) * spikes.n_units, edge);
        });
        rows.write(tile, now);
    }
    finish_lines();
    return fault == Fault::none && !scan.done() ? Fault::bad_spikes : fault;
}

template <class U>
bool check_flat(const FlatSpikes& spikes, SpikeRange range) {
    FlatScan<U> scan(spikes, range);
    while (!scan.all_checked()) {
        if (!scan.check_block()) return false;
    }
    return true;
}

// ---- spikes by unit ----

// Counts piece by piece, each in the L1 cache. A block of spikes that reaches into the next piece
// is looked at again there.
template <class T>
Fault unit_to_row(const double* times, SpikeRange range, const Grid& grid, DenseOut out) {
    constexpr std::int64_t kBytes = 1 << 14;
    constexpr auto kBins = static_cast<std::int64_t>(kBytes / sizeof(T));
    std::uint8_t buffer[kBytes + kLineRoom];
    PieceWriter row(out.counts, out.past_caches, buffer);
    const Window window = window_of(grid, {0, grid.n_bins});
    BlockBins block(grid);
    Fault fault = Fault::none;
    std::int64_t at = range.begin;
    for (std::int64_t bin = 0; bin < grid.n_bins && fault == Fault::none; bin += kBins) {
        const std::int64_t n_bins = grid.n_bins - bin < kBins ? grid.n_bins - bin : kBins;
        const auto bytes = n_bins * static_cast<std::int64_t>(sizeof(T));
        T* const cells = static_cast<T*>(row.room());
        std::memset(cells, 0, static_cast<std::size_t>(bytes));
        const std::int64_t begin = at;
        std::int64_t seen = 0;
        std::int64_t taken = 0;
        while (at < range.end && taken == seen) {
            seen = range.end - at < kUnitBlock ? range.end - at : kUnitBlock;
            const std::int64_t before = at > range.begin ? at - 1 : at;
            if (!block.find(times, before, {at, at + seen}, window)) {
                fault = Fault::bad_spikes;
                break;
            }
            taken = block.before(bin + n_bins, seen);
            add_ones(taken, [&](std::int64_t i) { return cells + (block[i] - bin); });
            at += taken;
        }
        if (fault == Fault::none && lost_counts(cells, n_bins, at - begin)) fault = Fault::overflow;
        row.push(bytes);
    }
    row.finish();
    return fault == Fault::none && at != range.end ? Fault::bad_spikes : fault;
}

template <class T>
Fault units_to_time(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                    const Grid& grid, BinRange bins, DenseOut out, void* buffer) {
    const auto row_bytes = spikes.n_units * static_cast<std::int64_t>(sizeof(T));
    PieceWriter rows(static_cast<T*>(out.counts) + bins.first * spikes.n_units, out.past_caches,
                     buffer);
    const Fault fault = each_tile<T>(
        spikes, begins, ends, grid, bins,
        [&](std::int64_t) { return static_cast<T*>(rows.room()); },
        [&](std::int64_t first, std::int64_t last) {
            rows.push((last - first) * row_bytes);
            return Fault::none;
        });
    rows.finish();
    return fault;
}

// ---- the table: types chosen at run time ----

Fault any_flat_to_time(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                       DenseOut out, void* buffer) {
    return with_counts(out.type, [&](auto count) {
        return with_units(spikes.unit_type, [&](auto unit) {
            return flat_to_time<Of<decltype(count)>, Of<decltype(unit)>>(spikes, range, grid, bins,
                                                                         out, buffer);
        });
    });
}

Fault any_flat_to_unit(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                       DenseOut out, void* buffer) {
    return with_counts(out.type, [&](auto count) {
        return with_units(spikes.unit_type, [&](auto unit) {
            return flat_to_unit<Of<decltype(count)>, Of<decltype(unit)>>(spikes, range, grid, bins,
                                                                         out, buffer);
        });
    });
}

Fault any_unit_to_row(const double* times, SpikeRange range, const Grid& grid, DenseOut row) {
    return with_counts(row.type, [&](auto count) {
        return unit_to_row<Of<decltype(count)>>(times, range, grid, row);
    });
}

Fault any_units_to_time(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                        const Grid& grid, BinRange bins, DenseOut out, void* buffer) {
    return with_counts(out.type, [&](auto count) {
        return units_to_time<Of<decltype(count)>>(spikes, begins, ends, grid, bins, out, buffer);
    });
}

bool any_check_flat(const FlatSpikes& spikes, SpikeRange range) {
    return spikes.unit_type == UnitType::i32 ? check_flat<std::int32_t>(spikes, range)
                                             : check_flat<std::uint16_t>(spikes, range);
}

bool check_times(const double* times, SpikeRange range) {
    return is_sorted(times, range.begin, range.begin, range.end);
}

}  // namespace

const DenseTable dense_table = {bin_edges,        any_check_flat,   check_times,
                                any_flat_to_time, any_flat_to_unit, any_unit_to_row,
                                any_units_to_time};

}  // namespace attendrite::ATTENDRITE_LEVEL
