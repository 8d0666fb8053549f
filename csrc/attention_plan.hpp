// How attention() is cut into tasks, and the memory that they work in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#include "arena.hpp"
#include "attention.hpp"

namespace attendrite {

constexpr std::int64_t kWidest = 16;  // floats in the widest register

inline std::int64_t blocks_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// By the sizes alone, but for the size of a group, which changes no result.
struct AttentionPlan {
    std::int64_t blocks;  // of queries
    std::int64_t group;   // blocks of a task
    std::int64_t groups;
    std::int64_t splits;  // of the keys
    std::int64_t split_keys;
    std::int64_t chunk;      // keys
    std::int64_t key_chunk;  // keys of a task of the second pass
    std::int64_t gathered;   // features of values that are gathered: all but those that stay still
    std::int64_t kept_rows;  // of exponentials that a block of queries keeps: whole blocks of keys
    std::int64_t state_floats;  // of a block of queries, with its sums per unit
    bool partials, sums, moments, lag, gathers_k, gathers_v;
    std::int64_t heads;  // of a task, one after the other
    bool keeps;          // the exponentials of a block of queries, instead of
    bool second;         // a second pass
    bool fuses;          // weights over heads
};

AttentionPlan plan_attention(const AttentionProblem&, int threads);

// What a block of queries has gathered.
struct AttentionState {
    BlockState block;
    TopState top;
    const TopState* top_or_none() const { return top.count > 0 ? &top : nullptr; }
};

// The i-th of the states in some memory, each plan.state_floats long.
AttentionState state_at(float* memory, std::int64_t i, const AttentionProblem&,
                        const AttentionPlan&, bool units);

// What one thread works with; arrays have a place for each block of a group, and head of a task.
struct AttentionDesk {
    float *states, *unit_states;
    float *queries, *phases;  // [group][width][kLanes], [group][2 * pairs][kLanes]
    float *kept, *kept_max;   // [group][heads][kept_rows][kLanes], one for each kKeys of them
    float *max, *inverse;     // [group][heads][kLanes]
    float *keys, *values, *scores, *strip, *marginals, *weights, *norms, *still;
};

// The desks of a call, taken and given back by its tasks.
class AttentionDesks {
  public:
    AttentionDesks(Arena&, const AttentionProblem&, const AttentionPlan&, int n);

    template <class Work>
    void with(const Work& work) {
        int i = 0;
        while (desks_[i].taken.test_and_set(std::memory_order_acquire)) i = (i + 1) % n_;
        work(static_cast<const AttentionDesk&>(desks_[i].desk));
        desks_[i].taken.clear(std::memory_order_release);
    }

  private:
    struct Place {
        AttentionDesk desk;
        std::atomic_flag taken = ATOMIC_FLAG_INIT;
    };
    Place* desks_;
    int n_;
};

// What is shared by the tasks of a call.
struct AttentionShared {
    std::int32_t* units;   // [n_keys] with n_units for "none"
    float* times;          // [n_keys] from the origin, in the order of the keys below
    double* origins;       // [batch]
    std::int32_t* order;   // [n_keys] keys of each element sorted by unit
    std::int32_t* runs;    // [n_keys] unit of the i-th key of that order
    std::int32_t* places;  // [batch, n_units + 2] where the keys of each unit end in that order
    float *max, *inverse;  // [batch, heads, queries] for the second pass
    float* block_sums;     // [batch, heads, blocks, n_units]
    float* block_keys;     // [batch, heads, blocks, longest] marginals from kept exponentials
    float* split_states;   // [batch, heads, blocks, splits]
};

AttentionShared take_shared(Arena&, const AttentionProblem&, const AttentionPlan&);

}  // namespace attendrite
