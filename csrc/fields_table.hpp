// The inner loops of fields.hpp, once per instruction-set level: see levels.hpp. Only fields.cpp
// calls them.
#pragma once

#include <cstdint>

#include "levels.hpp"

namespace attendrite {

// What goes together: its packed numbers and sums stay in the caches.
constexpr std::int64_t kUnitsTogether = 192, kPixelsTogether = 64;

struct Responses {
    const float* values;  // [images][units]
    std::int64_t images, units;
};

struct FieldsTable {
    // Pixels begin..end-1, at most kPixelsTogether, of values [images][pixels] into packed, panels
    // that take images * kPixelsTogether floats at most, with zeros beyond the last pixel. Adds to
    // their sums and to those of their squares, [pixels].
    void (*pack_images)(const float* values, std::int64_t images, std::int64_t pixels,
                        std::int64_t begin, std::int64_t end, float* packed, double* sum,
                        double* squares);
    // Adds what units begin..end-1, at most kUnitsTogether, have with all pixels to
    // products [units][pixels], and their own to the sums of responses and of squares, [units].
    // What is packed of groups of pixels lies images * kPixelsTogether apart. `room` is for
    // images * kUnitsTogether floats.
    void (*add_units)(const Responses& responses, std::int64_t begin, std::int64_t end,
                      const float* packed, std::int64_t pixels, float* room, double* products,
                      double* sum, double* squares);
};

ATTENDRITE_DECLARE_TABLE(FieldsTable, fields_table)

}  // namespace attendrite
