// The inner loops of affine.hpp, once per instruction-set level: see levels.hpp. Only affine.cpp
// calls them.
#pragma once

#include <cstdint>

#include "levels.hpp"

namespace attendrite {

// Products are summed over about this many pixels at a time: rounding stays short.
constexpr std::int64_t kWindowDepth = 256;

// Pixels that the units of a panel read: a window of each channel.
struct PixelWindow {
    std::int64_t channels, channel_step;  // floats from channel to channel
    std::int64_t rows, row_step;
    std::int64_t columns;
};

struct AffineTable {
    std::int64_t panel;  // units side by side
    // elu(W x + b) + 1 of some images, whose windows begin at x, x + stride, ..: [images][panel].
    // Weights are [channels][rows][columns][panel], the bias [panel].
    void (*apply)(const PixelWindow& window, const float* x, std::int64_t images,
                  std::int64_t stride, const float* weights, const float* bias, float* out);
};

ATTENDRITE_DECLARE_TABLE(AffineTable, affine_table)

}  // namespace attendrite
