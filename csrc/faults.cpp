#include "faults.hpp"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <vector>

namespace attendrite {
namespace {

const char* name_of(CountType type) {
    switch (type) {
        case CountType::u8:
            return "uint8";
        case CountType::u16:
            return "uint16";
        case CountType::i32:
            return "int32";
        case CountType::f32:
            return "float32";
    }
    return "unknown";
}

std::string spike(std::int64_t index, double time) {
    return "times[" + std::to_string(index) + "] = " + text_of(time);
}

std::int64_t tick_of(double time, const Grid& grid) {
    return static_cast<std::int64_t>(std::nearbyint(time * grid.tick_rate));
}

std::int64_t bin_of(double time, const Grid& grid) {
    return (tick_of(time, grid) - grid.start) / grid.width;  // spikes inside: never negative
}

bool inside(double time, const Grid& grid) {
    const double tick = std::nearbyint(time * grid.tick_rate);
    const auto start = static_cast<double>(grid.start);
    return tick >= start && tick < start + static_cast<double>(grid.n_bins * grid.width);
}

void check_finite(const double* times, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
        if (!std::isfinite(times[i])) throw_not_finite(i, times[i]);
    }
}

void check_sorted(const double* times, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin + 1; i < end; ++i) {
        if (times[i] < times[i - 1]) throw_unsorted(i, times[i], times[i - 1]);
    }
}

void check_inside(const double* times, std::int64_t n, const Grid& grid) {
    for (std::int64_t i = 0; i < n; ++i) {
        if (inside(times[i], grid)) continue;
        const double start = static_cast<double>(grid.start) / grid.tick_rate;
        const double stop =
            static_cast<double>(grid.start + grid.n_bins * grid.width) / grid.tick_rate;
        throw std::invalid_argument("times must lie in the bins, from " + text_of(start) +
                                    " s to before " + text_of(stop) + " s, got " +
                                    spike(i, times[i]) + "; pass outside='drop' to leave them out");
    }
}

[[noreturn]] void throw_nothing_found() {
    throw std::logic_error("a kernel refused spikes that break no rule; please report this");
}

}  // namespace

std::string text_of(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    const double size = std::fabs(value);
    const bool plain = size == 0.0 || (size >= 1e-4 && size < 1e16);
    char text[64];
    const auto end = std::to_chars(text, text + sizeof text, value,
                                   plain ? std::chars_format::fixed : std::chars_format::scientific)
                         .ptr;
    std::string out(text, end);
    if (plain && out.find('.') == std::string::npos) out += ".0";
    return out;
}

void check_grid(const Grid& grid) {
    constexpr auto kMost = static_cast<double>(std::int64_t{1} << 50);
    const double first = static_cast<double>(grid.start);
    const double last = first + static_cast<double>(grid.n_bins) * static_cast<double>(grid.width);
    // The bounds of the rate keep all edges well inside the range of normal doubles.
    const bool fine = grid.tick_rate >= 1e-6 && grid.tick_rate <= 1e15 && grid.width >= 1 &&
                      grid.n_bins >= 0 && grid.n_bins < (std::int64_t{1} << 31) &&
                      first >= -kMost && last <= kMost;
    if (!fine) {
        throw std::invalid_argument(
            "bins must have a width of at least one tick, lie within 2**50 ticks of 0 and be fewer "
            "than 2**31, at a tick_rate from 1e-6 to 1e15 Hz");
    }
}

void throw_not_finite(std::int64_t index, double time) {
    throw std::invalid_argument("times must be finite, got " + spike(index, time) +
                                "; remove or repair them");
}

void throw_unsorted(std::int64_t index, double time, double before) {
    throw std::invalid_argument("times must be sorted, got " + spike(index, time) + " after " +
                                text_of(before) + "; sort them first");
}

void throw_unknown_unit(std::int64_t index, std::int64_t unit, std::int64_t n_units) {
    throw std::invalid_argument("units must lie in 0.." + std::to_string(n_units - 1) +
                                ", got units[" + std::to_string(index) +
                                "] = " + std::to_string(unit));
}

void throw_overflow(CountType type, std::int64_t count, std::int64_t unit, std::int64_t bin) {
    throw std::invalid_argument("counts must fit " + std::string(name_of(type)) + ", got " +
                                std::to_string(count) + " spikes of unit " + std::to_string(unit) +
                                " in bin " + std::to_string(bin) + "; pass a wider dtype");
}

std::int64_t largest_count(CountType type) {
    switch (type) {
        case CountType::u8:
            return 255;
        case CountType::u16:
            return 65535;
        case CountType::i32:
            return (std::int64_t{1} << 31) - 1;
        case CountType::f32:
            return (std::int64_t{1} << 24) - 1;
    }
    return 0;
}

std::int64_t unit_at(const FlatSpikes& spikes, std::int64_t index) {
    return spikes.unit_type == UnitType::i32
               ? static_cast<const std::int32_t*>(spikes.units)[index]
               : static_cast<const std::uint16_t*>(spikes.units)[index];
}

void throw_fault(const FlatSpikes& spikes, const Grid& grid, CountType type, bool drop) {
    check_finite(spikes.times, spikes.n);
    check_sorted(spikes.times, 0, spikes.n);
    for (std::int64_t i = 0; i < spikes.n; ++i) {
        const std::int64_t unit = unit_at(spikes, i);
        if (unit < 0 || unit >= spikes.n_units) throw_unknown_unit(i, unit, spikes.n_units);
    }
    if (!drop) check_inside(spikes.times, spikes.n, grid);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(spikes.n_units));
    for (std::int64_t i = 0, j; i < spikes.n; i = j) {
        const bool counted = inside(spikes.times[i], grid);
        const std::int64_t bin = counted ? bin_of(spikes.times[i], grid) : -1;
        counts.assign(counts.size(), 0);
        for (j = i; j < spikes.n && inside(spikes.times[j], grid) == counted &&
                    (!counted || bin_of(spikes.times[j], grid) == bin);
             ++j) {
            counts[static_cast<std::size_t>(unit_at(spikes, j))] += counted ? 1 : 0;
        }
        for (std::size_t u = 0; u < counts.size(); ++u) {
            if (counts[u] > largest_count(type)) {
                throw_overflow(type, counts[u], static_cast<std::int64_t>(u), bin);
            }
        }
    }
    throw_nothing_found();
}

void throw_fault(const UnitSpikes& spikes, const Grid& grid, CountType type, bool drop) {
    check_finite(spikes.times, spikes.n);
    for (std::int64_t u = 0; u < spikes.n_units; ++u) {
        check_sorted(spikes.times, spikes.offsets[u], spikes.offsets[u + 1]);
    }
    if (!drop) check_inside(spikes.times, spikes.n, grid);
    std::int64_t first_bin = grid.n_bins;
    std::int64_t first_unit = 0;
    std::int64_t count = 0;
    for (std::int64_t u = 0; u < spikes.n_units; ++u) {
        std::int64_t bin = -1;
        std::int64_t in_bin = 0;
        const auto note = [&] {
            if (in_bin <= largest_count(type) || bin >= first_bin) return;
            first_bin = bin;
            first_unit = u;
            count = in_bin;
        };
        for (std::int64_t i = spikes.offsets[u]; i < spikes.offsets[u + 1]; ++i) {
            if (!inside(spikes.times[i], grid)) continue;
            const std::int64_t next = bin_of(spikes.times[i], grid);
            if (next != bin) {
                note();
                bin = next;
                in_bin = 0;
            }
            ++in_bin;
        }
        note();
    }
    if (count > 0) throw_overflow(type, count, first_unit, first_bin);
    throw_nothing_found();
}

}  // namespace attendrite
