#include "tokens.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "levels.hpp"
#include "threads.hpp"

namespace attendrite {

ATTENDRITE_DECLARE_TABLE(TokensTable, tokens_table)

namespace {

// Runs good(w) for every window; returns the first window that is not, or -1.
template <class Good>
std::int64_t first_bad(std::int64_t n_windows, int threads, const Good& good) {
    std::atomic<std::int64_t> bad{n_windows};
    parallel_for(n_windows, threads, [&](std::int64_t w) {
        if (good(w)) return;
        std::int64_t seen = bad.load();
        while (w < seen && !bad.compare_exchange_weak(seen, w)) {
        }
    });
    return bad < n_windows ? bad.load() : -1;
}

}  // namespace

std::int64_t count_tokens(const TokenWindows& windows, std::int64_t* lengths, int threads) {
    const TokensTable& table = ATTENDRITE_TABLE_IN_USE(tokens_table);
    return first_bad(windows.n_windows, threads,
                     [&](std::int64_t w) { return (lengths[w] = table.count(windows, w)) >= 0; });
}

std::int64_t write_tokens(const TokenWindows& windows, const TokenTarget& target, int threads) {
    const TokensTable& table = ATTENDRITE_TABLE_IN_USE(tokens_table);
    return first_bad(windows.n_windows, threads,
                     [&](std::int64_t w) { return table.write(windows, target, w); });
}

void window_ranges(const double* times, std::int64_t n, const double* starts,
                   std::int64_t n_windows, double length_ticks, double tick_rate,
                   std::int64_t* begin, std::int64_t* end) {
    const auto before = [&](double time, double tick) {
        return std::rint(time * tick_rate) < tick;
    };
    for (std::int64_t w = 0; w < n_windows; ++w) {
        const double first = std::rint(starts[w] * tick_rate);
        const double* const low = std::lower_bound(times, times + n, first, before);
        const double* const high = std::lower_bound(low, times + n, first + length_ticks, before);
        begin[w] = low - times;
        end[w] = high - times;
    }
}

}  // namespace attendrite
