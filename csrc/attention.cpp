#include "attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "threads.hpp"

namespace attendrite {
namespace {

const AttentionTable& table() { return ATTENDRITE_TABLE_IN_USE(attention_table); }

constexpr double kLog2E = 1.4426950408889634;
constexpr std::int64_t kGroup = 8;               // blocks of queries of a task, at most
constexpr std::int64_t kChunkBytes = 192 << 10;  // keys and values of a chunk
constexpr std::int64_t kStateBytes = 640 << 10;  // states of a group: the rest of the L2
constexpr std::int64_t kEnoughTasks = 16;
constexpr std::int64_t kKeptKeys = 1024;  // exponentials of so many keys are kept for a second look
constexpr std::int64_t kSplitKeys = 4096;  // at least so many keys make a task of their own
constexpr std::int64_t kWidest = 16;       // floats in the widest register

std::int64_t blocks_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Memory handed out piece by piece; with no memory it only counts.
class Arena {
  public:
    explicit Arena(void* memory) : begin_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(std::int64_t n) {
        constexpr std::size_t kLine = 64;
        T* const piece = begin_ == nullptr ? nullptr : reinterpret_cast<T*>(begin_ + used_);
        used_ += (static_cast<std::size_t>(std::max<std::int64_t>(n, 0)) * sizeof(T) + kLine - 1) /
                 kLine * kLine;
        return piece;
    }

    std::size_t used() const { return used_; }

  private:
    char* begin_;
    std::size_t used_ = 0;
};

// How the work is cut: by the sizes alone, but for the size of a group, which changes no result.
struct Plan {
    std::int64_t blocks;  // of queries
    std::int64_t group;   // blocks of a task
    std::int64_t groups;
    std::int64_t splits;  // of the keys
    std::int64_t split_keys;
    std::int64_t chunk;      // keys
    std::int64_t key_chunk;  // keys of a task of the second pass
    bool partials, sums, moments, lag, gathers_k, gathers_v;
    bool keeps;   // the exponentials of a block of queries, instead of
    bool second;  // a second pass
};

struct State {
    BlockState block;
    TopState top;
    const TopState* top_or_none() const { return top.count > 0 ? &top : nullptr; }
};

std::int64_t state_floats(const AttentionProblem& p, const Plan& plan) {
    return kLanes * (4 + p.value_width + (plan.sums ? p.n_units : 0) + 2 * p.top_k);
}

// Rows of exponentials that are kept: whole blocks of keys.
std::int64_t kept_rows(const AttentionProblem& p) { return blocks_of(p.longest, kKeys) * kKeys; }

Plan make_plan(const AttentionProblem& p, int threads) {
    Plan plan{};
    plan.partials = p.partial_lse != nullptr;
    plan.sums = p.per_unit != nullptr || p.per_query_unit != nullptr;
    plan.moments = p.entropy != nullptr;
    plan.lag = p.lag != nullptr;
    const bool looks_again = p.per_key != nullptr || p.weights != nullptr;
    plan.keeps = looks_again && !plan.partials && p.longest <= kKeptKeys;
    plan.second = looks_again && !plan.keeps;
    const bool changed = p.element != Element::f32 || p.rows != nullptr;
    plan.gathers_k = changed || p.pairs > 0;
    plan.gathers_v = changed || (p.pairs > 0 && p.rotate_values);
    plan.blocks = blocks_of(p.queries, kLanes);

    const std::int64_t row_bytes = 4 * (p.width + p.value_width);
    plan.chunk = std::max<std::int64_t>(1, kChunkBytes / row_bytes / kKeys) * kKeys;
    plan.key_chunk = std::max<std::int64_t>(1, kChunkBytes / (4 * p.width) / kKeys) * kKeys;

    const std::int64_t heads = p.batch * p.heads;
    plan.splits = 1;
    if (!plan.partials && heads * plan.blocks < kEnoughTasks) {
        plan.splits =
            std::min(blocks_of(kEnoughTasks, std::max<std::int64_t>(1, heads * plan.blocks)),
                     std::max<std::int64_t>(1, p.longest / kSplitKeys));
    }
    plan.split_keys = blocks_of(blocks_of(p.longest, plan.splits), kKeys) * kKeys;

    const std::int64_t kept = plan.keeps ? kept_rows(p) * kLanes : 0;
    const std::int64_t bytes = 4 * (kept + state_floats(p, plan) * (plan.partials ? 2 : 1) +
                                    kLanes * (p.width + 2 * p.pairs));
    plan.group = std::clamp<std::int64_t>(kStateBytes / bytes, 1, kGroup);
    if (plan.splits > 1) plan.group = 1;
    while (plan.group > 1 && threads > 1 &&
           heads * blocks_of(plan.blocks, plan.group) < 4 * threads) {
        --plan.group;
    }
    plan.groups = blocks_of(plan.blocks, plan.group);
    return plan;
}

State take_state(Arena& arena, const AttentionProblem& p, const Plan& plan, bool units) {
    State state{};
    state.block.max = arena.take<float>(kLanes);
    state.block.sum = arena.take<float>(kLanes);
    if (plan.moments) state.block.moment = arena.take<float>(kLanes);
    if (plan.lag) state.block.time = arena.take<float>(kLanes);
    state.block.output = arena.take<float>(p.value_width * kLanes);
    if (units) state.block.units = arena.take<float>(p.n_units * kLanes);
    if (p.top_k > 0) {
        state.top = {arena.take<float>(p.top_k * kLanes),
                     arena.take<std::int32_t>(p.top_k * kLanes), p.top_k};
    }
    return state;
}

// What one thread works with.
struct Desk {
    std::vector<State> states, unit_states;
    std::vector<float*> queries, phases;
    std::vector<float*> kept, kept_max;  // for each block of queries, if exponentials are kept
    float *keys, *values, *scores, *strip, *marginals, *weights, *max, *inverse;
};

Desk take_desk(Arena& arena, const AttentionProblem& p, const Plan& plan) {
    Desk desk;
    for (std::int64_t i = 0; i < plan.group; ++i) {
        if (plan.splits == 1) desk.states.push_back(take_state(arena, p, plan, plan.sums));
        if (plan.partials) desk.unit_states.push_back(take_state(arena, p, plan, false));
        desk.queries.push_back(arena.take<float>(p.width * kLanes));
        desk.phases.push_back(p.pairs > 0 ? arena.take<float>(2 * p.pairs * kLanes) : nullptr);
        if (!plan.keeps) continue;
        desk.kept.push_back(arena.take<float>(kept_rows(p) * kLanes));
        desk.kept_max.push_back(arena.take<float>(kept_rows(p) / kKeys * kLanes));
    }
    const std::int64_t most = std::max(plan.chunk, plan.second ? plan.key_chunk : 0);
    const bool reorders = plan.partials;
    desk.keys = plan.gathers_k || reorders ? arena.take<float>(most * p.width) : nullptr;
    desk.values =
        plan.gathers_v || reorders ? arena.take<float>(plan.chunk * p.value_width) : nullptr;
    desk.scores = arena.take<float>(kKeys * kLanes);
    desk.strip = arena.take<float>(kWidest * std::max(p.width, p.value_width));
    desk.marginals = p.per_key != nullptr ? arena.take<float>(plan.key_chunk * kWidest) : nullptr;
    desk.weights = arena.take<float>(kLanes);
    desk.max = arena.take<float>(kLanes);
    desk.inverse = arena.take<float>(kLanes);
    return desk;
}

// The desks of a call, taken and given back by its tasks.
class Desks {
  public:
    Desks(Arena& arena, const AttentionProblem& p, const Plan& plan, int n)
        : taken_(static_cast<std::size_t>(n)) {
        for (auto& flag : taken_) flag.clear();
        for (int i = 0; i < n; ++i) desks_.push_back(take_desk(arena, p, plan));
    }

    template <class Work>
    void with(const Work& work) {
        std::size_t i = 0;
        while (taken_[i].test_and_set(std::memory_order_acquire)) i = (i + 1) % taken_.size();
        work(desks_[i]);
        taken_[i].clear(std::memory_order_release);
    }

  private:
    std::vector<std::atomic_flag> taken_;
    std::vector<Desk> desks_;
};

// What is shared by the tasks of a call.
struct Shared {
    std::int32_t* units;    // [n_keys] with n_units for "none"
    float* times;           // [n_keys] from the origin, in the order of the keys below
    double* origins;        // [batch]
    std::int32_t* order;    // [n_keys] keys of each element sorted by unit
    std::int32_t* runs;     // [n_keys] unit of the i-th key of that order
    std::uint8_t* present;  // [batch, n_units] whether there are keys of a unit
    float *max, *inverse;   // [batch, heads, queries] for the second pass
    float* block_sums;      // [batch, heads, blocks, n_units]
    float* block_keys;      // [batch, heads, blocks, longest] marginals from kept exponentials
    std::vector<State> split_states;
};

Shared take_shared(Arena& arena, const AttentionProblem& p, const Plan& plan) {
    Shared shared{};
    const std::int64_t heads = p.batch * p.heads;
    if (p.units != nullptr && (plan.sums || plan.partials)) {
        shared.units = arena.take<std::int32_t>(p.n_keys);
    }
    if (plan.lag) {
        shared.times = arena.take<float>(p.n_keys);
        shared.origins = arena.take<double>(p.batch);
    }
    if (plan.partials) {
        shared.order = arena.take<std::int32_t>(p.n_keys);
        shared.runs = arena.take<std::int32_t>(p.n_keys);
        shared.present = arena.take<std::uint8_t>(p.batch * p.n_units);
    }
    if (plan.second) {
        shared.max = arena.take<float>(heads * p.queries);
        shared.inverse = arena.take<float>(heads * p.queries);
    }
    if (plan.keeps && p.per_key != nullptr) {
        shared.block_keys = arena.take<float>(heads * plan.blocks * p.longest);
    }
    if (p.per_unit != nullptr) {
        shared.block_sums = arena.take<float>(heads * plan.blocks * p.n_units);
    }
    if (plan.splits > 1) {
        const std::int64_t n = heads * plan.blocks * plan.splits;
        for (std::int64_t i = 0; i < n; ++i) {
            shared.split_states.push_back(take_state(arena, p, plan, plan.sums));
        }
    }
    return shared;
}

[[noreturn]] void refuse(const std::string& what, const std::string& be, std::int64_t got) {
    throw std::invalid_argument(what + " must " + be + ", got " + std::to_string(got));
}

// Checks the keys of one element, and brings what belongs to them into the form of the kernels.
void prepare(const AttentionProblem& p, const Shared& shared, std::int64_t b) {
    const std::int64_t begin = p.begin[b];
    const std::int64_t n = p.count[b];
    if (n < 0 || n > p.longest) {
        refuse("lengths", "be in 0.." + std::to_string(p.longest), n);
    }
    if (begin < 0 || begin + n > p.n_keys) {
        refuse("cu_seqlens", "rise from 0 to " + std::to_string(p.n_keys), begin + n);
    }
    if (p.rows != nullptr) {
        for (std::int64_t i = begin; i < begin + n; ++i) {
            if (p.rows[i] < 0 || p.rows[i] >= p.n_rows) {
                refuse("rows", "be in 0.." + std::to_string(p.n_rows - 1), p.rows[i]);
            }
        }
    }
    if (shared.units != nullptr) {
        for (std::int64_t i = begin; i < begin + n; ++i) {
            const std::int64_t unit = p.units[i];
            if (unit < -1 || unit >= p.n_units) {
                refuse("units", "be in -1.." + std::to_string(p.n_units - 1), unit);
            }
            shared.units[i] = static_cast<std::int32_t>(unit < 0 ? p.n_units : unit);
        }
    }
    if (shared.order != nullptr) {
        std::vector<std::int32_t> at(static_cast<std::size_t>(p.n_units) + 2, 0);
        for (std::int64_t i = 0; i < n; ++i) {
            ++at[static_cast<std::size_t>(shared.units[begin + i]) + 1];
        }
        for (std::size_t u = 1; u < at.size(); ++u) at[u] += at[u - 1];
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t unit = shared.units[begin + i];
            const std::int32_t to = at[static_cast<std::size_t>(unit)]++;
            shared.order[begin + to] = static_cast<std::int32_t>(i);
            shared.runs[begin + to] = unit;
        }
        for (std::int64_t u = 0; u < p.n_units; ++u) {  // unit u ends where it is, u - 1 before
            const auto end = at[static_cast<std::size_t>(u)];
            shared.present[b * p.n_units + u] =
                end > (u > 0 ? at[static_cast<std::size_t>(u - 1)] : 0);
        }
    }
    if (shared.times != nullptr) {
        // Differences of times matter: taken from one of them, float32 keeps these.
        const double origin = p.queries > 0 ? p.query_times[b * p.queries] : 0.0;
        shared.origins[b] = origin;
        for (std::int64_t i = begin; i < begin + n; ++i) {
            const std::int64_t key = shared.order != nullptr ? begin + shared.order[i] : i;
            shared.times[i] = static_cast<float>(p.key_times[key] - origin);
        }
    }
}

class Run {
  public:
    Run(const AttentionProblem& p, const Plan& plan, Shared& shared, Desks& desks, int threads)
        : p_(p), plan_(plan), shared_(shared), desks_(desks), threads_(threads) {
        shape_ = {p.width, p.value_width, p.n_units, kLanes,
                  static_cast<float>(static_cast<double>(p.scale) * kLog2E)};
    }

    void first_pass() {
        const std::int64_t heads = p_.batch * p_.heads;
        parallel_for(heads * plan_.groups * plan_.splits, threads_, [&](std::int64_t task) {
            const std::int64_t split = task % plan_.splits;
            const std::int64_t group = task / plan_.splits % plan_.groups;
            const std::int64_t head = task / plan_.splits / plan_.groups;
            desks_.with([&](Desk& desk) { attend(desk, head, group, split); });
        });
        if (plan_.splits > 1) {
            parallel_for(heads * plan_.blocks, threads_, [&](std::int64_t task) {
                desks_.with(
                    [&](Desk& desk) { join(desk, task / plan_.blocks, task % plan_.blocks); });
            });
        }
        if (p_.per_unit != nullptr) add_blocks(shared_.block_sums, p_.n_units, p_.per_unit);
        if (shared_.block_keys != nullptr) add_blocks(shared_.block_keys, p_.longest, p_.per_key);
    }

    void second_pass() {
        const std::int64_t heads = p_.batch * p_.heads;
        const std::int64_t chunks = blocks_of(p_.longest, plan_.key_chunk);
        parallel_for(heads * chunks, threads_, [&](std::int64_t task) {
            desks_.with([&](Desk& desk) { weigh(desk, task / chunks, task % chunks); });
        });
    }

  private:
    std::int64_t queries_of(std::int64_t block) const {
        return std::min(kLanes, p_.queries - block * kLanes);
    }

    BlockShape shape_of(std::int64_t block) const {
        BlockShape shape = shape_;
        shape.lanes = blocks_of(queries_of(block), kWidest) * kWidest;
        return shape;
    }

    // Sums over the queries of a head: parts [batch, heads, blocks, n], added in their order.
    void add_blocks(const float* parts, std::int64_t n, float* out) const {
        for (std::int64_t head = 0; head < p_.batch * p_.heads; ++head, out += n) {
            std::fill_n(out, n, 0.0F);
            for (std::int64_t block = 0; block < plan_.blocks; ++block, parts += n) {
                for (std::int64_t i = 0; i < n; ++i) out[i] += parts[i];
            }
        }
    }

    std::int64_t element_bytes() const { return p_.element == Element::f32 ? 4 : 2; }

    const void* at(const HeadRows& rows, std::int64_t head) const {
        const std::int64_t b = head / p_.heads;
        return static_cast<const char*>(rows.data) +
               (b * rows.batch + head % p_.heads * rows.head) * element_bytes();
    }

    // Keys (or values) of a head; `ordered`: by unit.
    RowsIn rows_of(const HeadRows& rows, std::int64_t head, bool turns, bool ordered) const {
        const std::int64_t b = head / p_.heads;
        const std::int64_t begin = p_.begin[b];
        RowsIn in{};
        in.data = at(rows, head);
        if (p_.packed && p_.rows == nullptr) {
            in.data = static_cast<const char*>(in.data) + begin * rows.row * element_bytes();
        }
        in.element = p_.element;
        in.stride = rows.row;
        if (p_.rows != nullptr) in.rows = p_.rows + begin;
        if (ordered) in.order = shared_.order + begin;
        if (turns) {
            in.pairs = p_.pairs;
            in.phase_stride = 2 * p_.pairs;
            in.phase =
                p_.key_phase.data + (p_.packed ? begin * in.phase_stride : b * p_.key_phase.batch);
        }
        return in;
    }

    // Rows first..first + n-1 as floats: where they are, or written to `room`.
    static const float* floats(const RowsIn& in, bool gathers, std::int64_t first, std::int64_t n,
                               std::int64_t width, float* room, std::int64_t* stride) {
        if (!gathers) {
            *stride = in.stride;
            return static_cast<const float*>(in.data) + first * in.stride;
        }
        table().gather(in, first, n, width, room);
        *stride = width;
        return room;
    }

    void pack_queries(Desk& desk, std::int64_t head, std::int64_t block, std::size_t place) const {
        const std::int64_t b = head / p_.heads;
        RowsIn in{};
        in.data = at(p_.q, head);
        in.element = p_.element;
        in.stride = p_.q.row;
        if (p_.pairs > 0) {
            in.pairs = p_.pairs;
            in.phase_stride = 2 * p_.pairs;
            in.phase = p_.query_phase.data + b * p_.query_phase.batch;
        }
        table().pack(in, block * kLanes, queries_of(block), p_.width, desk.queries[place],
                     desk.phases[place], desk.strip);
    }

    // One task of the first pass: some blocks of queries of a head, some of its keys.
    void attend(Desk& desk, std::int64_t head, std::int64_t group, std::int64_t split) {
        const std::int64_t b = head / p_.heads;
        const std::int64_t first_block = group * plan_.group;
        const std::int64_t n_blocks = std::min(plan_.group, plan_.blocks - first_block);
        const bool splits = plan_.splits > 1;
        std::vector<State>& states = splits ? shared_.split_states : desk.states;
        const auto base = static_cast<std::size_t>(
            splits ? (head * plan_.blocks + first_block) * plan_.splits + split : 0);
        for (std::int64_t i = 0; i < n_blocks; ++i) {
            const State& state = states[base + static_cast<std::size_t>(i)];
            const BlockShape shape = shape_of(first_block + i);
            pack_queries(desk, head, first_block + i, static_cast<std::size_t>(i));
            table().reset(state.block, state.top_or_none(), shape);
            if (plan_.partials) {
                empty_partials(head, first_block + i);
                table().reset(desk.unit_states[static_cast<std::size_t>(i)].block, nullptr, shape);
            }
        }

        const bool ordered = plan_.partials;
        const RowsIn k = rows_of(p_.k, head, p_.pairs > 0, ordered);
        const RowsIn v = rows_of(p_.v, head, p_.pairs > 0 && p_.rotate_values, ordered);
        const std::int64_t begin = p_.begin[b];
        const std::int64_t from = split * plan_.split_keys;
        const std::int64_t to = std::min(p_.count[b], from + plan_.split_keys);
        for (std::int64_t first = from; first < to; first += plan_.chunk) {
            KeyBlock keys{};
            keys.n = std::min(plan_.chunk, to - first);
            keys.first = static_cast<std::int32_t>(first);
            keys.k = floats(k, plan_.gathers_k || ordered, first, keys.n, p_.width, desk.keys,
                            &keys.k_stride);
            keys.v = floats(v, plan_.gathers_v || ordered, first, keys.n, p_.value_width,
                            desk.values, &keys.v_stride);
            if (shared_.times != nullptr) keys.times = shared_.times + begin + first;
            if (plan_.sums) keys.units = shared_.units + begin + first;
            for (std::int64_t i = 0; i < n_blocks; ++i) {
                const auto place = static_cast<std::size_t>(i);
                const State& state = states[base + place];
                keys.cold = i == 0 && !plan_.gathers_v;
                if (plan_.partials) {
                    attend_by_unit(desk, head, first_block + i, place, keys, first + keys.n == to);
                } else {
                    float* const room =
                        plan_.keeps ? desk.kept[place] + first * kLanes : desk.scores;
                    float* const maxima =
                        plan_.keeps ? desk.kept_max[place] + first / kKeys * kLanes : nullptr;
                    table().absorb(state.block, state.top_or_none(), shape_of(first_block + i),
                                   desk.queries[place], keys, room, maxima);
                }
            }
        }
        if (splits) return;
        for (std::int64_t i = 0; i < n_blocks; ++i) {
            const auto place = static_cast<std::size_t>(i);
            finish(desk, head, first_block + i, place, states[place]);
        }
    }

    // Keys sorted by unit: each unit has a state of its own, which is written and then merged.
    void attend_by_unit(Desk& desk, std::int64_t head, std::int64_t block, std::size_t place,
                        const KeyBlock& keys, bool last) {
        const std::int64_t b = head / p_.heads;
        const std::int32_t* const runs = shared_.runs + p_.begin[b] + keys.first;
        const BlockShape shape = shape_of(block);
        const State& total = desk.states[place];
        const State& own = desk.unit_states[place];
        for (std::int64_t i = 0; i < keys.n;) {
            const std::int32_t unit = runs[i];
            std::int64_t end = i + 1;
            while (end < keys.n && runs[end] == unit) ++end;
            KeyBlock mine = keys;
            mine.k += i * keys.k_stride;
            mine.v += i * keys.v_stride;
            mine.n = end - i;
            mine.units = nullptr;
            if (keys.times != nullptr) mine.times += i;
            table().absorb(own.block, nullptr, shape, desk.queries[place], mine, desk.scores,
                           nullptr);
            const bool over = end < keys.n || last || runs[end] != unit;
            if (over) {
                table().merge(total.block, own.block, shape, unit);
                if (unit < p_.n_units) write_partial(desk, head, block, place, unit);
                table().reset(own.block, nullptr, shape);
            }
            i = end;
        }
    }

    void empty_partials(std::int64_t head, std::int64_t block) const {
        const std::int64_t first = (head * p_.queries + block * kLanes) * p_.n_units;
        const std::uint8_t* const present = shared_.present + head / p_.heads * p_.n_units;
        for (std::int64_t i = 0; i < queries_of(block) * p_.n_units; ++i) {
            if (present[i % p_.n_units] != 0) continue;
            p_.partial_lse[first + i] = -INFINITY;
            std::fill_n(p_.partial_output + (first + i) * p_.value_width, p_.value_width, 0.0F);
        }
    }

    void write_partial(Desk& desk, std::int64_t head, std::int64_t block, std::size_t place,
                       std::int32_t unit) {
        const std::int64_t first = (head * p_.queries + block * kLanes) * p_.n_units + unit;
        BlockOut out{};
        out.queries = queries_of(block);
        out.output = {p_.partial_output + first * p_.value_width, Element::f32,
                      p_.n_units * p_.value_width};
        out.partial_lse = p_.partial_lse + first;
        out.partial_lse_stride = p_.n_units;
        turn_back(desk, place, out);
        table().finish(desk.unit_states[place].block, nullptr, shape_of(block), out, desk.scores);
    }

    void turn_back(const Desk& desk, std::size_t place, BlockOut& out) const {
        if (p_.pairs == 0 || !p_.rotate_values) return;
        out.phase = desk.phases[place];
        out.pairs = p_.pairs;
    }

    void load_weights(const Desk& desk, std::int64_t head, std::int64_t block) const {
        const std::int64_t n = queries_of(block);
        const std::int64_t first = head * p_.queries + block * kLanes;
        for (std::int64_t i = 0; i < kLanes; ++i) {
            const float weight =
                p_.query_weights != nullptr && i < n ? p_.query_weights[first + i] : 1;
            desk.weights[i] = i < n ? weight : 0.0F;
        }
    }

    void finish(Desk& desk, std::int64_t head, std::int64_t block, std::size_t place,
                const State& state) {
        const std::int64_t b = head / p_.heads;
        const std::int64_t first = head * p_.queries + block * kLanes;
        const auto part = [&](float* all, std::int64_t width) {
            return all == nullptr ? nullptr : all + first * width;
        };
        load_weights(desk, head, block);
        BlockOut out{};
        out.queries = queries_of(block);
        if (p_.output != nullptr) {
            out.output = {static_cast<char*>(p_.output) + first * p_.value_width * element_bytes(),
                          p_.element, p_.value_width};
        }
        out.lse = part(p_.lse, 1);
        out.max = plan_.keeps ? desk.max : part(shared_.max, 1);
        out.inverse = plan_.keeps ? desk.inverse : part(shared_.inverse, 1);
        out.entropy = part(p_.entropy, 1);
        out.lag = part(p_.lag, 1);
        out.per_query_unit = part(p_.per_query_unit, p_.n_units);
        if (p_.per_unit != nullptr) {
            out.per_unit = shared_.block_sums + (head * plan_.blocks + block) * p_.n_units;
        }
        out.query_weights = desk.weights;
        if (p_.lag != nullptr) {
            out.query_times = p_.query_times + b * p_.queries + block * kLanes;
            out.time_origin = shared_.origins[b];
        }
        out.top_weight = part(p_.top_weight, p_.top_k);
        if (p_.top_key != nullptr) out.top_key = p_.top_key + first * p_.top_k;
        turn_back(desk, place, out);
        clear_lanes(desk);
        table().finish(state.block, state.top_or_none(), shape_of(block), out, desk.scores);
        if (plan_.keeps) weigh_kept(desk, head, block, place);
    }

    static void clear_lanes(const Desk& desk) {
        std::fill_n(desk.max, kLanes, 0.0F);
        std::fill_n(desk.inverse, kLanes, 0.0F);
    }

    // What needs the final sums, from the exponentials that a block of queries kept.
    void weigh_kept(const Desk& desk, std::int64_t head, std::int64_t block,
                    std::size_t place) const {
        const std::int64_t n = p_.count[head / p_.heads];
        const std::int64_t queries = queries_of(block);
        float* marginals = nullptr;
        if (p_.per_key != nullptr) {
            marginals = shared_.block_keys + (head * plan_.blocks + block) * p_.longest;
            std::fill_n(marginals + n, p_.longest - n, 0.0F);
        }
        float* weights = nullptr;
        if (p_.weights != nullptr) {
            weights = p_.weights + (head * p_.queries + block * kLanes) * p_.longest;
            clear_padding(weights, queries, n, p_.longest - n);
        }
        table().weigh_kept(shape_of(block), desk.kept[place], desk.kept_max[place], n, desk.max,
                           desk.inverse, desk.weights, queries, marginals, weights, p_.longest);
    }

    // Padding has no weight.
    void clear_padding(float* weights, std::int64_t queries, std::int64_t from,
                       std::int64_t n) const {
        for (std::int64_t q = 0; q < queries; ++q) {
            std::fill_n(weights + q * p_.longest + from, n, 0.0F);
        }
    }

    // Joins the parts of the keys, in their order.
    void join(Desk& desk, std::int64_t head, std::int64_t block) {
        const auto base = static_cast<std::size_t>((head * plan_.blocks + block) * plan_.splits);
        const BlockShape shape = shape_of(block);
        const State& whole = shared_.split_states[base];
        for (std::size_t i = 1; i < static_cast<std::size_t>(plan_.splits); ++i) {
            const State& part = shared_.split_states[base + i];
            table().merge(whole.block, part.block, shape, 0);
            if (p_.top_k > 0) table().merge_top(whole.top, part.top, shape);
        }
        if (p_.pairs > 0) pack_queries(desk, head, block, 0);  // for the phases
        finish(desk, head, block, 0, whole);
    }

    // One task of the second pass: some keys of a head, all its queries.
    void weigh(Desk& desk, std::int64_t head, std::int64_t chunk) {
        const std::int64_t b = head / p_.heads;
        const std::int64_t first = chunk * plan_.key_chunk;
        const std::int64_t places = std::min(plan_.key_chunk, p_.longest - first);
        const std::int64_t n = std::clamp<std::int64_t>(p_.count[b] - first, 0, places);
        KeyBlock keys{};
        keys.n = n;
        const RowsIn k = rows_of(p_.k, head, p_.pairs > 0, false);
        keys.k = n > 0 ? floats(k, plan_.gathers_k, first, n, p_.width, desk.keys, &keys.k_stride)
                       : nullptr;
        if (p_.per_key != nullptr) std::fill_n(desk.marginals, n * kWidest, 0.0F);
        for (std::int64_t block = 0; block < plan_.blocks; ++block) {
            const std::int64_t queries = queries_of(block);
            const std::int64_t row = head * p_.queries + block * kLanes;
            float* const out =
                p_.weights == nullptr ? nullptr : p_.weights + row * p_.longest + first;
            if (out != nullptr) clear_padding(out, queries, n, places - n);
            if (n == 0) continue;
            pack_queries(desk, head, block, 0);
            load_weights(desk, head, block);
            clear_lanes(desk);
            std::copy_n(shared_.max + row, queries, desk.max);
            std::copy_n(shared_.inverse + row, queries, desk.inverse);
            table().weigh(shape_of(block), desk.queries[0], desk.max, desk.inverse, desk.weights,
                          queries, keys, desk.marginals, out, p_.longest, desk.scores);
        }
        if (p_.per_key == nullptr) return;
        float* const out = p_.per_key + head * p_.longest + first;
        table().sum_marginals(desk.marginals, n, out);
        std::fill_n(out + n, places - n, 0.0F);
    }

    const AttentionProblem& p_;
    const Plan& plan_;
    Shared& shared_;
    Desks& desks_;
    int threads_;
    BlockShape shape_{};
};

}  // namespace

std::size_t attention_workspace(const AttentionProblem& p, int threads) {
    const Plan plan = make_plan(p, threads);
    Arena arena(nullptr);
    take_shared(arena, p, plan);
    Desks(arena, p, plan, threads);
    return arena.used();
}

void attention(const AttentionProblem& p, void* workspace, int threads) {
    const Plan plan = make_plan(p, threads);
    Arena arena(workspace);
    Shared shared = take_shared(arena, p, plan);
    Desks desks(arena, p, plan, threads);
    parallel_for(p.batch, threads, [&](std::int64_t b) { prepare(p, shared, b); });
    Run run(p, plan, shared, desks, threads);
    run.first_pass();
    if (plan.second) run.second_pass();
}

void phases(const double* times, std::int64_t n, const double* omega, std::int64_t n_omega,
            float* out, int threads) {
    constexpr std::int64_t kPart = 1024;
    parallel_for(blocks_of(n, kPart), threads, [&](std::int64_t part) {
        const std::int64_t first = part * kPart;
        table().phases(times + first, std::min(kPart, n - first), omega, n_omega,
                       out + 2 * first * n_omega);
    });
}

}  // namespace attendrite
