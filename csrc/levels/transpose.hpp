// Transposing small matrices of counts in registers.
#pragma once

#include <cstdint>
#include <cstring>

#include "shuffle.hpp"

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

using Bytes = std::uint8_t __attribute__((vector_size(16)));
using Words = std::uint16_t __attribute__((vector_size(16)));
using Longs = std::uint32_t __attribute__((vector_size(16)));

// The first and the second halves of a and b, interleaved.
inline void interleave(Bytes a, Bytes b, Bytes& low, Bytes& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    high = ATTENDRITE_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline void interleave(Words a, Words b, Words& low, Words& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = ATTENDRITE_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
inline void interleave(Longs a, Longs b, Longs& low, Longs& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 4, 1, 5);
    high = ATTENDRITE_SHUFFLE(a, b, 2, 6, 3, 7);
}

// Transposes a square that fills S vectors: log2(S) rounds of interleaving rows i and i + S/2.
template <int S, class Vector>
inline void transpose_square(const void* from, std::int64_t from_stride, void* to,
                             std::int64_t to_stride) {
    Vector rows[2][S];
    const auto* in = static_cast<const std::uint8_t*>(from);
    auto* out = static_cast<std::uint8_t*>(to);
    for (int i = 0; i < S; ++i) std::memcpy(&rows[0][i], in + i * from_stride, sizeof(Vector));
    int now = 0;
    for (int round = 1; round < S; round *= 2, now ^= 1) {
        for (int i = 0; i < S / 2; ++i) {
            interleave(rows[now][i], rows[now][i + S / 2], rows[now ^ 1][2 * i],
                       rows[now ^ 1][2 * i + 1]);
        }
    }
    for (int i = 0; i < S; ++i) std::memcpy(out + i * to_stride, &rows[now][i], sizeof(Vector));
}

template <class T>
struct Square {  // float moves as its bits do
    static constexpr int size = 4;
    using Vector = Longs;
};
template <>
struct Square<std::uint8_t> {
    static constexpr int size = 16;
    using Vector = Bytes;
};
template <>
struct Square<std::uint16_t> {
    static constexpr int size = 8;
    using Vector = Words;
};

// from [n_rows, n_columns] -> to [n_columns, n_rows], with rows that many elements apart.
template <class T>
inline void transpose(const T* from, std::int64_t from_stride, std::int64_t n_rows,
                      std::int64_t n_columns, T* to, std::int64_t to_stride) {
    constexpr int kSize = Square<T>::size;
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
    const std::int64_t rows = n_rows / kSize * kSize;  // in whole squares
    const std::int64_t columns = n_columns / kSize * kSize;
    for (std::int64_t r = 0; r < rows; r += kSize) {
        for (std::int64_t c = 0; c < columns; c += kSize) {
            transpose_square<kSize, typename Square<T>::Vector>(
                from + r * from_stride + c, from_stride * kBytes, to + c * to_stride + r,
                to_stride * kBytes);
        }
    }
    for (std::int64_t r = 0; r < n_rows; ++r) {
        for (std::int64_t c = r < rows ? columns : 0; c < n_columns; ++c) {
            to[c * to_stride + r] = from[r * from_stride + c];
        }
    }
}

}  // namespace
}  // namespace attendrite::ATTENDRITE_LEVEL
