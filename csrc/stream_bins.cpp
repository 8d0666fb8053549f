#include "stream_bins.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "faults.hpp"
#include "stream_table.hpp"

namespace attendrite {
namespace {

constexpr std::int64_t kMostTicks = std::int64_t{1} << 50;

std::int64_t size_of(CountType type) {
    return type == CountType::u8 ? 1 : type == CountType::u16 ? 2 : 4;
}

Grid checked(Grid grid) {
    grid.n_bins = 1;
    check_grid(grid);
    return grid;
}

}  // namespace

StreamBinner::StreamBinner(std::int64_t n_units, const Grid& grid, CountType type)
    : steps_(ATTENDRITE_TABLE_IN_USE(stream_table)),
      grid_(checked(grid)),
      type_(type),
      n_units_(n_units),
      open_start_(steps_.bin_start(grid_, 0)),
      open_end_(steps_.bin_start(grid_, 1)),
      last_spike_(-std::numeric_limits<double>::infinity()),
      open_(static_cast<std::size_t>(n_units), 0),
      working_(static_cast<std::size_t>(n_units), 0) {}

std::int64_t StreamBinner::closes(double time) const {
    if (!(time >= open_end_)) return 0;  // also NaN
    const double tick = std::nearbyint(time * grid_.tick_rate);
    if (tick >= static_cast<double>(kMostTicks)) return 0;
    return (static_cast<std::int64_t>(tick) - grid_.start) / grid_.width - closed_;
}

void StreamBinner::push(const FlatSpikes& chunk, void* out) {
    if (!steps_.valid(chunk, std::max(open_start_, last_spike_))) throw_fault(chunk);
    if (chunk.n == 0) return;
    const double last = chunk.times[chunk.n - 1];
    check_reach(last, "times");
    take(chunk, closes(last), out);
    last_spike_ = last;
}

void StreamBinner::advance(double time, void* out) {
    if (!std::isfinite(time)) {
        throw std::invalid_argument("time must be finite, got " + text_of(time));
    }
    check_reach(time, "time");
    take({nullptr, nullptr, UnitType::i32, 0, n_units_}, closes(time), out);
}

void StreamBinner::take(const FlatSpikes& chunk, std::int64_t closes, void* out) {
    if (closes == 0) {
        steps_.add(chunk, 0, chunk.n, open_.data());
        return;
    }
    working_ = open_;
    double edge = open_end_;
    std::int64_t at = 0;
    for (std::int64_t row = 0; row < closes; ++row) {
        const std::int64_t end = steps_.find_end(chunk, at, edge);
        steps_.add(chunk, at, end, working_.data());
        write_row(working_, closed_ + row, out, row);
        std::fill(working_.begin(), working_.end(), 0U);
        at = end;
        edge = steps_.bin_start(grid_, closed_ + row + 2);
    }
    steps_.add(chunk, at, chunk.n, working_.data());
    open_.swap(working_);
    closed_ += closes;
    open_start_ = steps_.bin_start(grid_, closed_);
    open_end_ = edge;
}

void StreamBinner::write_row(const std::vector<std::uint32_t>& counts, std::int64_t bin, void* out,
                             std::int64_t row) const {
    void* const cells = static_cast<char*>(out) + row * n_units_ * size_of(type_);
    if (steps_.convert(counts.data(), n_units_, type_, cells)) return;
    const auto beyond = std::find_if(counts.begin(), counts.end(), [this](std::uint32_t count) {
        return count > largest_count(type_);
    });
    throw_overflow(type_, *beyond, beyond - counts.begin(), bin);
}

void StreamBinner::check_reach(double time, const char* what) const {
    if (std::nearbyint(time * grid_.tick_rate) < static_cast<double>(kMostTicks)) return;
    throw std::invalid_argument(std::string(what) + " must lie within 2**50 ticks of 0, got " +
                                text_of(time) + " s; is it in seconds?");
}

void StreamBinner::throw_fault(const FlatSpikes& chunk) const {
    const double* t = chunk.times;
    for (std::int64_t i = 0; i < chunk.n; ++i) {
        if (!std::isfinite(t[i])) throw_not_finite(i, t[i]);
    }
    for (std::int64_t i = 1; i < chunk.n; ++i) {
        if (t[i] < t[i - 1]) throw_unsorted(i, t[i], t[i - 1]);
    }
    for (std::int64_t i = 0; i < chunk.n; ++i) {
        const std::int64_t unit = unit_at(chunk, i);
        if (unit < 0 || unit >= n_units_) throw_unknown_unit(i, unit, n_units_);
    }
    if (t[0] < open_start_) {
        throw std::invalid_argument(
            "times must not lie before the open bin, got times[0] = " + text_of(t[0]) + " where " +
            (closed_ == 0 ? "the first bin starts"
                          : "bin " + std::to_string(closed_) + " is open") +
            " at " +
            text_of(static_cast<double>(grid_.start + closed_ * grid_.width) / grid_.tick_rate) +
            " s; the spike came too late to be counted");
    }
    throw std::invalid_argument(
        "times must be sorted across chunks, got times[0] = " + text_of(t[0]) + " after " +
        text_of(last_spike_) + " in a chunk before; sort them first");
}

}  // namespace attendrite
