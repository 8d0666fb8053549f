#include "check.hpp"
#include "spikes_of.hpp"
#include "stream_bins.hpp"

using namespace attendrite;

namespace {

void any_chunking() {
    for (unsigned seed = 1; seed < 60; ++seed) {
        const Recording r = random_recording(seed, 1 + seed % 40, 1 + seed % 90, 700);
        std::mt19937 random(seed);
        StreamBinner binner(r.n_units, r.grid, CountType::i32);
        std::vector<std::int32_t> rows(static_cast<std::size_t>(r.grid.n_bins * r.n_units), -1);
        const auto next = [&] { return rows.data() + binner.closed() * r.n_units; };
        const auto n = static_cast<std::int64_t>(r.times.size());
        for (std::int64_t at = 0; at < n;) {
            const std::int64_t size = std::min<std::int64_t>(n - at, random() % 100);
            const FlatSpikes chunk{r.times.data() + at, r.units.data() + at, UnitType::i32, size,
                                   r.n_units};
            const std::int64_t before = binner.closed();
            const std::int64_t closes =
                size > 0 ? binner.closes(r.times[static_cast<std::size_t>(at + size - 1)]) : 0;
            binner.push(chunk, next());
            CHECK(binner.closed() == before + closes);
            at += size;
        }
        const auto stop = static_cast<double>(r.grid.start + r.grid.width * r.grid.n_bins);
        binner.advance(stop / r.grid.tick_rate, next());
        CHECK(binner.closed() == r.grid.n_bins);
        CHECK(rows == plain_counts(r));
    }
}

void faults_change_nothing() {
    StreamBinner binner(3, {1e6, 0, 1000, 0}, CountType::u8);
    std::vector<std::uint8_t> out(3);
    const std::vector<double> late(256, 0.0005);
    const std::vector<std::int32_t> units(256, 2);
    const FlatSpikes chunk{late.data(), units.data(), UnitType::i32, 255, 3};
    binner.push(chunk, nullptr);
    FlatSpikes one = chunk;
    one.n = 1;
    binner.push(one, nullptr);
    CHECK(binner.closes(0.001) == 1);
    for (int again = 0; again < 2; ++again) {
        CHECK(contains(thrown_by([&] { binner.advance(0.001, out.data()); }),
                       "counts must fit uint8, got 256 spikes of unit 2 in bin 0"));
        CHECK(binner.closed() == 0);
    }
    one.n_units = 3;
    const double early = 0.0001;
    one.times = &early;
    CHECK(contains(thrown_by([&] { binner.push(one, nullptr); }), "sorted across chunks"));
}

}  // namespace

int main() {
    on_every_level([] {
        any_chunking();
        faults_change_nothing();
    });
    return failures() == 0 ? 0 : 1;
}
