#include "group.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "threads.hpp"

namespace attendrite {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sorted and finite. Counts what is bad, so that the loop has no branch; NaN compares false. Sorted
// times are finite when the first and the last are.
bool good_times(const double* times, std::int64_t n) {
    if (n == 0) return true;
    std::int64_t bad = !(times[0] > -kInfinity) + !(times[n - 1] < kInfinity);
    for (std::int64_t i = 1; i < n; ++i) bad += times[i] >= times[i - 1] ? 0 : 1;
    return bad == 0;
}

bool good_units(const std::int32_t* units, std::int64_t n, std::int64_t n_units) {
    std::uint32_t largest = 0;
    for (std::int64_t i = 0; i < n; ++i)  // negative ones become large
        largest = std::max(largest, static_cast<std::uint32_t>(units[i]));
    return n == 0 || largest < n_units;
}

// Counts the spikes first..stop-1 of each unit; false when one is bad. Block by block, so that each
// is checked and counted while it is in the cache.
bool count_spikes(const double* times, const std::int32_t* units, std::int64_t first,
                  std::int64_t stop, std::vector<std::int64_t>& counts) {
    constexpr std::int64_t kBlock = 1024;
    const auto n_units = static_cast<std::int64_t>(counts.size());
    for (std::int64_t at = first; at < stop; at += kBlock) {
        const std::int64_t end = std::min(at + kBlock, stop);
        const std::int64_t before = at > 0;  // the last spike of the block before
        if (!good_units(units + at, end - at, n_units)) return false;
        if (!good_times(times + at - before, end - at + before)) return false;
        for (std::int64_t i = at; i < end; ++i) ++counts[static_cast<std::size_t>(units[i])];
    }
    return true;
}

// ---- merging ----

// Spikes sorted at a time: with their units and a second copy they stay in the second-level cache.
// More where there are many units: each gives about kRun spikes, so that the cuts stay small.
constexpr std::int64_t kSlice = 1 << 14, kRun = 16;

struct Spike {
    std::uint64_t key;  // orders like the time
    std::int32_t unit;
};

constexpr std::uint64_t kSign = std::uint64_t{1} << 63;

// The bits of a double, changed so that they order like the double: negative ones are reversed.
std::uint64_t key_of(double time) {
    time += 0.0;  // -0.0 and 0.0 are equal times
    std::uint64_t bits;
    std::memcpy(&bits, &time, sizeof bits);
    return bits & kSign ? ~bits : bits | kSign;
}

double time_of(std::uint64_t key) {
    const std::uint64_t bits = key & kSign ? key & ~kSign : ~key;
    double time;
    std::memcpy(&time, &bits, sizeof time);
    return time;
}

// Stable radix sort from the lowest digit, over the bits in which the keys differ. Returns the
// array that holds the result.
std::vector<Spike>& radix_sort(std::vector<Spike>& spikes, std::vector<Spike>& other,
                               std::uint64_t low, std::uint64_t high) {
    constexpr int kWidest = 11;
    int bits = 0;
    while (bits < 64 && (high - low) >> bits) ++bits;
    const int passes = (bits + kWidest - 1) / kWidest;
    const int width = passes ? (bits + passes - 1) / passes : 0;
    const std::uint64_t digit = (std::uint64_t{1} << width) - 1;
    std::vector<Spike>*from = &spikes, *to = &other;
    for (int pass = 0; pass < passes; ++pass, std::swap(from, to)) {
        const int shift = pass * width;
        std::uint32_t place[1 << kWidest] = {};
        for (const Spike& s : *from) ++place[(s.key - low) >> shift & digit];
        std::uint32_t at = 0;
        for (std::uint64_t d = 0; d <= digit; ++d) at += std::exchange(place[d], at);
        for (const Spike& s : *from) (*to)[place[(s.key - low) >> shift & digit]++] = s;
    }
    return *from;
}

// The times of all units cut at common edges, so that the slices between them sort independently.
class Slices {
  public:
    Slices(const double* times, const std::int64_t* offsets, std::int64_t n_units)
        : times_(times), offsets_(offsets), n_units_(n_units) {
        double low = kInfinity, high = -kInfinity;
        for (std::int64_t u = 0; u < n_units; ++u) {
            if (offsets[u] == offsets[u + 1]) continue;
            low = std::min(low, times[offsets[u]]);
            high = std::max(high, times[offsets[u + 1] - 1]);
        }
        const std::int64_t n = offsets[n_units] / std::max(kSlice, kRun * n_units) + 1;
        const auto part = [&](std::int64_t s) {
            return static_cast<double>(s) / static_cast<double>(n);
        };
        for (std::int64_t s = 1; s < n; ++s) edges_.push_back(low * (1 - part(s)) + high * part(s));
        edges_.push_back(kInfinity);
        cuts_.resize(static_cast<std::size_t>((n + 1) * n_units));
        starts_.resize(static_cast<std::size_t>(n + 1));
    }

    std::int64_t size() const { return static_cast<std::int64_t>(edges_.size()); }

    // Finds the cuts of a unit; false when its times are bad.
    bool cut(std::int64_t u) {
        if (!good_times(times_ + offsets_[u], offsets_[u + 1] - offsets_[u])) return false;
        std::int64_t i = offsets_[u];
        at(0, u) = i;
        for (std::int64_t s = 0; s < size(); ++s) {
            while (i < offsets_[u + 1] && times_[i] < edges_[static_cast<std::size_t>(s)]) ++i;
            at(s + 1, u) = i;
        }
        return true;
    }

    void cut_done() {
        for (std::int64_t s = 0; s < size(); ++s) {
            std::int64_t n = 0;
            for (std::int64_t u = 0; u < n_units_; ++u) n += at(s + 1, u) - at(s, u);
            starts_[static_cast<std::size_t>(s + 1)] = starts_[static_cast<std::size_t>(s)] + n;
        }
    }

    void sort(std::int64_t s, double* times, std::int32_t* units) {
        const std::int64_t start = starts_[static_cast<std::size_t>(s)];
        const auto n = static_cast<std::size_t>(starts_[static_cast<std::size_t>(s + 1)] - start);
        std::vector<Spike> spikes(n), other(n);
        std::uint64_t low = ~std::uint64_t{0}, high = 0;
        Spike* to = spikes.data();
        for (std::int64_t u = 0; u < n_units_; ++u) {
            prefetch(s, u + kAhead);
            const std::int64_t first = at(s, u), stop = at(s + 1, u);
            if (first == stop) continue;
            low = std::min(low, key_of(times_[first]));
            high = std::max(high, key_of(times_[stop - 1]));
            for (std::int64_t i = first; i < stop; ++i)
                *to++ = {key_of(times_[i]), static_cast<std::int32_t>(u)};
        }
        if (n == 0) return;
        for (const Spike& spike : radix_sort(spikes, other, low, high)) {
            *(times + start) = time_of(spike.key);
            *(units + start) = spike.unit;
            ++times, ++units;
        }
    }

  private:
    // A few spikes of each of many units: every unit is a new place in memory.
    static constexpr std::int64_t kAhead = 8;

    void prefetch(std::int64_t s, std::int64_t u) {
        if (u >= n_units_) return;
        constexpr std::int64_t kLine = 64 / sizeof(double);
        for (std::int64_t i = at(s, u); i < at(s + 1, u); i += kLine)
            __builtin_prefetch(times_ + i);
    }

    std::int64_t& at(std::int64_t s, std::int64_t u) {
        return cuts_[static_cast<std::size_t>(s * n_units_ + u)];
    }

    const double* times_;
    const std::int64_t* offsets_;
    std::int64_t n_units_;
    std::vector<double> edges_;         // [S], where each slice ends
    std::vector<std::int64_t> cuts_;    // [S + 1, N], spikes of a unit before each slice
    std::vector<std::int64_t> starts_;  // [S + 1], spikes of all units before each slice
};

}  // namespace

bool group_by_unit(const double* times, const std::int32_t* units, std::int64_t n,
                   std::int64_t n_units, double* times_by_unit, std::int64_t* offsets,
                   int threads) {
    // Each thread takes one part of the spikes, so that the order within a unit stays.
    const std::int64_t parts = std::clamp<std::int64_t>(threads, 1, n / 4096 + 1);
    const auto cut = [&](std::int64_t p) { return n * p / parts; };
    std::vector<std::vector<std::int64_t>> place(static_cast<std::size_t>(parts));
    std::atomic<bool> good{true};
    parallel_for(parts, threads, [&](std::int64_t p) {
        auto& counts = place[static_cast<std::size_t>(p)];
        counts.assign(static_cast<std::size_t>(n_units), 0);
        if (!count_spikes(times, units, cut(p), cut(p + 1), counts)) good = false;
    });
    if (!good) return false;
    std::int64_t at = 0;
    for (std::int64_t u = 0; u < n_units; ++u) {
        offsets[u] = at;
        for (auto& counts : place) at += std::exchange(counts[static_cast<std::size_t>(u)], at);
    }
    offsets[n_units] = at;
    parallel_for(parts, threads, [&](std::int64_t p) {
        std::int64_t* const next = place[static_cast<std::size_t>(p)].data();
        for (std::int64_t i = cut(p); i < cut(p + 1); ++i)
            times_by_unit[next[units[i]]++] = times[i];
    });
    return true;
}

bool merge_units(const double* times_by_unit, const std::int64_t* offsets, std::int64_t n_units,
                 double* times, std::int32_t* units, int threads) {
    if (offsets[n_units] == 0) return true;
    Slices slices(times_by_unit, offsets, n_units);
    std::atomic<bool> good{true};
    parallel_for(n_units, threads, [&](std::int64_t u) {
        if (!slices.cut(u)) good = false;
    });
    if (!good) return false;
    slices.cut_done();
    parallel_for(slices.size(), threads, [&](std::int64_t s) { slices.sort(s, times, units); });
    return true;
}

}  // namespace attendrite
