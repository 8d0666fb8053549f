// The inner loops of stacked.hpp, once per instruction-set level: see levels.hpp. Only stacked.cpp
// calls them.
#pragma once

#include <cstdint>

#include "levels.hpp"

namespace attendrite {

constexpr std::int64_t kChannelsTogether = 16;  // features are filled up to a multiple of it

// Where a unit reads a map: four places, and how much of each.
struct Point {
    std::int32_t place[4];
    float weight[4];
};

// A convolution of each channel by itself.
struct Depthwise {
    const float* weights;  // [rows][columns][channels]
    const float* bias;     // [channels]
    std::int64_t rows, columns, channels;
};

struct StackedTable {
    // A row of the result, [n][channels], from `map`, whose rows of `stride` floats begin with the
    // first one that the kernel covers.
    void (*depthwise)(const Depthwise& kernel, const float* map, std::int64_t stride,
                      std::int64_t n, float* out);
    // What units read from a map [places][channels]: features [units][channels] times what is at
    // their points, less `less` [units] times the weights of the point, plus bias; then elu + 1
    // unless `plain`.
    void (*read)(const float* map, std::int64_t channels, const Point* points, std::int64_t units,
                 const float* features, const float* less, const float* bias, bool plain,
                 float* out);
};

ATTENDRITE_DECLARE_TABLE(StackedTable, stacked_table)

}  // namespace attendrite
