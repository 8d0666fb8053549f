#include "attention_plan.hpp"

namespace attendrite {
namespace {

constexpr std::int64_t kGroup = 8;               // blocks of queries of a task, at most
constexpr std::int64_t kFar = 4;                 // widths from row to row
constexpr std::int64_t kChunkBytes = 192 << 10;  // keys and values of a chunk
constexpr std::int64_t kStateBytes = 640 << 10;  // states of a group: the rest of the L2
constexpr std::int64_t kEnoughTasks = 16;
constexpr std::int64_t kFusedBytes = 8 << 20;  // kept exponentials of a group, of all heads
constexpr std::int64_t kKeptKeys = 1024;  // exponentials of so many keys are kept for a second look
constexpr std::int64_t kSplitKeys = 4096;  // at least so many keys make a task of their own

AttentionDesk take_desk(Arena& arena, const AttentionProblem& p, const AttentionPlan& plan) {
    AttentionDesk desk{};
    const std::int64_t n = plan.group;
    if (plan.splits == 1) desk.states = arena.take<float>(n * plan.state_floats);
    if (plan.partials) desk.unit_states = arena.take<float>(n * plan.state_floats);
    desk.queries = arena.take<float>(n * p.width * kLanes);
    if (p.pairs > 0) desk.phases = arena.take<float>(n * 2 * p.pairs * kLanes);
    if (plan.keeps) {
        desk.kept = arena.take<float>(n * plan.heads * plan.kept_rows * kLanes);
        desk.kept_max = arena.take<float>(n * plan.heads * plan.kept_rows / kKeys * kLanes);
    }
    const std::int64_t most = std::max(plan.chunk, plan.second ? plan.key_chunk : 0);
    if (plan.gathers_k) desk.keys = arena.take<float>(most * p.width);
    if (plan.gathers_v) desk.values = arena.take<float>(plan.chunk * plan.gathered);
    desk.scores = arena.take<float>(kKeys * kLanes);
    desk.strip = arena.take<float>(kWidest * std::max(p.width, p.value_width));
    if (p.per_key != nullptr) desk.marginals = arena.take<float>(plan.key_chunk * kWidest);
    desk.weights = arena.take<float>(kLanes);
    desk.max = arena.take<float>(n * plan.heads * kLanes);
    desk.inverse = arena.take<float>(n * plan.heads * kLanes);
    if (plan.fuses) desk.norms = arena.take<float>(plan.heads * kLanes);
    if (p.still_values > 0) desk.still = arena.take<float>(kKeys * (kLanes + p.still_values));
    return desk;
}

}  // namespace

AttentionPlan plan_attention(const AttentionProblem& p, int threads) {
    AttentionPlan plan{};
    plan.partials = p.partial_lse != nullptr;
    plan.sums = p.per_unit != nullptr || p.per_query_unit != nullptr;
    plan.moments = p.entropy != nullptr;
    plan.lag = p.lag != nullptr;
    const bool looks_again = p.per_key != nullptr || p.weights != nullptr;
    plan.fuses = p.weights_mean != nullptr || p.weights_max != nullptr;
    plan.heads = plan.fuses ? p.heads : 1;
    plan.keeps = plan.fuses || (looks_again && !plan.partials && p.longest <= kKeptKeys);
    plan.second = looks_again && !plan.keeps;
    const bool changed = p.element != Element::f32 || p.rows != nullptr || plan.partials;
    plan.gathered = p.value_width - p.still_values;
    plan.blocks = blocks_of(p.queries, kLanes);
    // Rows that lie far apart, each in a page of its own, are copied where several blocks read
    // them.
    const auto far = [&](const HeadRows& rows, std::int64_t width) {
        return plan.blocks > 1 && rows.row >= kFar * width;
    };
    plan.gathers_k = changed || p.pairs > 0 || far(p.k, p.width);
    plan.gathers_v = changed || (p.pairs > 0 && p.rotate_values) || far(p.v, p.value_width);
    plan.kept_rows = blocks_of(p.longest, kKeys) * kKeys;
    plan.state_floats = kLanes * (2 + plan.moments + plan.lag + p.value_width +
                                  (plan.sums ? p.n_units : 0) + 2 * p.top_k);

    const std::int64_t row_bytes = 4 * (p.width + plan.gathered);
    plan.chunk = std::max<std::int64_t>(1, kChunkBytes / row_bytes / kKeys) * kKeys;
    plan.key_chunk = std::max<std::int64_t>(1, kChunkBytes / (4 * p.width) / kKeys) * kKeys;

    const std::int64_t heads = p.batch * p.heads;
    plan.splits = 1;
    if (!plan.partials && !plan.fuses && heads * plan.blocks < kEnoughTasks) {
        plan.splits =
            std::min(blocks_of(kEnoughTasks, std::max<std::int64_t>(1, heads * plan.blocks)),
                     std::max<std::int64_t>(1, p.longest / kSplitKeys));
    }
    plan.split_keys = blocks_of(blocks_of(p.longest, plan.splits), kKeys) * kKeys;

    const std::int64_t kept_floats = plan.keeps ? plan.heads * plan.kept_rows * kLanes : 0;
    const std::int64_t kept = plan.fuses ? 0 : kept_floats;  // of many heads beyond the L2
    const std::int64_t bytes =
        4 * (kept + plan.state_floats * (plan.partials ? 2 : 1) + kLanes * (p.width + 2 * p.pairs));
    plan.group = std::clamp<std::int64_t>(kStateBytes / bytes, 1, kGroup);
    if (plan.fuses) {
        const std::int64_t most = kFusedBytes / std::max<std::int64_t>(1, 4 * kept_floats);
        plan.group = std::clamp<std::int64_t>(most, 1, plan.group);
    }
    while (plan.group > 1 && threads > 1 &&
           heads / plan.heads * blocks_of(plan.blocks, plan.group) * plan.splits < 4 * threads) {
        --plan.group;
    }
    plan.groups = blocks_of(plan.blocks, plan.group);
    return plan;
}

AttentionState state_at(float* memory, std::int64_t i, const AttentionProblem& p,
                        const AttentionPlan& plan, bool units) {
    float* next = memory + i * plan.state_floats;
    const auto piece = [&](std::int64_t rows) {
        float* const it = next;
        next += rows * kLanes;
        return it;
    };
    AttentionState state{};
    state.block.max = piece(1);
    state.block.sum = piece(1);
    if (plan.moments) state.block.moment = piece(1);
    if (plan.lag) state.block.time = piece(1);
    state.block.output = piece(p.value_width);
    if (units) state.block.units = piece(p.n_units);
    if (p.top_k > 0) {
        float* const scores = piece(p.top_k);
        state.top = {scores, reinterpret_cast<std::int32_t*>(piece(p.top_k)), p.top_k};
    }
    return state;
}

AttentionDesks::AttentionDesks(Arena& arena, const AttentionProblem& p, const AttentionPlan& plan,
                               int n)
    : desks_(arena.take<Place>(n)), n_(n) {
    for (int i = 0; i < n; ++i) {
        const AttentionDesk desk = take_desk(arena, p, plan);
        if (desks_ != nullptr) new (desks_ + i) Place{desk};
    }
}

AttentionShared take_shared(Arena& arena, const AttentionProblem& p, const AttentionPlan& plan) {
    AttentionShared shared{};
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
        shared.places = arena.take<std::int32_t>(p.batch * (p.n_units + 2));
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
        shared.split_states =
            arena.take<float>(heads * plan.blocks * plan.splits * plan.state_floats);
    }
    return shared;
}

}  // namespace attendrite
