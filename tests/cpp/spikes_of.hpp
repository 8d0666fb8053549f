// Random spikes, many on or next to the edges of bins, and their counts by the plain rule.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "spikes.hpp"

struct Recording {
    attendrite::Grid grid;
    std::int64_t n_units;
    std::vector<double> times;
    std::vector<std::int32_t> units;

    attendrite::FlatSpikes flat() const {
        return {times.data(), units.data(), attendrite::UnitType::i32,
                static_cast<std::int64_t>(times.size()), n_units};
    }
};

struct ByUnit {
    std::vector<double> times;
    std::vector<std::int64_t> offsets;

    explicit ByUnit(const Recording& r) : offsets(static_cast<std::size_t>(r.n_units) + 1) {
        for (std::int64_t u = 0; u < r.n_units; ++u) {
            for (std::size_t i = 0; i < r.times.size(); ++i) {
                if (r.units[i] == u) times.push_back(r.times[i]);
            }
            offsets[static_cast<std::size_t>(u) + 1] = static_cast<std::int64_t>(times.size());
        }
    }

    attendrite::UnitSpikes view() const {
        return {times.data(), offsets.data(), static_cast<std::int64_t>(times.size()),
                static_cast<std::int64_t>(offsets.size()) - 1};
    }
};

inline Recording random_recording(unsigned seed, std::int64_t n_units, std::int64_t n_bins,
                                  std::int64_t n) {
    std::mt19937 random(seed);
    const double rates[] = {1e6, 30000.0, 24414.0625, 7.0};
    const std::int64_t widths[] = {1, 2, 49, 20, 1000, 999983};
    const std::int64_t starts[] = {0, -500, 12345, 1000000000};
    Recording r{
        {rates[random() % 4], starts[random() % 4], widths[random() % 6], n_bins}, n_units, {}, {}};
    const std::int64_t ticks = r.grid.width * n_bins;
    while (ticks > 0 && n_units > 0 && static_cast<std::int64_t>(r.times.size()) < n) {
        std::int64_t tick = static_cast<std::int64_t>(random()) % ticks;
        if (random() % 2 == 0) tick -= tick % r.grid.width;
        double exact = static_cast<double>(r.grid.start + tick);
        if (random() % 3 == 0) exact += random() % 2 == 0 ? 0.5 : -0.5;
        double time = exact / r.grid.tick_rate;
        if (random() % 3 == 0) time = std::nextafter(time, random() % 2 == 0 ? 1e300 : -1e300);
        const double found = std::nearbyint(time * r.grid.tick_rate);
        const auto first = static_cast<double>(r.grid.start);
        if (found < first || found >= first + static_cast<double>(ticks)) continue;
        r.times.push_back(time);
    }
    std::sort(r.times.begin(), r.times.end());
    for (std::size_t i = 0; i < r.times.size(); ++i) {
        r.units.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(n_units)));
    }
    return r;
}

// [n_bins, n_units]
inline std::vector<int> plain_counts(const Recording& r) {
    std::vector<int> counts(static_cast<std::size_t>(r.grid.n_bins * r.n_units));
    for (std::size_t i = 0; i < r.times.size(); ++i) {
        const auto tick = static_cast<std::int64_t>(std::nearbyint(r.times[i] * r.grid.tick_rate));
        const std::int64_t bin = (tick - r.grid.start) / r.grid.width;
        ++counts[static_cast<std::size_t>(bin * r.n_units + r.units[i])];
    }
    return counts;
}
