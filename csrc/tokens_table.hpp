// What levels/tokens.cpp provides at every level. Plain structs only: see levels.hpp.
#pragma once

#include <cstdint>

namespace attendrite {

// Spikes of B windows. Window w holds the spikes begin[w]..end[w]-1, sorted by time.
struct TokenWindows {
    const double* times;         // [n], s
    const std::int32_t* units;   // [n]
    const std::int64_t* begin;   // [B]
    const std::int64_t* end;     // [B]
    const double* origin;        // [B], s
    const std::uint8_t* exists;  // [B, N], which units exist in a window; null: all
    std::int64_t n_windows;
    std::int64_t n_units;
    double length;  // s
    double tick;    // s; how far before its window a spike may lie
};

// Where tokens go: packed one window after the other, or padded to rows.
struct TokenTarget {
    std::int32_t* unit;              // [n] or [B, row]
    double* time;                    // [n] or [B, row], s from the window's origin
    std::int8_t* type;               // [n] or [B, row]; 0 spike, 1 START, 2 END
    std::uint8_t* mask;              // [B, row]; null when packed
    std::int64_t* unit_offsets;      // [B, N + 1]; null in time order
    const std::int64_t* cu_seqlens;  // [B + 1]
    std::int64_t row;                // 0 when packed
};

struct TokensTable {
    // Tokens of window w, where `exists` is given; -1 when a unit is out of range.
    std::int64_t (*count)(const TokenWindows& windows, std::int64_t w);
    // Writes window w; false when one of its spikes is bad.
    bool (*write)(const TokenWindows& windows, const TokenTarget& target, std::int64_t w);
};

}  // namespace attendrite
