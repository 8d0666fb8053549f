#include <limits>

#include "check.hpp"
#include "spikes_of.hpp"
#include "tokens.hpp"

using namespace attendrite;

namespace {

constexpr double kTick = 1e-6, kLength = 0.25;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Windows that overlap, of spikes many of which lie on, or half a tick beside, their edges.
struct Batch {
    std::vector<double> times;
    std::vector<std::int32_t> units;
    std::vector<double> origin;
    std::vector<std::int64_t> begin, end;
    std::vector<std::uint8_t> exists;  // empty: all
    std::int64_t n_units;

    std::int64_t size() const { return static_cast<std::int64_t>(origin.size()); }

    TokenWindows windows() const {
        return {times.data(), units.data(),  begin.data(),
                end.data(),   origin.data(), exists.empty() ? nullptr : exists.data(),
                size(),       n_units,       kLength,
                kTick};
    }

    bool has(std::int64_t w, std::int64_t unit) const {
        return exists.empty() || exists[at(w * n_units + unit)];
    }

    void cut() {
        begin.assign(origin.size(), -1);
        end.assign(origin.size(), -1);
        window_ranges(times.data(), static_cast<std::int64_t>(times.size()), origin.data(), size(),
                      kLength / kTick, 1 / kTick, begin.data(), end.data());
    }
};

Batch random_batch(unsigned seed, std::int64_t n_units, std::int64_t n_windows, int n,
                   bool all_exist) {
    std::mt19937 random(seed);
    Batch b{{}, {}, {}, {}, {}, {}, n_units};
    const auto ticks = [&] { return static_cast<double>(random() % 1000000); };
    for (std::int64_t w = 0; w < n_windows; ++w) b.origin.push_back(ticks() * kTick);
    for (int i = 0; i < (n_units ? n : 0); ++i) {
        double time = ticks() * kTick;
        if (n_windows && i % 3 == 0) time = b.origin[at(i % n_windows)] + i % 2 * kLength;
        if (i % 5 == 0) time += (i % 2 ? 0.5 : -0.5) * kTick;
        b.times.push_back(time);
        b.units.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(n_units)));
    }
    std::sort(b.times.begin(), b.times.end());
    for (std::int64_t i = 0; !all_exist && i < n_windows * n_units; ++i)
        b.exists.push_back(random() % 3 != 0);
    b.cut();
    return b;
}

struct Token {
    std::int32_t unit;
    double time;
    int type;
    bool operator==(const Token& o) const {
        return unit == o.unit && time == o.time && type == o.type;
    }
};

std::vector<Token> plain_tokens(const Batch& b, std::int64_t w, bool by_unit) {
    std::vector<Token> tokens;
    const auto spikes = [&](std::int64_t unit) {  // of one unit, or of all for -1
        for (std::int64_t i = b.begin[at(w)]; i < b.end[at(w)]; ++i) {
            const std::int32_t u = b.units[at(i)];
            if (b.has(w, u) && (unit < 0 || u == unit))
                tokens.push_back({u, b.times[at(i)] - b.origin[at(w)], 0});
        }
    };
    for (std::int32_t u = 0; u < b.n_units; ++u) {
        if (!b.has(w, u)) continue;
        tokens.push_back({u, 0.0, 1});
        tokens.push_back({u, kLength, 2});
        if (by_unit) spikes(u);
    }
    if (!by_unit) spikes(-1);
    return tokens;
}

// What was written, in memory that shows every place that nobody wrote or that is not ours.
struct Written {
    std::vector<std::int32_t> unit;
    std::vector<double> time;
    std::vector<std::int8_t> type;
    std::vector<std::uint8_t> mask;
    std::vector<std::int64_t> offsets, cu_seqlens;
    std::int64_t row, bad;

    Written(const Batch& b, bool by_unit, bool padded, int threads)
        : cu_seqlens{0}, row(padded ? 3 : 0) {
        for (std::int64_t w = 0; w < b.size(); ++w) {
            const auto n = static_cast<std::int64_t>(plain_tokens(b, w, by_unit).size());
            cu_seqlens.push_back(cu_seqlens.back() + n);
            if (padded) row = std::max(row, n + 3);
        }
        const std::size_t n = at(padded ? row * b.size() : cu_seqlens.back()) + 1;
        unit.assign(n, -7);
        time.assign(n, kNaN);
        type.assign(n, 77);
        mask.assign(n, 77);
        offsets.assign(at(b.size() * (b.n_units + 1)) + 1, -7);
        const TokenTarget target{unit.data(),
                                 time.data(),
                                 type.data(),
                                 padded ? mask.data() : nullptr,
                                 by_unit ? offsets.data() : nullptr,
                                 cu_seqlens.data(),
                                 row};
        bad = write_tokens(b.windows(), target, threads);
    }

    Token token(std::int64_t i) const { return {unit[at(i)], time[at(i)], type[at(i)]}; }
};

void check_tokens(const Batch& b, bool by_unit, bool padded, int threads) {
    const Written out(b, by_unit, padded, threads);
    CHECK(out.bad == -1);
    for (std::int64_t w = 0; w < b.size(); ++w) {
        const std::vector<Token> expected = plain_tokens(b, w, by_unit);
        const auto n = static_cast<std::int64_t>(expected.size());
        const std::int64_t start = padded ? w * out.row : out.cu_seqlens[at(w)];
        for (std::int64_t i = 0; i < std::max(n, out.row); ++i) {
            const Token empty{0, 0.0, 0};
            CHECK(out.token(start + i) == (i < n ? expected[at(i)] : empty));
            if (padded) CHECK(out.mask[at(start + i)] == (i < n));
        }
        if (!by_unit) continue;
        const std::int64_t* const offsets = out.offsets.data() + w * (b.n_units + 1);
        CHECK(offsets[b.n_units] == n);
        for (std::int64_t u = 0; u < b.n_units; ++u) {
            CHECK(offsets[u] <= offsets[u + 1]);
            for (std::int64_t i = offsets[u]; i < offsets[u + 1]; ++i)
                CHECK(out.unit[at(start + i)] == u);
        }
    }
    CHECK(out.unit.back() == -7 && out.type.back() == 77 && out.offsets.back() == -7);
}

void check_counts(const Batch& b, int threads) {
    std::vector<std::int64_t> lengths(b.origin.size() + 1, -7);
    CHECK(count_tokens(b.windows(), lengths.data(), threads) == -1);
    for (std::int64_t w = 0; w < b.size(); ++w)
        CHECK(lengths[at(w)] == static_cast<std::int64_t>(plain_tokens(b, w, false).size()));
    CHECK(lengths.back() == -7);
}

void check_ranges(const Batch& b) {
    for (std::int64_t w = 0; w < b.size(); ++w) {
        const double first = std::nearbyint(b.origin[at(w)] / kTick);
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(b.times.size()); ++i) {
            const double tick = std::nearbyint(b.times[at(i)] * (1 / kTick));
            const bool inside = tick >= first && tick < first + kLength / kTick;
            CHECK(inside == (i >= b.begin[at(w)] && i < b.end[at(w)]));
        }
    }
}

void random_windows() {
    unsigned seed = 0;
    for (const std::int64_t n_units : {0, 1, 17, 63, 300}) {
        for (const std::int64_t n_windows : {0, 1, 9}) {
            for (const int n : {0, 1, 100, 4000}) {
                for (const bool all_exist : {true, false}) {
                    Batch b = random_batch(++seed, n_units, n_windows, n, all_exist);
                    check_ranges(b);
                    for (const int threads : {1, 4}) {
                        if (!b.exists.empty()) check_counts(b, threads);
                        for (const bool by_unit : {true, false}) {
                            for (const bool padded : {true, false})
                                check_tokens(b, by_unit, padded, threads);
                        }
                    }
                }
            }
        }
    }
}

// The first bad window, the same whatever the order, the form and the number of threads.
std::int64_t bad_window(const Batch& b) {
    std::int64_t bad = -2;
    for (const int threads : {1, 4}) {
        for (const bool by_unit : {true, false}) {
            for (const bool padded : {true, false}) {
                const std::int64_t now = Written(b, by_unit, padded, threads).bad;
                CHECK(bad == -2 || now == bad);
                bad = now;
            }
        }
    }
    return bad;
}

// Nine windows side by side with 700 spikes each: more than one block of the checks.
Batch side_by_side() {
    Batch b{{}, {}, {}, {}, {}, {}, 5};
    for (int w = 0; w < 9; ++w) {
        b.origin.push_back(w * kLength);
        for (int i = 0; i < 700; ++i) {
            b.times.push_back((w + i / 700.0) * kLength);
            b.units.push_back(i % 5);
        }
    }
    b.cut();
    return b;
}

void faults() {
    const Batch good = side_by_side();
    CHECK(bad_window(good) == -1);
    constexpr std::size_t kFifth = 5 * 700, kThird = 3 * 700;
    for (const std::size_t i :
         {std::size_t{0}, std::size_t{511}, std::size_t{512}, std::size_t{699}}) {
        for (const double time : {kNaN, 1e300, -1e300, std::numeric_limits<double>::infinity()}) {
            Batch bad = good;
            bad.times[kFifth + i] = bad.times[kThird + i] = time;
            CHECK(bad_window(bad) == 3);
        }
    }
    Batch bad = good;
    std::swap(bad.times[kFifth + 511], bad.times[kFifth + 512]);  // unsorted across blocks
    CHECK(bad_window(bad) == 5);
    for (const double ticks : {-0.5, -1.5}) {  // a spike may lie a tick before its window
        bad = good;
        bad.times[kFifth] = bad.origin[5] + ticks * kTick;
        CHECK(bad_window(bad) == (ticks > -1 ? -1 : 5));
    }
}

void unknown_units() {
    for (const std::int32_t unit : {5, -1, std::numeric_limits<std::int32_t>::max()}) {
        Batch bad = side_by_side();
        bad.exists.assign(at(bad.size() * bad.n_units), 1);
        // counted as tokens of unit 0 by the plain loop, which makes room for them
        Batch room = bad;
        bad.units[7 * 700 + 600] = bad.units[4 * 700 + 1] = unit;
        std::vector<std::int64_t> lengths(9);
        const Written sized(room, true, false, 1);
        std::vector<std::int32_t> units(sized.unit.size());
        std::vector<double> times(sized.unit.size());
        std::vector<std::int8_t> types(sized.unit.size());
        std::vector<std::int64_t> offsets(sized.offsets.size());
        for (const int threads : {1, 4}) {
            CHECK(count_tokens(bad.windows(), lengths.data(), threads) == 4);
            for (std::int64_t* const by_unit :
                 {offsets.data(), static_cast<std::int64_t*>(nullptr)}) {
                const TokenTarget target{units.data(),
                                         times.data(),
                                         types.data(),
                                         nullptr,
                                         by_unit,
                                         sized.cu_seqlens.data(),
                                         0};
                CHECK(write_tokens(bad.windows(), target, threads) == 4);
            }
        }
    }
}

}  // namespace

int main() {
    on_every_level([] {
        random_windows();
        faults();
        unknown_units();
    });
    return failures() == 0 ? 0 : 1;
}
