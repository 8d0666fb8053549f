// Sparse binning of one level: see sparse_table.hpp for what each function does.
#include "scan.hpp"
#include "sparse_table.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// Bit i says whether cells[i] is not zero; 64 cells.
inline std::uint64_t nonzero_mask(const std::uint8_t* cells) {
#if defined(__AVX512BW__)
    const __m512i all = _mm512_loadu_si512(cells);
    return _mm512_test_epi8_mask(all, all);
#elif defined(__SSE2__)
    std::uint64_t zeros = 0;
    for (int i = 0; i < 4; ++i) {
        const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(cells) + i);
        const int mask = _mm_movemask_epi8(_mm_cmpeq_epi8(part, _mm_setzero_si128()));
        zeros |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(mask)) << (16 * i);
    }
    return ~zeros;
#else
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; ++i) mask |= static_cast<std::uint64_t>(cells[i] != 0) << i;
    return mask;
#endif
}

// Columns of the cells of a row that are not zero, ascending; returns how many.
inline std::int64_t pick_nonzero(const std::uint8_t* row, std::int64_t n, std::int32_t* columns) {
    std::int64_t found = 0;
    std::int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (std::uint64_t mask = nonzero_mask(row + i); mask != 0; mask &= mask - 1) {
            columns[found++] = static_cast<std::int32_t>(i + __builtin_ctzll(mask));
        }
    }
    for (; i < n; ++i) {
        columns[found] = static_cast<std::int32_t>(i);
        found += row[i] != 0 ? 1 : 0;
    }
    return found;
}

inline std::int64_t pick_nonzero(const std::int32_t* row, std::int64_t n, std::int32_t* columns) {
    std::int64_t found = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        columns[found] = static_cast<std::int32_t>(i);
        found += row[i] != 0 ? 1 : 0;
    }
    return found;
}

// Turns densely counted rows into entries.
template <class Cell>
class EntryWriter {
  public:
    EntryWriter(const SparseOut& out, std::int32_t* nonzeros, std::int64_t n_units)
        : out_(out), nonzeros_(nonzeros), n_units_(n_units) {}

    Fault write(std::int64_t row, const Cell* cells) {
        const std::int64_t n = pick_nonzero(cells, n_units_, nonzeros_);
        out_.row_sizes[row] = n;
        if (n == 0) return Fault::none;
        std::memcpy(out_.indices + size_, nonzeros_, static_cast<std::size_t>(n) * 4);
        // Chosen per row, not per call: one copy of the loops around this serves all types.
        const Fault fault = with_counts(
            out_.type, [&](auto count) { return gather<Of<decltype(count)>>(cells, n); });
        size_ += n;
        return fault;
    }

    std::int64_t size() const { return size_; }

  private:
    template <class T>
    Fault gather(const Cell* cells, std::int64_t n) const {
        T* const counts = static_cast<T*>(out_.counts) + size_;
        std::int64_t seen = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            const Cell count = cells[nonzeros_[i]];
            counts[i] = static_cast<T>(count);
            seen |= count;
        }
        return seen > kLargest<T> ? Fault::overflow : Fault::none;
    }

    SparseOut out_;
    std::int32_t* nonzeros_;
    std::int64_t n_units_;
    std::int64_t size_ = 0;
};

template <class Cell, class U>
Fault flat_to_bins(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                   const SparseOut& out, const SparseScratch& scratch, std::int64_t* size) {
    FlatScan<U> scan(spikes, range);
    EntryWriter<Cell> entries(out, scratch.nonzeros, spikes.n_units);
    Cell* const row = static_cast<Cell*>(scratch.cells);
    const Fault fault = each_bin(grid, bins, [&](std::int64_t bin, double edge) {
        const Fault found = scan.fill(row, edge);
        return found == Fault::none ? entries.write(bin, row) : found;
    });
    *size = entries.size();
    return fault == Fault::none && !scan.done() ? Fault::bad_spikes : fault;
}

template <class Cell>
Fault units_to_bins(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                    const Grid& grid, BinRange bins, const SparseOut& out,
                    const SparseScratch& scratch, std::int64_t* size) {
    EntryWriter<Cell> entries(out, scratch.nonzeros, spikes.n_units);
    Cell* const cells = static_cast<Cell*>(scratch.cells);
    const Fault fault = each_tile<Cell>(
        spikes, begins, ends, grid, bins, [&](std::int64_t) { return cells; },
        [&](std::int64_t first, std::int64_t last) {
            Fault found = Fault::none;
            for (std::int64_t bin = first; bin < last && found == Fault::none; ++bin) {
                found = entries.write(bin, cells + (bin - first) * spikes.n_units);
            }
            return found;
        });
    *size = entries.size();
    return fault;
}

template <class T>
Fault unit_to_row(const double* times, SpikeRange range, const Grid& grid, const SparseOut& out,
                  std::int64_t* size) {
    T* const counts = static_cast<T*>(out.counts);
    std::int32_t* const indices = out.indices;
    std::int64_t at = -1;
    std::int32_t last = -1;
    std::int32_t count = 0;
    std::int32_t seen = 0;
    const auto write = [&](const BlockBins& block, std::int64_t n) {
        std::int64_t entry = at;  // locals and no branch: see RunWriter
        std::int32_t run = count;
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t bin = block[i];
            const auto same = static_cast<std::int32_t>(bin == last);
            run = (run & -same) + 1;
            entry += 1 - same;
            last = bin;
            seen |= run;
            indices[entry] = bin;
            counts[entry] = static_cast<T>(run);
        }
        at = entry;
        count = run;
    };
    const bool fine =
        each_block(times, range.begin, range, grid, window_of(grid, {0, grid.n_bins}), write);
    *size = at + 1;
    if (!fine) return Fault::bad_spikes;
    return seen > kLargest<T> ? Fault::overflow : Fault::none;
}

template <class U>
Fault count_entries(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                    std::int64_t* sizes, std::int32_t* last) {
    for (std::int64_t u = 0; u < spikes.n_units; ++u) last[u] = -1;
    FlatScan<U> scan(spikes, range);
    const Fault fault = each_bin(grid, bins, [&](std::int64_t bin, double edge) {
        const auto now = static_cast<std::int32_t>(bin);
        const bool fine = scan.take_until(edge, [&](const U* units, std::int64_t n) {
            for (std::int64_t i = 0; i < n; ++i) {
                const auto unit = static_cast<std::uint32_t>(units[i]);
                sizes[unit] += last[unit] == now ? 0 : 1;
                last[unit] = now;
            }
        });
        return fine ? Fault::none : Fault::bad_spikes;
    });
    return fault == Fault::none && !scan.done() ? Fault::bad_spikes : fault;
}

template <class T, class U>
Fault write_entries(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                    const SparseOut& out, std::int64_t* at, std::int32_t* last) {
    for (std::int64_t u = 0; u < spikes.n_units; ++u) last[u] = -1;
    T* const counts = static_cast<T*>(out.counts);
    FlatScan<U> scan(spikes, range);
    bool full = false;
    const Fault fault = each_bin(grid, bins, [&](std::int64_t bin, double edge) {
        const auto now = static_cast<std::int32_t>(bin);
        const bool fine = scan.take_until(edge, [&](const U* units, std::int64_t n) {
            for (std::int64_t i = 0; i < n; ++i) {
                const auto unit = static_cast<std::uint32_t>(units[i]);
                if (last[unit] == now) {
                    T& count = counts[at[unit] - 1];
                    full |= static_cast<std::int64_t>(count) == kLargest<T>;
                    count = static_cast<T>(count + T{1});
                } else {
                    last[unit] = now;
                    out.indices[at[unit]] = now;
                    counts[at[unit]++] = T{1};
                }
            }
        });
        return fine ? Fault::none : Fault::bad_spikes;
    });
    return fault == Fault::none && full ? Fault::overflow : fault;
}

// ---- the table: types chosen at run time ----

Fault any_flat_to_bins(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                       SparseOut out, SparseScratch scratch, std::int64_t* size) {
    return with_units(spikes.unit_type, [&](auto unit) {
        return with_cells(scratch.wide, [&](auto cell) {
            return flat_to_bins<Of<decltype(cell)>, Of<decltype(unit)>>(spikes, range, grid, bins,
                                                                        out, scratch, size);
        });
    });
}

Fault any_units_to_bins(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                        const Grid& grid, BinRange bins, SparseOut out, SparseScratch scratch,
                        std::int64_t* size) {
    return with_cells(scratch.wide, [&](auto cell) {
        return units_to_bins<Of<decltype(cell)>>(spikes, begins, ends, grid, bins, out, scratch,
                                                 size);
    });
}

Fault any_unit_to_row(const double* times, SpikeRange range, const Grid& grid, SparseOut out,
                      std::int64_t* size) {
    return with_counts(out.type, [&](auto count) {
        return unit_to_row<Of<decltype(count)>>(times, range, grid, out, size);
    });
}

Fault any_count_entries(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                        std::int64_t* sizes, std::int32_t* last) {
    return with_units(spikes.unit_type, [&](auto unit) {
        return count_entries<Of<decltype(unit)>>(spikes, range, grid, bins, sizes, last);
    });
}

Fault any_write_entries(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                        SparseOut out, std::int64_t* at, std::int32_t* last) {
    return with_counts(out.type, [&](auto count) {
        return with_units(spikes.unit_type, [&](auto unit) {
            return write_entries<Of<decltype(count)>, Of<decltype(unit)>>(spikes, range, grid, bins,
                                                                          out, at, last);
        });
    });
}

}  // namespace

const SparseTable sparse_table = {any_flat_to_bins, any_units_to_bins, any_unit_to_row,
                                  any_count_entries, any_write_entries};

}  // namespace attendrite::ATTENDRITE_LEVEL
