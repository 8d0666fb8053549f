// Dense binning of one level: see dense_table.hpp for what each function does.
#include "dense_table.hpp"
#include "scan.hpp"

#if __has_builtin(__builtin_shufflevector)
#define ATTENDRITE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC before 12
#define ATTENDRITE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype(a){__VA_ARGS__})
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// ---- flat spikes ----

template <class T, class U>
Fault flat_to_time(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                   void* out) {
    FlatScan<U> scan(spikes, range);
    T* const counts = static_cast<T*>(out);
    const Fault fault = each_bin(grid, bins, [&](std::int64_t bin, double edge) {
        return scan.fill(counts + bin * spikes.n_units, edge);
    });
    return fault == Fault::none && !scan.done() ? Fault::bad_spikes : fault;
}

using Bytes = std::uint8_t __attribute__((vector_size(16)));
using Words = std::uint16_t __attribute__((vector_size(16)));
using Longs = std::uint32_t __attribute__((vector_size(16)));

// The first and the second halves of a and b, interleaved.
inline void interleave(Bytes a, Bytes b, Bytes& low, Bytes& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    high = ATTENDRITE_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline void interleave(Words a, Words b, Words& low, Words& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = ATTENDRITE_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
inline void interleave(Longs a, Longs b, Longs& low, Longs& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 4, 1, 5);
    high = ATTENDRITE_SHUFFLE(a, b, 2, 6, 3, 7);
}

// Transposes a square that fills S vectors: log2(S) rounds of interleaving rows i and i + S/2.
template <int S, class Vector>
inline void transpose_square(const void* from, std::int64_t from_stride, void* to,
                             std::int64_t to_stride) {
    Vector rows[2][S];
    const auto* in = static_cast<const std::uint8_t*>(from);
    auto* out = static_cast<std::uint8_t*>(to);
    for (int i = 0; i < S; ++i) std::memcpy(&rows[0][i], in + i * from_stride, sizeof(Vector));
    int now = 0;
    for (int round = 1; round < S; round *= 2, now ^= 1) {
        for (int i = 0; i < S / 2; ++i) {
            interleave(rows[now][i], rows[now][i + S / 2], rows[now ^ 1][2 * i],
                       rows[now ^ 1][2 * i + 1]);
        }
    }
    for (int i = 0; i < S; ++i) std::memcpy(out + i * to_stride, &rows[now][i], sizeof(Vector));
}

template <class T>
struct Square {  // float moves as its bits do
    static constexpr int size = 4;
    using Vector = Longs;
};
template <>
struct Square<std::uint8_t> {
    static constexpr int size = 16;
    using Vector = Bytes;
};
template <>
struct Square<std::uint16_t> {
    static constexpr int size = 8;
    using Vector = Words;
};

// tile [n_bins, n_units] -> out[u * stride + k].
template <class T>
void transpose(const T* tile, std::int64_t n_bins, std::int64_t n_units, T* out,
               std::int64_t stride) {
    constexpr int kSize = Square<T>::size;
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
    const std::int64_t square_bins = n_bins / kSize * kSize;
    const std::int64_t square_units = n_units / kSize * kSize;
    for (std::int64_t u = 0; u < square_units; u += kSize) {
        for (std::int64_t k = 0; k < square_bins; k += kSize) {
            transpose_square<kSize, typename Square<T>::Vector>(
                tile + k * n_units + u, n_units * kBytes, out + u * stride + k, stride * kBytes);
        }
    }
    for (std::int64_t u = 0; u < n_units; ++u) {
        const std::int64_t done = u < square_units ? square_bins : 0;
        for (std::int64_t k = done; k < n_bins; ++k) out[u * stride + k] = tile[k * n_units + u];
    }
}

// Bins go to a time-major tile that stays in the cache, and from there in whole cache lines to the
// rows of the units: counting straight into those would touch n_units lines per bin.
template <class T, class U>
Fault flat_to_unit(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                   void* out, void* tile) {
    constexpr auto kBins = static_cast<std::int64_t>(kTileBytes / sizeof(T));
    FlatScan<U> scan(spikes, range);
    T* const rows = static_cast<T*>(tile);
    for (std::int64_t first = bins.first; first < bins.last; first += kBins) {
        const std::int64_t n = bins.last - first < kBins ? bins.last - first : kBins;
        const Fault fault = each_bin(grid, {first, first + n}, [&](std::int64_t bin, double edge) {
            return scan.fill(rows + (bin - first) * spikes.n_units, edge);
        });
        if (fault != Fault::none) return fault;
        transpose(rows, n, spikes.n_units, static_cast<T*>(out) + first, grid.n_bins);
    }
    return scan.done() ? Fault::none : Fault::bad_spikes;
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

template <class T>
Fault unit_to_row(const double* times, SpikeRange range, const Grid& grid, void* out) {
    T* const row = static_cast<T*>(out);
    RunWriter<T> runs;
    std::int64_t zeroed = 0;  // cells are zeroed just before they are counted in
    const bool fine = each_block(
        times, range.begin, range, grid, window_of(grid, {0, grid.n_bins}),
        [&](const BlockBins& block, std::int64_t n) {
            const std::int64_t needed = block[n - 1] + 1;
            std::memset(row + zeroed, 0, static_cast<std::size_t>(needed - zeroed) * sizeof(T));
            zeroed = needed;
            runs.write(block, n, row, 1);
        });
    if (!fine) return Fault::bad_spikes;
    std::memset(row + zeroed, 0, static_cast<std::size_t>(grid.n_bins - zeroed) * sizeof(T));
    return runs.overflowed() ? Fault::overflow : Fault::none;
}

template <class T>
Fault units_to_time(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                    const Grid& grid, BinRange bins, void* out) {
    T* const counts = static_cast<T*>(out);
    return each_tile<T>(
        spikes, begins, ends, grid, bins,
        [&](std::int64_t first) { return counts + first * spikes.n_units; },
        [](std::int64_t, std::int64_t) { return Fault::none; });
}

// ---- the table: types chosen at run time ----

Fault any_flat_to_time(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                       DenseOut out) {
    return with_counts(out.type, [&](auto count) {
        return with_units(spikes.unit_type, [&](auto unit) {
            return flat_to_time<Of<decltype(count)>, Of<decltype(unit)>>(spikes, range, grid, bins,
                                                                         out.counts);
        });
    });
}

Fault any_flat_to_unit(const FlatSpikes& spikes, SpikeRange range, const Grid& grid, BinRange bins,
                       DenseOut out, void* tile) {
    return with_counts(out.type, [&](auto count) {
        return with_units(spikes.unit_type, [&](auto unit) {
            return flat_to_unit<Of<decltype(count)>, Of<decltype(unit)>>(spikes, range, grid, bins,
                                                                         out.counts, tile);
        });
    });
}

Fault any_unit_to_row(const double* times, SpikeRange range, const Grid& grid, CountType type,
                      void* row) {
    return with_counts(type, [&](auto count) {
        return unit_to_row<Of<decltype(count)>>(times, range, grid, row);
    });
}

Fault any_units_to_time(const UnitSpikes& spikes, std::int64_t* begins, const std::int64_t* ends,
                        const Grid& grid, BinRange bins, DenseOut out) {
    return with_counts(out.type, [&](auto count) {
        return units_to_time<Of<decltype(count)>>(spikes, begins, ends, grid, bins, out.counts);
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
