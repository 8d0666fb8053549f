#include "binning.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "dense_table.hpp"
#include "faults.hpp"
#include "sparse_table.hpp"
#include "threads.hpp"

namespace attendrite {
namespace {

const DenseTable& dense() { return ATTENDRITE_TABLE_IN_USE(dense_table); }
const SparseTable& sparse() { return ATTENDRITE_TABLE_IN_USE(sparse_table); }

// First index of sorted times at or after an edge. Of unsorted times some index with
// times[index - 1] < edge and not times[index] < edge: a kernel then finds the disorder.
std::int64_t find_edge(const double* times, std::int64_t begin, std::int64_t end, double edge) {
    return std::lower_bound(times + begin, times + end, edge) - times;
}

double edge_of(const Grid& grid, std::int64_t bin) {
    double edge;
    dense().bin_edges(grid, bin, 1, &edge);
    return edge;
}

bool finite_ends(const double* times, std::int64_t begin, std::int64_t end) {
    return begin == end || (std::isfinite(times[begin]) && std::isfinite(times[end - 1]));
}

std::int64_t size_of(CountType type) {
    return type == CountType::u8 ? 1 : type == CountType::u16 ? 2 : 4;
}

void* advance(void* counts, CountType type, std::int64_t entries) {
    return static_cast<char*>(counts) + entries * size_of(type);
}

// Memory that is not touched before a kernel writes to it.
template <class T>
using Buffer = std::unique_ptr<T[]>;
template <class T>
Buffer<T> buffer(std::int64_t n) {
    return Buffer<T>(new T[static_cast<std::size_t>(n)]);
}

// The worst fault of several tasks: bad spikes before overflow.
class Faults {
  public:
    void add(Fault fault) {
        if (fault == Fault::bad_spikes) bad_ = true;
        if (fault == Fault::overflow) overflow_ = true;
    }
    Fault worst() const {
        if (bad_) return Fault::bad_spikes;
        return overflow_ ? Fault::overflow : Fault::none;
    }

  private:
    std::atomic<bool> bad_{false};
    std::atomic<bool> overflow_{false};
};

// A task of a call: some bins, and where rows or spikes of a task begin.
struct Part {
    BinRange bins;
    SpikeRange spikes;
};

// Cuts 0..n-1 into parts for the threads: one for one thread, else a few each, so that uneven ones
// even out; parts start at multiples of `step`.
std::vector<std::int64_t> cuts(std::int64_t n, std::int64_t step, int threads) {
    const std::int64_t most = (n + step - 1) / step;
    const std::int64_t parts =
        std::max<std::int64_t>(1, std::min<std::int64_t>(threads > 1 ? 4 * threads : 1, most));
    std::vector<std::int64_t> starts;
    for (std::int64_t p = 0; p < parts; ++p) starts.push_back(most * p / parts * step);
    starts.push_back(n);
    return starts;
}

// ---- flat spikes ----

// The spikes inside the bins, and the bins cut into parts with their spikes.
struct FlatPlan {
    SpikeRange inside;
    std::vector<Part> parts;
    Dropped dropped;
};

FlatPlan plan(const FlatSpikes& spikes, const Grid& grid, Options options, CountType type) {
    check_grid(grid);
    FlatPlan plan;
    const double* t = spikes.times;
    plan.inside.begin = find_edge(t, 0, spikes.n, edge_of(grid, 0));
    plan.inside.end = find_edge(t, plan.inside.begin, spikes.n, edge_of(grid, grid.n_bins));
    plan.dropped = {plan.inside.begin, spikes.n - plan.inside.end};
    const bool outside = plan.dropped.before > 0 || plan.dropped.after > 0;
    // What is dropped is checked all the same.
    if (!finite_ends(t, 0, spikes.n) || (outside && !options.drop) ||
        !dense().check_flat(spikes, {0, plan.inside.begin}) ||
        !dense().check_flat(spikes, {plan.inside.end, spikes.n})) {
        throw_fault(spikes, grid, type, options.drop);
    }
    const auto starts = cuts(grid.n_bins, kLine, options.threads);
    std::int64_t begin = plan.inside.begin;
    for (std::size_t p = 0; p + 1 < starts.size(); ++p) {
        const bool final = p + 2 == starts.size();
        const std::int64_t end =
            final ? plan.inside.end
                  : find_edge(t, begin, plan.inside.end, edge_of(grid, starts[p + 1]));
        plan.parts.push_back({{starts[p], starts[p + 1]}, {begin, end}});
        begin = end;
    }
    return plan;
}

// ---- spikes by unit ----

// Of each unit the spikes inside the bins.
struct UnitPlan {
    Buffer<std::int64_t> begins, ends;
    Dropped dropped;
};

UnitPlan plan(const UnitSpikes& spikes, const Grid& grid, Options options, CountType type) {
    check_grid(grid);
    UnitPlan plan{buffer<std::int64_t>(spikes.n_units), buffer<std::int64_t>(spikes.n_units), {}};
    const double low = edge_of(grid, 0);
    const double high = edge_of(grid, grid.n_bins);
    const double* t = spikes.times;
    for (std::int64_t u = 0; u < spikes.n_units; ++u) {
        const std::int64_t first = spikes.offsets[u];
        const std::int64_t last = spikes.offsets[u + 1];
        std::int64_t begin = first;
        std::int64_t end = last;
        const bool outside = first < last && !(t[first] >= low && t[last - 1] < high);
        if (outside) {
            begin = find_edge(t, first, last, low);
            end = find_edge(t, begin, last, high);
            // What is dropped is checked all the same, and how it joins the rest.
            if (!options.drop || !finite_ends(t, first, last) ||
                !dense().check_times(t, {first, std::min(begin + 1, last)}) ||
                !dense().check_times(t, {std::max(end - 1, first), last})) {
                throw_fault(spikes, grid, type, options.drop);
            }
        }
        plan.begins[static_cast<std::size_t>(u)] = begin;
        plan.ends[static_cast<std::size_t>(u)] = end;
        plan.dropped.before += begin - first;
        plan.dropped.after += last - end;
    }
    return plan;
}

// Cuts the plan at bins: part p has bins starts[p]..starts[p + 1]-1 and begins where the part
// before it ends, so that no spike goes unchecked even when the times are not sorted.
std::vector<UnitPlan> split(const UnitSpikes& spikes, const UnitPlan& whole, const Grid& grid,
                            const std::vector<std::int64_t>& starts) {
    const auto n_units = static_cast<std::size_t>(spikes.n_units);
    std::vector<UnitPlan> parts;
    for (std::size_t p = 0; p + 1 < starts.size(); ++p) {
        UnitPlan part{
            buffer<std::int64_t>(spikes.n_units), buffer<std::int64_t>(spikes.n_units), {}};
        const bool final = p + 2 == starts.size();
        const double high = edge_of(grid, starts[p + 1]);
        for (std::size_t u = 0; u < n_units; ++u) {
            const std::int64_t end = whole.ends[u];
            part.begins[u] = p == 0 ? whole.begins[u] : parts.back().ends[u];
            part.ends[u] = final ? end : find_edge(spikes.times, part.begins[u], end, high);
        }
        parts.push_back(std::move(part));
    }
    return parts;
}

// ---- sparse rows: parts are written with gaps between them, which are closed afterwards ----

struct Slot {
    std::int64_t begin;  // first entry of a part
    std::int64_t size;   // entries it has
};

std::int64_t close_gaps(const std::vector<Slot>& slots, SparseCounts out) {
    const auto bytes = size_of(out.type);
    auto* counts = static_cast<char*>(out.counts);
    std::int64_t at = 0;
    for (const Slot& slot : slots) {
        if (slot.begin != at && slot.size > 0) {
            std::memmove(out.indices + at, out.indices + slot.begin,
                         static_cast<std::size_t>(slot.size) * sizeof(std::int32_t));
            std::memmove(counts + at * bytes, counts + slot.begin * bytes,
                         static_cast<std::size_t>(slot.size * bytes));
        }
        at += slot.size;
    }
    return at;
}

// row_starts[r + 1] holds the size of row r: make them starts.
void sum_rows(std::int64_t* row_starts, std::int64_t rows) {
    row_starts[0] = 0;
    for (std::int64_t r = 0; r < rows; ++r) row_starts[r + 1] += row_starts[r];
}

// Entries of one part, first with cells of a byte; counts beyond 255 take a second, wide pass.
template <class Pass>
Fault with_scratch(std::int64_t n_units, std::int64_t tile_rows_narrow, std::int64_t tile_rows_wide,
                   CountType type, const Pass& pass) {
    const auto nonzeros = buffer<std::int32_t>(n_units);
    {
        const auto cells = buffer<std::uint8_t>(n_units * tile_rows_narrow);
        const Fault fault = pass(SparseScratch{false, cells.get(), nonzeros.get()});
        if (fault != Fault::overflow || type == CountType::u8) return fault;
    }
    const auto cells = buffer<std::int32_t>(n_units * tile_rows_wide);
    return pass(SparseScratch{true, cells.get(), nonzeros.get()});
}

Fault run_flat_to_bins(const FlatSpikes& spikes, const Grid& grid, const FlatPlan& plan,
                       SparseCounts out, int threads) {
    Faults faults;
    std::vector<Slot> slots(plan.parts.size());
    parallel_for(static_cast<std::int64_t>(slots.size()), threads, [&](std::int64_t p) {
        const Part& part = plan.parts[static_cast<std::size_t>(p)];
        Slot& slot = slots[static_cast<std::size_t>(p)];
        slot = {part.spikes.begin - plan.inside.begin, 0};
        const SparseOut rows{out.row_starts + 1, out.indices + slot.begin, out.type,
                             advance(out.counts, out.type, slot.begin)};
        faults.add(with_scratch(spikes.n_units, 1, 1, out.type, [&](SparseScratch scratch) {
            return sparse().flat_to_bins(spikes, part.spikes, grid, part.bins, rows, scratch,
                                         &slot.size);
        }));
    });
    if (faults.worst() == Fault::none) {
        sum_rows(out.row_starts, grid.n_bins);
        close_gaps(slots, out);
    }
    return faults.worst();
}

Fault run_flat_to_units(const FlatSpikes& spikes, const Grid& grid, const FlatPlan& plan,
                        SparseCounts out, int threads) {
    Faults faults;
    const auto n_units = static_cast<std::size_t>(spikes.n_units);
    const std::size_t n_parts = plan.parts.size();
    const auto tasks = static_cast<std::int64_t>(n_parts);
    // at[part * n_units + unit]: first entries, then where they go.
    std::vector<std::int64_t> at(n_parts * n_units, 0);
    const auto last = buffer<std::int32_t>(static_cast<std::int64_t>(n_parts * n_units));
    parallel_for(tasks, threads, [&](std::int64_t p) {
        const auto index = static_cast<std::size_t>(p);
        const Part& part = plan.parts[index];
        faults.add(sparse().count_entries(spikes, part.spikes, grid, part.bins,
                                          at.data() + index * n_units,
                                          last.get() + index * n_units));
    });
    if (faults.worst() != Fault::none) return faults.worst();
    std::int64_t next = 0;
    for (std::size_t u = 0; u < n_units; ++u) {
        out.row_starts[u] = next;
        for (std::size_t p = 0; p < n_parts; ++p) {
            const std::int64_t size = at[p * n_units + u];
            at[p * n_units + u] = next;
            next += size;
        }
    }
    out.row_starts[n_units] = next;
    const SparseOut rows{nullptr, out.indices, out.type, out.counts};
    parallel_for(tasks, threads, [&](std::int64_t p) {
        const auto index = static_cast<std::size_t>(p);
        const Part& part = plan.parts[index];
        faults.add(sparse().write_entries(spikes, part.spikes, grid, part.bins, rows,
                                          at.data() + index * n_units,
                                          last.get() + index * n_units));
    });
    return faults.worst();
}

Fault run_units_to_bins(const UnitSpikes& spikes, const Grid& grid, const UnitPlan& plan,
                        SparseCounts out, int threads) {
    Faults faults;
    const auto starts = cuts(grid.n_bins, kLine, threads);
    const auto parts = split(spikes, plan, grid, starts);
    std::vector<Slot> slots;
    std::int64_t begin = 0;
    for (const UnitPlan& part : parts) {
        slots.push_back({begin, 0});
        for (std::size_t u = 0; u < static_cast<std::size_t>(spikes.n_units); ++u) {
            begin += part.ends[u] - part.begins[u];
        }
    }
    const std::int64_t narrow_rows = bins_per_tile(spikes.n_units);
    const std::int64_t wide_rows = bins_per_tile(4 * spikes.n_units);
    parallel_for(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t p) {
        const auto index = static_cast<std::size_t>(p);
        Slot& slot = slots[index];
        const BinRange bins{starts[index], starts[index + 1]};
        const SparseOut rows{out.row_starts + 1, out.indices + slot.begin, out.type,
                             advance(out.counts, out.type, slot.begin)};
        const auto begins = buffer<std::int64_t>(spikes.n_units);
        faults.add(with_scratch(
            spikes.n_units, narrow_rows, wide_rows, out.type, [&](SparseScratch scratch) {
                std::copy_n(parts[index].begins.get(), spikes.n_units, begins.get());
                return sparse().units_to_bins(spikes, begins.get(), parts[index].ends.get(), grid,
                                              bins, rows, scratch, &slot.size);
            }));
    });
    if (faults.worst() == Fault::none) {
        sum_rows(out.row_starts, grid.n_bins);
        close_gaps(slots, out);
    }
    return faults.worst();
}

Fault run_units_to_units(const UnitSpikes& spikes, const Grid& grid, const UnitPlan& plan,
                         SparseCounts out, int threads) {
    Faults faults;
    std::vector<Slot> slots(static_cast<std::size_t>(spikes.n_units));
    const auto starts = cuts(spikes.n_units, 1, threads);
    parallel_for(static_cast<std::int64_t>(starts.size()) - 1, threads, [&](std::int64_t p) {
        const auto part = static_cast<std::size_t>(p);
        for (auto u = static_cast<std::size_t>(starts[part]);
             u < static_cast<std::size_t>(starts[part + 1]); ++u) {
            Slot& slot = slots[u];
            slot.begin = spikes.offsets[u];
            const SparseOut row{nullptr, out.indices + slot.begin, out.type,
                                advance(out.counts, out.type, slot.begin)};
            faults.add(sparse().unit_to_row(spikes.times, {plan.begins[u], plan.ends[u]}, grid, row,
                                            &slot.size));
            out.row_starts[u + 1] = slot.size;
        }
    });
    if (faults.worst() == Fault::none) {
        sum_rows(out.row_starts, spikes.n_units);
        close_gaps(slots, out);
    }
    return faults.worst();
}

// Is there memory behind an array? Looks at its middle. What was never written to has none yet.
bool has_memory([[maybe_unused]] const void* array, [[maybe_unused]] std::int64_t bytes) {
    unsigned char found = 1;  // also if the system does not say
#if defined(__linux__)
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto middle =
        reinterpret_cast<std::uintptr_t>(array) + static_cast<std::uintptr_t>(bytes) / 2;
    mincore(reinterpret_cast<void*>(middle / page * page), 1, &found);
#endif
    return (found & 1) != 0;
}

// Small outputs stay in the second-level cache for whoever reads them next. Fresh memory comes
// through the caches anyway, zeroed by the system: what is written front to back follows it there.
DenseOut dense_out(CountType type, void* counts, std::int64_t n, bool front_to_back) {
#if defined(ATTENDRITE_X86_LEVELS)
    constexpr bool kStreams = true;
#else
    constexpr bool kStreams = false;  // lines.hpp has x86's stores only
#endif
    const std::int64_t bytes = n * size_of(type);
    const bool past_caches =
        kStreams && bytes > (1 << 21) && !(front_to_back && !has_memory(counts, bytes));
    return {type, counts, past_caches};
}

}  // namespace

Dropped bin_dense(const FlatSpikes& spikes, const Grid& grid, Layout layout, CountType type,
                  void* out, Options options) {
    const FlatPlan work = plan(spikes, grid, options, type);
    Faults faults;
    const bool to_time = layout == Layout::time;
    const DenseOut counts = dense_out(type, out, grid.n_bins * spikes.n_units, to_time);
    const auto run = to_time ? dense().flat_to_time : dense().flat_to_unit;
    const std::int64_t room =
        to_time ? spikes.n_units * size_of(type) + kLineRoom : spikes.n_units * 2 * kLine;
    parallel_for(
        static_cast<std::int64_t>(work.parts.size()), options.threads, [&](std::int64_t p) {
            const Part& part = work.parts[static_cast<std::size_t>(p)];
            faults.add(run(spikes, part.spikes, grid, part.bins, counts, buffer<char>(room).get()));
        });
    if (faults.worst() != Fault::none) throw_fault(spikes, grid, type, options.drop);
    return work.dropped;
}

Dropped bin_dense(const UnitSpikes& spikes, const Grid& grid, Layout layout, CountType type,
                  void* out, Options options) {
    const UnitPlan work = plan(spikes, grid, options, type);
    Faults faults;
    const DenseOut counts = dense_out(type, out, grid.n_bins * spikes.n_units, true);
    if (layout == Layout::unit) {
        const auto starts = cuts(spikes.n_units, 1, options.threads);
        const auto tasks = static_cast<std::int64_t>(starts.size()) - 1;
        parallel_for(tasks, options.threads, [&](std::int64_t p) {
            const auto part = static_cast<std::size_t>(p);
            for (std::int64_t u = starts[part]; u < starts[part + 1]; ++u) {
                const auto unit = static_cast<std::size_t>(u);
                const DenseOut row{type, advance(out, type, u * grid.n_bins), counts.past_caches};
                faults.add(dense().unit_to_row(spikes.times, {work.begins[unit], work.ends[unit]},
                                               grid, row));
            }
        });
    } else {
        const auto starts = cuts(grid.n_bins, kLine, options.threads);
        const auto parts = split(spikes, work, grid, starts);
        const auto tasks = static_cast<std::int64_t>(parts.size());
        const std::int64_t row_bytes = spikes.n_units * size_of(type);
        const std::int64_t room = bins_per_tile(row_bytes) * row_bytes + kLineRoom;
        parallel_for(tasks, options.threads, [&](std::int64_t p) {
            const auto index = static_cast<std::size_t>(p);
            const UnitPlan& part = parts[index];
            faults.add(dense().units_to_time(spikes, part.begins.get(), part.ends.get(), grid,
                                             {starts[index], starts[index + 1]}, counts,
                                             buffer<char>(room).get()));
        });
    }
    if (faults.worst() != Fault::none) throw_fault(spikes, grid, type, options.drop);
    return work.dropped;
}

Dropped bin_sparse(const FlatSpikes& spikes, const Grid& grid, RowsAre rows, SparseCounts out,
                   Options options) {
    const FlatPlan work = plan(spikes, grid, options, out.type);
    const auto run = rows == RowsAre::bins ? run_flat_to_bins : run_flat_to_units;
    if (run(spikes, grid, work, out, options.threads) != Fault::none) {
        throw_fault(spikes, grid, out.type, options.drop);
    }
    return work.dropped;
}

Dropped bin_sparse(const UnitSpikes& spikes, const Grid& grid, RowsAre rows, SparseCounts out,
                   Options options) {
    const UnitPlan work = plan(spikes, grid, options, out.type);
    const auto run = rows == RowsAre::bins ? run_units_to_bins : run_units_to_units;
    if (run(spikes, grid, work, out, options.threads) != Fault::none) {
        throw_fault(spikes, grid, out.type, options.drop);
    }
    return work.dropped;
}

}  // namespace attendrite
