#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "attention_plan.hpp"
#include "threads.hpp"

namespace attendrite {
namespace {

using Plan = AttentionPlan;
using State = AttentionState;
using Desk = AttentionDesk;

const AttentionTable& table() { return ATTENDRITE_TABLE_IN_USE(attention_table); }

constexpr double kLog2E = 1.4426950408889634;

[[noreturn]] void refuse(const std::string& what, const std::string& be, std::int64_t got) {
    throw std::invalid_argument(what + " must " + be + ", got " + std::to_string(got));
}

// Checks the keys of one element, and brings what belongs to them into the form of the kernels.
void prepare(const AttentionProblem& p, const AttentionShared& shared, std::int64_t b) {
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
        std::int32_t* const at = shared.places + b * (p.n_units + 2);
        std::fill_n(at, p.n_units + 2, 0);
        for (std::int64_t i = 0; i < n; ++i) ++at[shared.units[begin + i] + 1];
        for (std::int64_t u = 1; u < p.n_units + 2; ++u) at[u] += at[u - 1];
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t unit = shared.units[begin + i];
            const std::int32_t to = at[unit]++;  // in the end, where the keys of the unit end
            shared.order[begin + to] = static_cast<std::int32_t>(i);
            shared.runs[begin + to] = unit;
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
    Run(const AttentionProblem& p, const Plan& plan, const AttentionShared& shared,
        AttentionDesks& desks, int threads)
        : p_(p), plan_(plan), shared_(shared), desks_(desks), threads_(threads) {
        shape_.width = p.width;
        shape_.value_width = p.value_width;
        shape_.n_units = p.n_units;
        shape_.scale = static_cast<float>(static_cast<double>(p.scale) * kLog2E);
    }

    void first_pass() {
        const std::int64_t heads = p_.batch * p_.heads;
        const std::int64_t tasks = heads / plan_.heads * plan_.groups * plan_.splits;
        parallel_for(tasks, threads_, [&](std::int64_t task) {
            const std::int64_t split = task % plan_.splits;
            const std::int64_t group = task / plan_.splits % plan_.groups;
            const std::int64_t first = task / plan_.splits / plan_.groups * plan_.heads;
            desks_.with([&](const Desk& desk) {
                for (std::int64_t i = 0; i < plan_.heads; ++i) {
                    attend(desk, first + i, group, split);
                }
                if (plan_.keeps) look_again(desk, first, group);
            });
        });
        if (plan_.splits > 1) {
            parallel_for(heads * plan_.blocks, threads_, [&](std::int64_t task) {
                desks_.with([&](const Desk& desk) {
                    join(desk, task / plan_.blocks, task % plan_.blocks);
                });
            });
        }
        if (p_.per_unit != nullptr) add_blocks(shared_.block_sums, p_.n_units, p_.per_unit);
        if (shared_.block_keys != nullptr) add_blocks(shared_.block_keys, p_.longest, p_.per_key);
    }

    void second_pass() {
        const std::int64_t heads = p_.batch * p_.heads;
        const std::int64_t chunks = blocks_of(p_.longest, plan_.key_chunk);
        parallel_for(heads * chunks, threads_, [&](std::int64_t task) {
            desks_.with([&](const Desk& desk) { weigh(desk, task / chunks, task % chunks); });
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

    // With the tables of what stays still.
    BlockShape shape_of(const Desk& desk, std::int64_t head, std::int64_t block) const {
        BlockShape shape = shape_of(block);
        if (p_.still_scores == nullptr) return shape;
        const std::int64_t in_batch = head % p_.heads;
        shape.still.scores = p_.still_scores + in_batch * p_.n_rows * p_.still_period +
                             block * kLanes % p_.still_period;
        shape.still.scores_stride = p_.still_period;
        if (p_.still_values == 0) return shape;
        shape.still.values = static_cast<const float*>(at(p_.v, head)) + plan_.gathered;
        shape.still.values_stride = p_.v.row;
        shape.still.width = p_.still_values;
        shape.still.room = desk.still;
        return shape;
    }

    float* packed_queries(const Desk& desk, std::int64_t place) const {
        return desk.queries + place * p_.width * kLanes;
    }

    float* query_phases(const Desk& desk, std::int64_t place) const {
        return p_.pairs > 0 ? desk.phases + place * 2 * p_.pairs * kLanes : nullptr;
    }

    // Of a desk's kept exponentials and what belongs to them, those of a block and a head.
    std::int64_t kept_place(std::int64_t head, std::int64_t place) const {
        return place * plan_.heads + head % plan_.heads;
    }

    float* kept(const Desk& desk, std::int64_t at) const {
        return desk.kept + at * plan_.kept_rows * kLanes;
    }

    float* kept_max(const Desk& desk, std::int64_t at) const {
        return desk.kept_max + at * (plan_.kept_rows / kKeys) * kLanes;
    }

    State unit_state(const Desk& desk, std::int64_t place) const {
        return state_at(desk.unit_states, place, p_, plan_, false);
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
            in.halves = p_.halves;
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

    void pack_queries(const Desk& desk, std::int64_t head, std::int64_t block,
                      std::int64_t place) const {
        const std::int64_t b = head / p_.heads;
        RowsIn in{};
        in.data = at(p_.q, head);
        in.element = p_.element;
        in.stride = p_.q.row;
        if (p_.pairs > 0) {
            in.pairs = p_.pairs;
            in.halves = p_.halves;
            in.phase_stride = 2 * p_.pairs;
            in.phase = p_.query_phase.data + b * p_.query_phase.batch;
        }
        table().pack(in, block * kLanes, queries_of(block), p_.width, packed_queries(desk, place),
                     query_phases(desk, place), desk.strip);
    }

    // One task of the first pass: some blocks of queries of a head, some of its keys.
    void attend(const Desk& desk, std::int64_t head, std::int64_t group, std::int64_t split) {
        const std::int64_t b = head / p_.heads;
        const std::int64_t first_block = group * plan_.group;
        const std::int64_t n_blocks = std::min(plan_.group, plan_.blocks - first_block);
        const bool splits = plan_.splits > 1;
        const auto state_of = [&](std::int64_t place) {
            const std::int64_t block = head * plan_.blocks + first_block + place;
            return splits ? state_at(shared_.split_states, block * plan_.splits + split, p_, plan_,
                                     plan_.sums)
                          : state_at(desk.states, place, p_, plan_, plan_.sums);
        };
        for (std::int64_t i = 0; i < n_blocks; ++i) {
            const State state = state_of(i);
            const BlockShape shape = shape_of(first_block + i);
            pack_queries(desk, head, first_block + i, i);
            table().reset(state.block, state.top_or_none(), shape);
            if (plan_.partials) {
                empty_partials(head, first_block + i);
                table().reset(unit_state(desk, i).block, nullptr, shape);
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
            keys.k = floats(k, plan_.gathers_k, first, keys.n, p_.width, desk.keys, &keys.k_stride);
            keys.v = floats(v, plan_.gathers_v, first, keys.n, plan_.gathered, desk.values,
                            &keys.v_stride);
            if (p_.rows != nullptr) keys.rows = p_.rows + begin + first;
            if (shared_.times != nullptr) keys.times = shared_.times + begin + first;
            if (plan_.sums) keys.units = shared_.units + begin + first;
            for (std::int64_t i = 0; i < n_blocks; ++i) {
                keys.cold = i == 0 && !plan_.gathers_v;
                if (plan_.partials) {
                    attend_by_unit(desk, head, first_block + i, i, keys, first + keys.n == to);
                    continue;
                }
                const State state = state_of(i);
                const std::int64_t at = kept_place(head, i);
                float* const room = plan_.keeps ? kept(desk, at) + first * kLanes : desk.scores;
                float* const maxima =
                    plan_.keeps ? kept_max(desk, at) + first / kKeys * kLanes : nullptr;
                table().absorb(state.block, state.top_or_none(),
                               shape_of(desk, head, first_block + i), packed_queries(desk, i), keys,
                               room, maxima);
            }
        }
        if (splits) return;
        for (std::int64_t i = 0; i < n_blocks; ++i) {
            finish(desk, head, first_block + i, i, state_of(i));
        }
    }

    // Keys sorted by unit: each unit has a state of its own, which is written and then merged.
    void attend_by_unit(const Desk& desk, std::int64_t head, std::int64_t block, std::int64_t place,
                        const KeyBlock& keys, bool last) {
        const std::int64_t b = head / p_.heads;
        const std::int32_t* const runs = shared_.runs + p_.begin[b] + keys.first;
        const BlockShape shape = shape_of(block);
        const State total = state_at(desk.states, place, p_, plan_, plan_.sums);
        const State own = unit_state(desk, place);
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
            table().absorb(own.block, nullptr, shape, packed_queries(desk, place), mine,
                           desk.scores, nullptr);
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
        const std::int32_t* const ends = shared_.places + head / p_.heads * (p_.n_units + 2);
        for (std::int64_t i = 0; i < queries_of(block) * p_.n_units; ++i) {
            const std::int64_t unit = i % p_.n_units;
            if (ends[unit] > (unit > 0 ? ends[unit - 1] : 0)) continue;
            p_.partial_lse[first + i] = -INFINITY;
            std::fill_n(p_.partial_output + (first + i) * p_.value_width, p_.value_width, 0.0F);
        }
    }

    void write_partial(const Desk& desk, std::int64_t head, std::int64_t block, std::int64_t place,
                       std::int32_t unit) {
        const std::int64_t first = (head * p_.queries + block * kLanes) * p_.n_units + unit;
        BlockOut out{};
        out.queries = queries_of(block);
        out.output = {p_.partial_output + first * p_.value_width, Element::f32,
                      p_.n_units * p_.value_width};
        out.partial_lse = p_.partial_lse + first;
        out.partial_lse_stride = p_.n_units;
        turn_back(desk, place, out);
        table().finish(unit_state(desk, place).block, nullptr, shape_of(block), out, desk.scores);
    }

    void turn_back(const Desk& desk, std::int64_t place, BlockOut& out) const {
        if (p_.pairs == 0 || !p_.rotate_values) return;
        out.phase = query_phases(desk, place);
        out.pairs = p_.pairs;
        out.halves = p_.halves;
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

    void finish(const Desk& desk, std::int64_t head, std::int64_t block, std::int64_t place,
                const State& state) {
        const std::int64_t b = head / p_.heads;
        const std::int64_t first = head * p_.queries + block * kLanes;
        const auto part = [&](float* all, std::int64_t width) {
            return all == nullptr ? nullptr : all + first * width;
        };
        load_weights(desk, head, block);
        BlockOut out{};
        out.queries = queries_of(block);
        if (p_.output.data != nullptr) {
            const HeadRowsOut& to = p_.output;
            const std::int64_t at =
                b * to.batch + head % p_.heads * to.head + block * kLanes * to.row;
            out.output = {static_cast<char*>(to.data) + at * element_bytes(), p_.element, to.row};
        }
        out.lse = part(p_.lse, 1);
        const std::int64_t lanes = kept_place(head, place) * kLanes;
        out.max = plan_.keeps ? desk.max + lanes : part(shared_.max, 1);
        out.inverse = plan_.keeps ? desk.inverse + lanes : part(shared_.inverse, 1);
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
        clear_lanes(desk, lanes);
        table().finish(state.block, state.top_or_none(), shape_of(block), out, desk.scores);
    }

    static void clear_lanes(const Desk& desk, std::int64_t from) {
        std::fill_n(desk.max + from, kLanes, 0.0F);
        std::fill_n(desk.inverse + from, kLanes, 0.0F);
    }

    // What needs the final sums, from the exponentials that a group of blocks of queries kept.
    void look_again(const Desk& desk, std::int64_t first_head, std::int64_t group) const {
        const std::int64_t end = std::min(plan_.blocks, (group + 1) * plan_.group);
        for (std::int64_t block = group * plan_.group; block < end; ++block) {
            const std::int64_t place = block - group * plan_.group;
            if (plan_.fuses) fuse(desk, first_head, block, place);
            if (p_.per_key == nullptr && p_.weights == nullptr) continue;
            for (std::int64_t i = 0; i < plan_.heads; ++i) {
                weigh_kept(desk, first_head + i, block, place);
            }
        }
    }

    Kept kept_of(const Desk& desk, std::int64_t head, std::int64_t place) const {
        const std::int64_t at = kept_place(head, place);
        Kept it{};
        it.exps = kept(desk, at);
        it.max = kept_max(desk, at);
        it.final_max = desk.max + at * kLanes;
        it.inverse = desk.inverse + at * kLanes;
        it.n = p_.count[head / p_.heads];
        it.exps_stride = plan_.kept_rows * kLanes;
        it.max_stride = plan_.kept_rows / kKeys * kLanes;
        return it;
    }

    // Weights over all heads of a batch element, of which first_head is the first.
    void fuse(const Desk& desk, std::int64_t first_head, std::int64_t block,
              std::int64_t place) const {
        const std::int64_t b = first_head / p_.heads;
        const std::int64_t n = p_.count[b];
        const std::int64_t queries = queries_of(block);
        const auto part = [&](float* all) {
            if (all == nullptr) return all;
            float* const out = all + (b * p_.queries + block * kLanes) * p_.longest;
            clear_padding(out, queries, n, p_.longest - n);
            return out;
        };
        table().fuse(shape_of(block), kept_of(desk, first_head, place), p_.heads, queries,
                     part(p_.weights_mean), part(p_.weights_max), p_.longest, desk.norms,
                     desk.scores);
    }

    void weigh_kept(const Desk& desk, std::int64_t head, std::int64_t block,
                    std::int64_t place) const {
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
        load_weights(desk, head, block);
        table().weigh_kept(shape_of(block), kept_of(desk, head, place), desk.weights, queries,
                           marginals, weights, p_.longest);
    }

    // Padding has no weight.
    void clear_padding(float* weights, std::int64_t queries, std::int64_t from,
                       std::int64_t n) const {
        for (std::int64_t q = 0; q < queries; ++q) {
            std::fill_n(weights + q * p_.longest + from, n, 0.0F);
        }
    }

    // Joins the parts of the keys, in their order.
    void join(const Desk& desk, std::int64_t head, std::int64_t block) {
        const std::int64_t base = (head * plan_.blocks + block) * plan_.splits;
        const BlockShape shape = shape_of(block);
        const auto part_of = [&](std::int64_t i) {
            return state_at(shared_.split_states, base + i, p_, plan_, plan_.sums);
        };
        const State whole = part_of(0);
        for (std::int64_t i = 1; i < plan_.splits; ++i) {
            const State part = part_of(i);
            table().merge(whole.block, part.block, shape, 0);
            if (p_.top_k > 0) table().merge_top(whole.top, part.top, shape);
        }
        if (p_.pairs > 0) pack_queries(desk, head, block, 0);  // for the phases
        finish(desk, head, block, 0, whole);
    }

    // One task of the second pass: some keys of a head, all its queries.
    void weigh(const Desk& desk, std::int64_t head, std::int64_t chunk) {
        const std::int64_t b = head / p_.heads;
        const std::int64_t first = chunk * plan_.key_chunk;
        const std::int64_t places = std::min(plan_.key_chunk, p_.longest - first);
        const std::int64_t n = std::clamp<std::int64_t>(p_.count[b] - first, 0, places);
        KeyBlock keys{};
        keys.n = n;
        const RowsIn k = rows_of(p_.k, head, p_.pairs > 0, false);
        keys.k = n > 0 ? floats(k, plan_.gathers_k, first, n, p_.width, desk.keys, &keys.k_stride)
                       : nullptr;
        if (p_.rows != nullptr) keys.rows = p_.rows + p_.begin[b] + first;
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
            clear_lanes(desk, 0);
            std::copy_n(shared_.max + row, queries, desk.max);
            std::copy_n(shared_.inverse + row, queries, desk.inverse);
            table().weigh(shape_of(desk, head, block), packed_queries(desk, 0), desk.max,
                          desk.inverse, desk.weights, queries, keys, desk.marginals, out,
                          p_.longest, desk.scores);
        }
        if (p_.per_key == nullptr) return;
        float* const out = p_.per_key + head * p_.longest + first;
        table().sum_marginals(desk.marginals, n, out);
        std::fill_n(out + n, places - n, 0.0F);
    }

    const AttentionProblem& p_;
    const Plan& plan_;
    const AttentionShared& shared_;
    AttentionDesks& desks_;
    int threads_;
    BlockShape shape_{};
};

}  // namespace

std::size_t attention_workspace(const AttentionProblem& p, int threads) {
    const Plan plan = plan_attention(p, threads);
    Arena arena(nullptr);
    take_shared(arena, p, plan);
    AttentionDesks(arena, p, plan, threads);
    return arena.used();
}

void attention(const AttentionProblem& p, void* workspace, int threads) {
    if (p.still_scores != nullptr) {
        if (p.rows == nullptr || p.element != Element::f32 || p.partial_lse != nullptr) {
            throw std::invalid_argument("still_scores must have float32 tables and no partials");
        }
        if (p.still_period % kLanes != 0) {
            refuse("still_period", "be a multiple of " + std::to_string(kLanes), p.still_period);
        }
    }
    if (p.partial_lse != nullptr && (p.weights_mean != nullptr || p.weights_max != nullptr)) {
        throw std::invalid_argument("weights over heads must be asked for without partials");
    }
    const Plan plan = plan_attention(p, threads);
    Arena arena(workspace);
    const AttentionShared shared = take_shared(arena, p, plan);
    AttentionDesks desks(arena, p, plan, threads);
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
