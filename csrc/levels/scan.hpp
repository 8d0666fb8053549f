// Loops shared by the binning kernels of one level. Simple enough for the compiler to vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#include "dense_table.hpp"
#include "spikes.hpp"

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// x + kRound - kRound is rint(x) for |x| < 2^51 (ties to even), on every level and vectorised.
constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52

// Spikes are checked in blocks and then used from the L1 cache. Blocks are small, so that the CPU
// starts on the next one while it counts.
constexpr std::int64_t kFlatBlock = 64;
constexpr std::int64_t kUnitBlock = 128;

// Largest count that a type holds exactly.
template <class T>
constexpr std::int64_t kLargest = (std::int64_t{1} << 31) - 1;
template <>
constexpr std::int64_t kLargest<std::uint8_t> = 255;
template <>
constexpr std::int64_t kLargest<std::uint16_t> = 65535;
template <>
constexpr std::int64_t kLargest<float> = (std::int64_t{1} << 24) - 1;

// out[i] = the smallest double whose tick is at or after the first tick of bin first + i. Spikes
// compare with these instead of being converted one by one.
//
// With E that tick, rint(x) >= E means x >= E - 1/2 (or > for odd E). The division below is off
// the wanted double by at most 3 units in the last place: E - 1/2 is exact, the division adds half
// a unit, and the rounding of t * tick_rate moves the boundary by less than two. So of the seven
// neighbours of the quotient those that are still too small are counted.
inline void bin_edges(const Grid& grid, std::int64_t first, std::int64_t count, double* out) {
    const double rate = grid.tick_rate;
    const std::int64_t width = grid.width;
    const std::int64_t start = grid.start + first * width;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto tick = static_cast<double>(start + i * width);
        const double guess = (tick - 0.5) / rate;  // never 0: neighbours differ by one in the bits
        std::int64_t bits;
        std::memcpy(&bits, &guess, sizeof bits);
        const std::int64_t up = bits < 0 ? -1 : 1;
        std::int64_t too_small = 0;
        for (std::int64_t step = -3; step <= 3; ++step) {
            const std::int64_t near = bits + up * step;
            double t;
            std::memcpy(&t, &near, sizeof t);
            too_small += (t * rate + kRound) - kRound < tick ? 1 : 0;
        }
        const std::int64_t edge = bits + up * (too_small - 3);
        std::memcpy(&out[i], &edge, sizeof edge);
    }
}

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 8;
using Doubles = double __attribute__((vector_size(kVectorBytes)));
using Masks = std::int64_t __attribute__((vector_size(kVectorBytes)));  // -1 is true, 0 is false

inline Masks not_less_or_equal(const double* a, const double* b) {
    Doubles left;
    Doubles right;
    std::memcpy(&left, a, sizeof left);
    std::memcpy(&right, b, sizeof right);
    return ~(left <= right);
}

// Are times[begin..end-1] sorted, also after times[before]? NaN is not; infinities may be.
inline bool is_sorted(const double* times, std::int64_t before, std::int64_t begin,
                      std::int64_t end) {
    if (begin >= end) return true;
    const double* t = times + begin;
    const std::int64_t n = end - begin;
    std::int64_t bad = t[0] >= times[before] ? 0 : -1;  // before == begin: NaN only
    Masks some = {};
    Masks more = {};
    std::int64_t i = 1;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        some |= not_less_or_equal(t + i - 1, t + i);
        more |= not_less_or_equal(t + i - 1 + kLanes, t + i + kLanes);
    }
    some |= more;
    for (int lane = 0; lane < kLanes; ++lane) bad |= some[lane];
    for (; i < n; ++i) bad |= t[i - 1] <= t[i] ? 0 : -1;
    return bad == 0;
}

template <class U>
inline bool units_below(const U* units, std::int64_t n, std::int64_t n_units) {
    const auto last = static_cast<std::uint32_t>(n_units - 1);
    std::uint32_t seen = 0;  // its sign bit is set by a unit below 0 or beyond the last one
    for (std::int64_t i = 0; i < n; ++i) {
        const auto unit = static_cast<std::uint32_t>(units[i]);
        seen |= unit | (last - unit);
    }
    return seen >> 31 == 0;
}

// First index in i..end-1 of sorted times at or after the edge, else end.
inline std::int64_t find_end(const double* times, std::int64_t i, std::int64_t end, double edge) {
    constexpr std::int64_t kStride = 16;
    while (i + kStride <= end && times[i + kStride - 1] < edge) i += kStride;
    if (i + kStride <= end) {
        std::int64_t before = 0;
        for (std::int64_t j = 0; j < kStride; ++j) before += times[i + j] < edge ? 1 : 0;
        return i + before;
    }
    while (i < end && times[i] < edge) ++i;
    return i;
}

// The same over a long way, by bisection. Of unsorted times it finds some index with
// times[index - 1] < edge and not times[index] < edge, which is enough to stay within bounds.
inline std::int64_t bisect(const double* times, std::int64_t begin, std::int64_t end, double edge) {
    while (begin < end) {
        const std::int64_t middle = begin + (end - begin) / 2;
        if (times[middle] < edge) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

// Asks for n elements that will be read soon; they need not exist.
template <class T>
inline void prefetch(const T* from, std::int64_t n) {
    constexpr auto kStep = static_cast<std::int64_t>(kLine / sizeof(T));
    for (std::int64_t i = 0; i < n; i += kStep) __builtin_prefetch(from + i);
}

// Adds one to *cell(0) .. *cell(n - 1).
template <class Cell>
inline void add_ones(std::int64_t n, const Cell& cell) {
    constexpr std::int64_t kUnroll = 8;
    const auto add = [&](std::int64_t i) { ++*cell(i); };
    std::int64_t i = 0;
    for (; i + kUnroll <= n; i += kUnroll) {
        for (std::int64_t j = 0; j < kUnroll; ++j) add(i + j);
    }
    for (; i < n; ++i) add(i);
}

// Adds one to row[unit] for n checked units.
template <class T, class U>
inline void count_units(T* row, const U* units, std::int64_t n) {
    add_ones(n, [&](std::int64_t i) { return row + static_cast<std::uint32_t>(units[i]); });
}

template <class T>
inline std::int64_t sum_of(const T* row, std::int64_t n) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<std::int64_t>(row[i]);
    return sum;
}
// Bytes, pairwise in 16-bit lanes, which hold the sums of 128 pairs.
template <>
inline std::int64_t sum_of<std::uint8_t>(const std::uint8_t* row, std::int64_t n) {
    constexpr std::uint64_t kEven = 0x00ff00ff00ff00ffU;
    std::int64_t sum = 0;
    std::int64_t i = 0;
    while (i + 8 <= n) {
        const std::int64_t words = (n - i) / 8 < 128 ? (n - i) / 8 : 128;
        std::uint64_t lanes = 0;
        for (std::int64_t w = 0; w < words; ++w) {
            std::uint64_t bytes;
            std::memcpy(&bytes, row + i + 8 * w, sizeof bytes);
            lanes += (bytes & kEven) + ((bytes >> 8) & kEven);
        }
        for (int shift = 0; shift < 64; shift += 16) {
            sum += static_cast<std::int64_t>((lanes >> shift) & 0xffffU);
        }
        i += 8 * words;
    }
    for (; i < n; ++i) sum += row[i];
    return sum;
}

// Did the row lose counts of `n` spikes? Every wrap of a cell takes 2^bits from the sum.
template <class T>
inline bool lost_counts(const T* row, std::int64_t n_units, std::int64_t n) {
    return n > kLargest<T> && sum_of(row, n_units) != n;
}
template <>
inline bool lost_counts<float>(const float* row, std::int64_t n_units, std::int64_t n) {
    if (n <= kLargest<float>) return false;
    float most = 0.0F;
    for (std::int64_t u = 0; u < n_units; ++u) most = row[u] > most ? row[u] : most;
    return most > static_cast<float>(kLargest<float>);
}

// Walks through flat spikes bin by bin, checking them block by block.
template <class U>
class FlatScan {
  public:
    FlatScan(const FlatSpikes& spikes, SpikeRange range)
        : times_(spikes.times),
          units_(static_cast<const U*>(spikes.units)),
          at_(range.begin),
          checked_(range.begin),
          end_(range.end),
          n_units_(spikes.n_units) {}

    // Calls take(units, n) for pieces of the spikes before `edge`; false when they are bad.
    template <class Take>
    bool take_until(double edge, const Take& take) {
        do {
            if (at_ == checked_) {
                if (at_ == end_) break;
                if (!check_block()) return false;
            }
            const std::int64_t stop = find_end(times_, at_, checked_, edge);
            take(units_ + at_, stop - at_);
            at_ = stop;
        } while (at_ == checked_);
        return true;
    }

    // Counts the spikes before `edge` into a row [n_units], zeroed first.
    template <class T>
    Fault fill(T* row, double edge) {
        std::memset(row, 0, static_cast<std::size_t>(n_units_) * sizeof(T));
        const std::int64_t begin = at_;
        const bool fine =
            take_until(edge, [row](const U* units, std::int64_t n) { count_units(row, units, n); });
        if (!fine) return Fault::bad_spikes;
        return lost_counts(row, n_units_, at_ - begin) ? Fault::overflow : Fault::none;
    }

    bool check_block() {
        const std::int64_t n = end_ - checked_ < kFlatBlock ? end_ - checked_ : kFlatBlock;
        const std::int64_t before = checked_ > 0 ? checked_ - 1 : 0;
        constexpr std::int64_t kAhead = 4 * kFlatBlock;  // memory takes that long to answer
        prefetch(times_ + checked_ + kAhead, kFlatBlock);
        prefetch(units_ + checked_ + kAhead, kFlatBlock);
        const bool fine = is_sorted(times_, before, checked_, checked_ + n) &&
                          units_below(units_ + checked_, n, n_units_);
        checked_ += n;
        return fine;
    }

    // Every spike has been taken.
    bool done() const { return at_ == end_; }
    bool all_checked() const { return checked_ == end_; }

  private:
    const double* times_;
    const U* units_;
    std::int64_t at_;       // spikes before this one are taken
    std::int64_t checked_;  // spikes before this one are checked
    std::int64_t end_;
    std::int64_t n_units_;
};

// Times from `low` (included) to `high` (not included) lie in the bins in question.
struct Window {
    double low, high;
};

inline Window window_of(const Grid& grid, BinRange bins) {
    Window window;
    bin_edges(grid, bins.first, 1, &window.low);
    bin_edges(grid, bins.last, 1, &window.high);
    return window;
}

// Bins of up to kUnitBlock spikes of one unit.
class BlockBins {
  public:
    explicit BlockBins(const Grid& grid)
        : tick_rate_(grid.tick_rate),
          start_(kRound + static_cast<double>(grid.start)),
          per_tick_(1.0 / static_cast<double>(grid.width)) {}

    // Finds the bins of times[begin..end-1], at least one; false when these are not sorted (also
    // after times[before]) or not within the window.
    bool find(const double* times, std::int64_t before, SpikeRange range, const Window& window) {
        if (!is_sorted(times, before, range.begin, range.end) ||
            !(times[range.begin] >= window.low && times[range.end - 1] < window.high)) {
            return false;
        }
        const double* t = times + range.begin;
        const std::int64_t n = range.end - range.begin;
        // tick + 1/2 is at least half a tick away from any multiple of the width, and the product
        // is off by less than that while |tick| <= 2^51: truncation gives the exact quotient.
        for (std::int64_t i = 0; i < n; ++i) {
            const double tick = (t[i] * tick_rate_ + kRound) - start_;
            bins_[i] = static_cast<std::int32_t>((tick + 0.5) * per_tick_);
        }
        return true;
    }

    std::int32_t operator[](std::int64_t i) const { return bins_[i]; }

    // How many of n spikes lie before a bin.
    std::int64_t before(std::int64_t bin, std::int64_t n) const {
        if (bins_[n - 1] < bin) return n;
        std::int64_t found = 0;
        for (std::int64_t i = 0; i < n; ++i) found += bins_[i] < bin ? 1 : 0;
        return found;
    }

  private:
    double tick_rate_, start_, per_tick_;
    std::int32_t bins_[kUnitBlock];
};

// Calls take(block, n) with the bins of the spikes of a range, block by block; false when the
// spikes are bad.
template <class Take>
inline bool each_block(const double* times, std::int64_t before, SpikeRange range, const Grid& grid,
                       const Window& window, const Take& take) {
    BlockBins block(grid);
    for (std::int64_t i = range.begin; i < range.end; i += kUnitBlock) {
        const std::int64_t n = range.end - i < kUnitBlock ? range.end - i : kUnitBlock;
        if (!block.find(times, i > range.begin ? i - 1 : before, {i, i + n}, window)) return false;
        take(block, n);
    }
    return true;
}

// Calls fill(bin, edge) for the bins of a range, edge being the end of the bin, until a fault.
template <class Fill>
inline Fault each_bin(const Grid& grid, BinRange bins, const Fill& fill) {
    constexpr std::int64_t kEdges = 64;
    double edges[kEdges];
    for (std::int64_t first = bins.first; first < bins.last; first += kEdges) {
        const std::int64_t n = bins.last - first < kEdges ? bins.last - first : kEdges;
        bin_edges(grid, first + 1, n, edges);
        for (std::int64_t i = 0; i < n; ++i) {
            const Fault fault = fill(first + i, edges[i]);
            if (fault != Fault::none) return fault;
        }
    }
    return Fault::none;
}

// Tiles of bins that stay in the cache while every unit counts into its column of them: calls
// ready(first bin, last bin) when the tile [last - first, n_units] at cells_of(first) is full,
// until a fault.
template <class T, class CellsOf, class Ready>
inline Fault each_tile(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                       const Grid& grid, BinRange bins, const CellsOf& cells_of,
                       const Ready& ready) {
    const std::int64_t n_units = spikes.n_units;
    const std::int64_t tile_bins = bins_per_tile(n_units * static_cast<std::int64_t>(sizeof(T)));
    for (std::int64_t first = bins.first; first < bins.last; first += tile_bins) {
        const std::int64_t last = bins.last - first < tile_bins ? bins.last : first + tile_bins;
        const Window window = window_of(grid, {first, last});
        T* const tile = cells_of(first);
        std::memset(tile, 0, static_cast<std::size_t>((last - first) * n_units) * sizeof(T));
        Grid tile_grid = grid;
        tile_grid.start += first * grid.width;
        std::int64_t sum = 0;
        std::int64_t most = 0;
        for (std::int64_t u = 0; u < n_units; ++u) {
            const std::int64_t begin = begins[u];
            const std::int64_t before = begin > spikes.offsets[u] ? begin - 1 : begin;
            begins[u] = find_end(spikes.times, begin, ends[u], window.high);
            const std::int64_t n = begins[u] - begin;
            sum += n;
            most = n > most ? n : most;
            // The next units have about as many, at places that the CPU cannot guess.
            if (u + 2 < n_units) prefetch(spikes.times + begins[u + 2], n);
            T* const column = tile + u;
            const bool fine = each_block(
                spikes.times, before, {begin, begins[u]}, tile_grid, window,
                [column, n_units](const BlockBins& block, std::int64_t found) {
                    add_ones(found, [&](std::int64_t i) { return column + block[i] * n_units; });
                });
            if (!fine) return Fault::bad_spikes;
        }
        if (most > kLargest<T> && lost_counts(tile, (last - first) * n_units, sum)) {
            return Fault::overflow;
        }
        const Fault fault = ready(first, last);
        if (fault != Fault::none) return fault;
    }
    for (std::int64_t u = 0; u < n_units; ++u) {
        if (begins[u] != ends[u]) return Fault::bad_spikes;
    }
    return Fault::none;
}

// ---- types chosen at run time: calls run(Type<...>{}) ----

template <class T>
struct Type {
    using type = T;
};
template <class Chosen>
using Of = typename Chosen::type;

template <class Run>
inline Fault with_counts(CountType type, const Run& run) {
    switch (type) {
        case CountType::u8:
            return run(Type<std::uint8_t>{});
        case CountType::u16:
            return run(Type<std::uint16_t>{});
        case CountType::i32:
            return run(Type<std::int32_t>{});
        case CountType::f32:
            return run(Type<float>{});
    }
    return Fault::bad_spikes;
}

template <class Run>
inline Fault with_units(UnitType type, const Run& run) {
    return type == UnitType::i32 ? run(Type<std::int32_t>{}) : run(Type<std::uint16_t>{});
}

template <class Run>
inline Fault with_cells(bool wide, const Run& run) {
    return wide ? run(Type<std::int32_t>{}) : run(Type<std::uint8_t>{});
}

}  // namespace
}  // namespace attendrite::ATTENDRITE_LEVEL
