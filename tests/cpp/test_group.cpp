#include <limits>

#include "check.hpp"
#include "group.hpp"
#include "spikes_of.hpp"

using namespace attendrite;

namespace {

// Spikes enough for several slices of a merge and several parts of a grouping.
constexpr std::int64_t kSizes[] = {0, 1, 17, 4095, 50000};

std::int64_t size(const Recording& r) { return static_cast<std::int64_t>(r.times.size()); }

struct Grouped {
    std::vector<double> times;
    std::vector<std::int64_t> offsets;
    bool good;

    Grouped(const Recording& r, int threads)
        : times(r.times.size() + 1, -7), offsets(static_cast<std::size_t>(r.n_units) + 2, -7) {
        good = group_by_unit(r.times.data(), r.units.data(), size(r), r.n_units, times.data(),
                             offsets.data(), threads);
        CHECK(times.back() == -7 && offsets.back() == -7);  // writes beyond show
        times.pop_back();
        offsets.pop_back();
    }
};

struct Merged {
    std::vector<double> times;
    std::vector<std::int32_t> units;
    bool good;

    Merged(const ByUnit& spikes, int threads)
        : times(spikes.times.size() + 1, -7), units(spikes.times.size() + 1, -7) {
        good = merge_units(spikes.times.data(), spikes.offsets.data(),
                           static_cast<std::int64_t>(spikes.offsets.size()) - 1, times.data(),
                           units.data(), threads);
        CHECK(times.back() == -7 && units.back() == -7);
        times.pop_back();
        units.pop_back();
    }
};

// Equal times in the order of their units.
Recording plain_merge(const ByUnit& spikes) {
    struct Spike {
        double time;
        std::int32_t unit;
    };
    std::vector<Spike> all;
    for (std::size_t u = 0; u + 1 < spikes.offsets.size(); ++u) {
        for (auto i = spikes.offsets[u]; i < spikes.offsets[u + 1]; ++i)
            all.push_back(
                {spikes.times[static_cast<std::size_t>(i)], static_cast<std::int32_t>(u)});
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Spike& a, const Spike& b) { return a.time < b.time; });
    Recording r{{}, static_cast<std::int64_t>(spikes.offsets.size()) - 1, {}, {}};
    for (const Spike& spike : all) {
        r.times.push_back(spike.time);
        r.units.push_back(spike.unit);
    }
    return r;
}

void check_both_ways(const Recording& r) {
    const ByUnit grouped(r);
    const Recording merged = plain_merge(grouped);
    for (const int threads : {1, 4}) {
        const Grouped g(r, threads);
        CHECK(g.good);
        CHECK(g.times == grouped.times);
        CHECK(g.offsets == grouped.offsets);
        const Merged m(grouped, threads);
        CHECK(m.good);
        CHECK(m.times == merged.times);
        CHECK(m.units == merged.units);
    }
}

void random_spikes() {
    unsigned seed = 0;
    for (const std::int64_t n_units : {0, 1, 17, 100, 3000}) {
        for (const std::int64_t n : kSizes) {
            Recording r = random_recording(++seed, n_units, 300, n_units == 3000 ? n / 10 : n);
            check_both_ways(r);
            // Before and after zero: the bits of negative doubles order the other way round.
            const double middle = r.times.empty() ? 0 : r.times[r.times.size() / 2];
            for (double& time : r.times) time -= middle;
            check_both_ways(r);
        }
    }
}

void special_times() {
    Recording r{{}, 3, {}, {}};
    const double least = std::numeric_limits<double>::denorm_min();
    const double most = std::numeric_limits<double>::max();
    for (const double time : {-most, -1.0, -least, -0.0, 0.0, -0.0, 0.0, least, 1.0, most}) {
        for (const std::int32_t unit : {2, 0, 1}) {
            r.times.push_back(time);
            r.units.push_back(unit);
        }
    }
    check_both_ways(r);
    for (double& time : r.times) time = 3.5;  // all at once
    check_both_ways(r);
}

bool refused(const Recording& r) {
    const bool one = Grouped(r, 1).good, four = Grouped(r, 4).good;
    CHECK(one == four);
    return !one;
}

bool refused(const ByUnit& spikes) {
    const bool one = Merged(spikes, 1).good, four = Merged(spikes, 4).good;
    CHECK(one == four);
    return !one;
}

void faults() {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const Recording good = random_recording(7, 40, 300, 20000);
    const ByUnit by_unit(good);
    CHECK(!refused(good) && !refused(by_unit));
    for (const std::size_t i : {std::size_t{0}, std::size_t{1023}, std::size_t{1024},
                                std::size_t{5000}, std::size_t{19999}}) {
        for (const std::int32_t unit :
             {40, 1 << 16, -1, std::numeric_limits<std::int32_t>::max()}) {
            Recording bad = good;
            bad.units[i] = unit;
            CHECK(refused(bad));
        }
        for (const double time :
             {std::numeric_limits<double>::quiet_NaN(), kInfinity, -kInfinity}) {
            Recording bad = good;
            bad.times[i] = time;
            CHECK(refused(bad));
            ByUnit bad_unit = by_unit;
            bad_unit.times[i] = time;
            CHECK(refused(bad_unit));
        }
    }
    for (const std::size_t i : {1, 1024, 5000, 19999}) {  // borders of blocks and of parts
        Recording bad = good;
        bad.times[i - 1] = std::nextafter(bad.times[i], kInfinity);
        CHECK(refused(bad));
    }
    ByUnit bad_unit = by_unit;
    bad_unit.times[static_cast<std::size_t>(by_unit.offsets[20])] = 1e300;
    CHECK(refused(bad_unit));
    bad_unit = by_unit;  // between units, times may go back
    for (auto i = by_unit.offsets[20]; i < by_unit.offsets[40]; ++i)
        bad_unit.times[static_cast<std::size_t>(i)] -= 1e6;
    CHECK(!refused(bad_unit));
}

}  // namespace

// group.cpp is compiled once, not for every level.
int main() {
    random_spikes();
    special_times();
    faults();
    return failures() == 0 ? 0 : 1;
}
