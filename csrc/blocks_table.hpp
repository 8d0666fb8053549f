// The inner loops of blocks.hpp, once per instruction-set level: see levels.hpp. Only blocks.cpp
// calls them.
#pragma once

#include <cstdint>

#include "levels.hpp"

namespace attendrite {

// Products are summed over this many inputs at a time: rounding stays short, and what the sums read
// stays in the L1 cache.
constexpr std::int64_t kPanelDepth = 256;

// What follows a product, before `residual` is added.
enum class After {
    nothing,
    gelu,   // x Phi(x), with the error function; within 2e-7 max(1, |x|)
    gated,  // GEGLU: the first half of the columns times gelu of the second; half as many come out
    elu1,   // elu(x) + 1: x + 1 above 0, exp(x) below; within 1.5e-7 max(1, x)
};

// Packed weights are panels, one after the other, each [inputs][panel]: so many columns of the
// product side by side, zeros beyond the last. A panel of a gated product is half values, half the
// gates that belong to them. A packed bias is the same with one input.
//
// In bfloat16 two inputs share the 32 bits of one: panels are [(inputs + 1) / 2][panel], input 2 i
// in the low half and 2 i + 1 in the high one, 0 beyond the last.
struct Product {
    const float* packed;
    const float* bias;
    std::int64_t inputs, outputs;  // outputs: columns of the result
    After after;
};

struct BlocksTable {
    std::int64_t panel;  // columns of a panel
    // weights [columns][inputs] into packed [panels][inputs][panel].
    void (*pack)(const float* weights, std::int64_t columns, std::int64_t inputs,
                 std::int64_t stride, bool gated, float* packed);
    // As Linear::operator().
    void (*multiply)(const Product& product, const float* x, std::int64_t rows,
                     std::int64_t x_stride, const float* residual, std::int64_t residual_stride,
                     float* y, std::int64_t y_stride);
    // The same in bfloat16: weights and x are rounded to the nearest, ties to even, and products
    // are added in float32. nullptr where the level has no instruction for it.
    decltype(pack) pack_pairs;
    decltype(multiply) multiply_pairs;
    // As layer_norm().
    void (*layer_norm)(const float* x, std::int64_t rows, std::int64_t width, std::int64_t x_stride,
                       const float* gain, const float* offset, float eps, float* y,
                       std::int64_t y_stride);
};

ATTENDRITE_DECLARE_TABLE(BlocksTable, blocks_table)

}  // namespace attendrite
