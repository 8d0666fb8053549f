#include <cstdint>
#include <cstring>

#include "levels.hpp"
#include "tokens_table.hpp"

namespace attendrite {
ATTENDRITE_DECLARE_TABLE(TokensTable, tokens_table)
}

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

constexpr std::int8_t kSpike = 0, kStart = 1, kEnd = 2;

// One window, and where its tokens go.
struct Window {
    const double* times;
    const std::int32_t* units;
    std::int64_t n;
    double origin;
    double length;
    std::uint32_t n_units;
    const std::uint8_t* exists;  // null: all

    std::int32_t* unit;
    double* time;
    std::int8_t* type;
};

// Spikes are looked at block by block, checked while they are in the first-level cache: reading
// times and units side by side hides more of the memory's latency than one after the other.
constexpr std::int64_t kBlock = 512;

// Whether the spikes first..stop-1 have known units and no time before the one in front of it.
// Counts what is bad, so that the loops have no branch; NaN compares false.
bool good_block(const Window& in, std::int64_t first, std::int64_t stop) {
    std::uint32_t largest = 0;
    for (std::int64_t i = first; i < stop; ++i) {
        const auto unit = static_cast<std::uint32_t>(in.units[i]);  // negative ones become large
        largest = unit > largest ? unit : largest;
    }
    std::int64_t back = 0;
    for (std::int64_t i = first + (first == 0); i < stop; ++i)
        back += in.times[i] >= in.times[i - 1] ? 0 : 1;
    return (first == stop || largest < in.n_units) && back == 0;
}

// Runs use(first, stop) on every block; false as soon as a spike is bad. Sorted times are inside
// the window, and finite, when the first and the last are.
template <class Use>
bool each_block(const Window& in, double tick, const Use& use) {
    if (in.n == 0) return true;
    const double first = in.times[0] - in.origin, last = in.times[in.n - 1] - in.origin;
    if (!(first >= -tick && last < in.length)) return false;
    for (std::int64_t at = 0; at < in.n; at += kBlock) {
        const std::int64_t stop = at + kBlock < in.n ? at + kBlock : in.n;
        if (!good_block(in, at, stop)) return false;
        use(at, stop);
    }
    return true;
}

// Where START and END of a unit go; returns the place after them.
std::int64_t put_ends(const Window& out, std::int64_t at, std::uint32_t unit) {
    out.unit[at] = out.unit[at + 1] = static_cast<std::int32_t>(unit);
    out.time[at] = 0.0;
    out.time[at + 1] = out.length;
    out.type[at] = kStart;
    out.type[at + 1] = kEnd;
    return at + 2;
}

// Locals and __restrict: a double that is stored might else be the origin, and be read again.
void put_spikes(const Window& w, std::int64_t first, std::int64_t n, std::int64_t at) {
    std::memcpy(w.unit + at, w.units + first, static_cast<std::size_t>(n) * sizeof(std::int32_t));
    std::memset(w.type + at, kSpike, static_cast<std::size_t>(n));
    const double* const __restrict from = w.times + first;
    double* const __restrict to = w.time + at;
    const double origin = w.origin;
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] - origin;
}

bool time_order(const Window& w, double tick) {
    std::int64_t at = 0;
    for (std::uint32_t u = 0; u < w.n_units; ++u) {
        if (w.exists == nullptr || w.exists[u]) at = put_ends(w, at, u);
    }
    return each_block(w, tick, [&](std::int64_t first, std::int64_t stop) {
        if (w.exists == nullptr) {
            put_spikes(w, first, stop - first, at);
            at += stop - first;
            return;
        }
        for (std::int64_t i = first; i < stop; ++i) {
            if (!w.exists[w.units[i]]) continue;
            w.unit[at] = w.units[i];
            w.time[at] = w.times[i] - w.origin;
            w.type[at] = kSpike;
            ++at;
        }
    });
}

// Writes `unit` and type 0 to at..stop-1, and perhaps a little further, up to `limit`: what comes
// there is written later. Whole blocks need no loop for the rest of a unit of a few spikes.
void put_run(const Window& out, std::int64_t at, std::int64_t stop, std::int64_t limit,
             std::int32_t unit) {
    constexpr std::int64_t kRun = 16;
    for (; at < stop && at + kRun <= limit; at += kRun) {
        for (std::int64_t i = 0; i < kRun; ++i) out.unit[at + i] = unit;
        std::memset(out.type + at, kSpike, kRun);
        __builtin_prefetch(out.time + at + kRun / 2, 1);  // the times come in another order, later
        __builtin_prefetch(out.time + at + kRun, 1);
    }
    for (; at < stop; ++at) {
        out.unit[at] = unit;
        out.type[at] = kSpike;
    }
}

// Puts each time at the next place of its unit.
void scatter_times(const Window& w, std::int64_t* const __restrict next) {
    const double* const __restrict times = w.times;
    const std::int32_t* const __restrict units = w.units;
    double* const __restrict to = w.time;
    const std::int64_t n = w.n;
    const double origin = w.origin;
    if (w.exists == nullptr) {
        for (std::int64_t i = 0; i < n; ++i) to[next[units[i]]++] = times[i] - origin;
        return;
    }
    for (std::int64_t i = 0; i < n; ++i) {
        if (w.exists[units[i]]) to[next[units[i]]++] = times[i] - origin;
    }
}

// A counting sort by unit, stable, in the memory of its result: offsets[u + 1] is first the number
// of spikes of u, then the place of the next one, and at last where u ends.
bool unit_order(const Window& w, double tick, std::int64_t* offsets, std::int64_t n_tokens) {
    std::int64_t* const next = offsets + 1;
    std::memset(offsets, 0, (w.n_units + std::size_t{1}) * sizeof(std::int64_t));
    const bool good = each_block(w, tick, [&](std::int64_t first, std::int64_t stop) {
        for (std::int64_t i = first; i < stop; ++i) ++next[w.units[i]];
    });
    if (!good) return false;
    std::int64_t at = 0;
    for (std::uint32_t u = 0; u < w.n_units; ++u) {
        const std::int64_t spikes = next[u];
        next[u] = at;
        if (w.exists != nullptr && !w.exists[u]) continue;
        next[u] = put_ends(w, at, u);
        at = next[u] + spikes;
        put_run(w, next[u], at, n_tokens, static_cast<std::int32_t>(u));
    }
    scatter_times(w, next);
    return true;
}

// Zeros after the tokens of a row.
void pad(const TokenTarget& target, std::int64_t w, std::int64_t n_tokens) {
    const std::int64_t start = w * target.row;
    const std::int64_t at = start + n_tokens;
    const auto rest = static_cast<std::size_t>(target.row - n_tokens);
    std::memset(target.unit + at, 0, rest * sizeof(std::int32_t));
    std::memset(target.time + at, 0, rest * sizeof(double));
    std::memset(target.type + at, 0, rest);
    std::memset(target.mask + start, 1, static_cast<std::size_t>(n_tokens));
    std::memset(target.mask + at, 0, rest);
}

Window window(const TokenWindows& in, std::int64_t w) {
    const std::int64_t first = in.begin[w];
    return {in.times + first,
            in.units + first,
            in.end[w] - first,
            in.origin[w],
            in.length,
            static_cast<std::uint32_t>(in.n_units),
            in.exists == nullptr ? nullptr : in.exists + w * in.n_units,
            nullptr,
            nullptr,
            nullptr};
}

std::int64_t count(const TokenWindows& windows, std::int64_t index) {
    const Window w = window(windows, index);
    std::int64_t tokens = 0;
    for (std::uint32_t u = 0; u < w.n_units; ++u) tokens += w.exists[u] != 0 ? 2 : 0;
    for (std::int64_t i = 0; i < w.n; ++i) {
        const auto unit = static_cast<std::uint32_t>(w.units[i]);
        if (unit >= w.n_units) return -1;
        tokens += w.exists[unit] != 0 ? 1 : 0;
    }
    return tokens;
}

bool write(const TokenWindows& windows, const TokenTarget& target, std::int64_t index) {
    Window w = window(windows, index);
    const bool padded = target.mask != nullptr;
    const std::int64_t at = padded ? index * target.row : target.cu_seqlens[index];
    const std::int64_t n_tokens = target.cu_seqlens[index + 1] - target.cu_seqlens[index];
    w.unit = target.unit + at;
    w.time = target.time + at;
    w.type = target.type + at;
    if (padded) pad(target, index, n_tokens);
    if (target.unit_offsets == nullptr) return time_order(w, windows.tick);
    std::int64_t* const offsets = target.unit_offsets + index * (windows.n_units + 1);
    return unit_order(w, windows.tick, offsets, n_tokens);
}

}  // namespace

const TokensTable tokens_table = {count, write};

}  // namespace attendrite::ATTENDRITE_LEVEL
