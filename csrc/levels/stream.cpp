// Steps of streaming binning of one level: see stream_table.hpp for what each function does.
#include "scan.hpp"
#include "stream_table.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

double bin_start(const Grid& grid, std::int64_t bin) {
    double edge;
    bin_edges(grid, bin, 1, &edge);
    return edge;
}

template <class U>
bool known_units(const FlatSpikes& spikes) {
    return units_below(static_cast<const U*>(spikes.units), spikes.n, spikes.n_units);
}

bool valid(const FlatSpikes& spikes, double earliest) {
    if (spikes.n == 0) return true;
    const double last = spikes.times[spikes.n - 1];
    return spikes.times[0] >= earliest && last - last == 0.0 &&  // not infinite
           is_sorted(spikes.times, 0, 0, spikes.n) &&
           (spikes.unit_type == UnitType::i32 ? known_units<std::int32_t>(spikes)
                                              : known_units<std::uint16_t>(spikes));
}

std::int64_t find_stream_end(const FlatSpikes& spikes, std::int64_t begin, double edge) {
    return find_end(spikes.times, begin, spikes.n, edge);
}

void add(const FlatSpikes& spikes, std::int64_t begin, std::int64_t end, std::uint32_t* counts) {
    if (spikes.unit_type == UnitType::i32) {
        count_units(counts, static_cast<const std::int32_t*>(spikes.units) + begin, end - begin);
    } else {
        count_units(counts, static_cast<const std::uint16_t*>(spikes.units) + begin, end - begin);
    }
}

template <class T>
bool convert_to(const std::uint32_t* counts, std::int64_t n_units, T* out) {
    std::uint32_t seen = 0;
    for (std::int64_t u = 0; u < n_units; ++u) {
        seen |= counts[u];
        out[u] = static_cast<T>(static_cast<std::int32_t>(counts[u]));
    }
    return seen <= kLargest<T>;
}

bool convert(const std::uint32_t* counts, std::int64_t n_units, CountType type, void* out) {
    const Fault fault = with_counts(type, [&](auto chosen) {
        using T = Of<decltype(chosen)>;
        return convert_to(counts, n_units, static_cast<T*>(out)) ? Fault::none : Fault::overflow;
    });
    return fault == Fault::none;
}

}  // namespace

const StreamTable stream_table = {bin_start, valid, find_stream_end, add, convert};

}  // namespace attendrite::ATTENDRITE_LEVEL
