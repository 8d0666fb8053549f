#include <limits>

#include "binning.hpp"
#include "check.hpp"
#include "spikes_of.hpp"

using namespace attendrite;

namespace {

constexpr std::int64_t kSizes[] = {0, 1, 17, 63, 64, 100, 300};

template <class T>
constexpr CountType kType = CountType::i32;
template <>
constexpr CountType kType<std::uint8_t> = CountType::u8;
template <>
constexpr CountType kType<std::uint16_t> = CountType::u16;
template <>
constexpr CountType kType<float> = CountType::f32;

template <class T>
std::vector<int> as_time_major(const std::vector<T>& counts, const Recording& r, Layout layout) {
    std::vector<int> out(counts.size());
    for (std::int64_t k = 0; k < r.grid.n_bins; ++k) {
        for (std::int64_t u = 0; u < r.n_units; ++u) {
            const std::int64_t from =
                layout == Layout::time ? k * r.n_units + u : u * r.grid.n_bins + k;
            out[static_cast<std::size_t>(k * r.n_units + u)] =
                static_cast<int>(counts[static_cast<std::size_t>(from)]);
        }
    }
    return out;
}

template <class T>
void check_dense(const Recording& r) {
    const std::vector<int> expected = plain_counts(r);
    const ByUnit by_unit(r);
    for (const int threads : {1, 3}) {
        for (const Layout layout : {Layout::time, Layout::unit}) {
            std::vector<T> counts(expected.size() + 1, T{77});  // one more: writes beyond show
            counts.pop_back();
            bin_dense(r.flat(), r.grid, layout, kType<T>, counts.data(), {false, threads});
            CHECK(as_time_major(counts, r, layout) == expected);
            std::fill(counts.begin(), counts.end(), T{78});
            bin_dense(by_unit.view(), r.grid, layout, kType<T>, counts.data(), {false, threads});
            CHECK(as_time_major(counts, r, layout) == expected);
        }
    }
}

template <class T>
void check_sparse(const Recording& r) {
    const std::vector<int> expected = plain_counts(r);
    const ByUnit by_unit(r);
    for (const bool flat : {true, false}) {
        for (const int threads : {1, 3}) {
            for (const RowsAre rows : {RowsAre::bins, RowsAre::units}) {
                const std::int64_t n_rows = rows == RowsAre::bins ? r.grid.n_bins : r.n_units;
                std::vector<std::int64_t> starts(static_cast<std::size_t>(n_rows) + 1, -1);
                std::vector<std::int32_t> indices(r.times.size(), -1);
                std::vector<T> counts(r.times.size(), T{99});
                const SparseCounts out{starts.data(), indices.data(), kType<T>, counts.data()};
                if (flat) {
                    bin_sparse(r.flat(), r.grid, rows, out, {false, threads});
                } else {
                    bin_sparse(by_unit.view(), r.grid, rows, out, {false, threads});
                }
                std::vector<int> found(expected.size(), 0);
                for (std::int64_t row = 0; row < n_rows; ++row) {
                    for (auto i = static_cast<std::size_t>(starts[static_cast<std::size_t>(row)]);
                         i < static_cast<std::size_t>(starts[static_cast<std::size_t>(row) + 1]);
                         ++i) {
                        const std::int64_t cell = rows == RowsAre::bins
                                                      ? row * r.n_units + indices[i]
                                                      : indices[i] * r.n_units + row;
                        found[static_cast<std::size_t>(cell)] += static_cast<int>(counts[i]);
                    }
                }
                CHECK(starts[0] == 0);
                CHECK(found == expected);
            }
        }
    }
}

void random_spikes() {
    unsigned seed = 0;
    for (const std::int64_t n_units : kSizes) {
        for (const std::int64_t n_bins : kSizes) {
            const Recording r = random_recording(++seed, n_units, n_bins, 1300);
            check_dense<std::int32_t>(r);
            check_sparse<std::int32_t>(r);
            const std::vector<int> counts = plain_counts(r);
            const auto most = std::max_element(counts.begin(), counts.end());
            if (most != counts.end() && *most > 255) continue;
            check_dense<std::uint8_t>(r);
            check_dense<std::uint16_t>(r);
            check_dense<float>(r);
            check_sparse<std::uint8_t>(r);
            check_sparse<float>(r);
        }
    }
}

// Outputs of more than two MiB, which are written past the caches.
void large_outputs() {
    const Recording r = random_recording(99, 333, 7001, 20000);
    check_dense<std::uint8_t>(r);
    check_dense<std::uint16_t>(r);
    check_dense<std::int32_t>(r);
    check_dense<float>(r);
}

std::string fault_of(const Recording& r, bool drop = false) {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(r.grid.n_bins * r.n_units));
    std::string message;
    for (const int threads : {1, 2}) {
        for (const Layout layout : {Layout::time, Layout::unit}) {
            const std::string now = thrown_by([&] {
                bin_dense(r.flat(), r.grid, layout, CountType::u8, out.data(), {drop, threads});
            });
            CHECK(message.empty() || now == message);
            message = now;
        }
    }
    return message;
}

void faults() {
    Recording good{{1e6, 0, 1000, 200}, 5, {}, {}};
    for (int i = 0; i < 2000; ++i) {
        good.times.push_back(i * 1e-4);
        good.units.push_back(i % 5);
    }
    CHECK(fault_of(good).empty());
    Recording bad = good;
    bad.times[700] = std::numeric_limits<double>::quiet_NaN();
    CHECK(contains(fault_of(bad), "times must be finite, got times[700] = nan"));
    CHECK(contains(fault_of(bad, true), "times must be finite, got times[700] = nan"));
    bad = good;
    bad.times[512] = 0.01;
    CHECK(contains(fault_of(bad), "times must be sorted, got times[512] = 0.01 after 0.0511"));
    bad = good;
    bad.units[1500] = 5;
    CHECK(contains(fault_of(bad), "units must lie in 0..4, got units[1500] = 5"));
    bad = good;
    bad.times[1999] = 0.2;
    CHECK(contains(fault_of(bad), "times must lie in the bins, from 0.0 s to before 0.2 s, got"));
    CHECK(fault_of(bad, true).empty());
    bad.times[1999] = std::numeric_limits<double>::infinity();
    CHECK(contains(fault_of(bad, true), "times must be finite, got times[1999] = inf"));
    bad = good;
    for (std::size_t i = 1000; i < 1300; ++i) {
        bad.times[i] = bad.times[1000];
        bad.units[i] = 3;
    }
    CHECK(contains(fault_of(bad), "counts must fit uint8, got 300 spikes of unit 3 in bin 100"));
    bad = good;
    bad.grid.width = 0;
    CHECK(contains(fault_of(bad), "bins must have a width of at least one tick"));
}

}  // namespace

int main() {
    on_every_level([] {
        random_spikes();
        large_outputs();
        faults();
    });
    return failures() == 0 ? 0 : 1;
}
