// Queries, keys and values as attention works on them: widened, turned, gathered and packed.
#pragma once

#include "attention_products.hpp"
#include "attention_table.hpp"
#include "vector.hpp"

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

inline float to_float(std::uint16_t bits, Element element) {
    float x;
    if (element == Element::bf16) {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        std::memcpy(&x, &wide, sizeof x);
        return x;
    }
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
    const std::uint32_t magnitude = bits & 0x7fffU;
    if (magnitude >= 0x7c00U) {  // infinity, NaN
        const std::uint32_t wide = sign | 0x7f800000U | (magnitude & 0x3ffU) << 13;
        std::memcpy(&x, &wide, sizeof x);
        return x;
    }
    // The exponent is rebiased by a product, which also normalises subnormal numbers.
    const std::uint32_t wide = magnitude << 13;
    std::memcpy(&x, &wide, sizeof x);
    x *= 5.192296858534828e33F;  // 2^112
    return sign != 0 ? -x : x;
}

inline std::uint16_t to_half(float x, Element element) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (element == Element::bf16) {
        if ((bits & 0x7fffffffU) > 0x7f800000U) return 0x7fc0U;
        return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
    }
    const std::uint32_t sign = bits >> 16 & 0x8000U;
    const std::uint32_t magnitude = bits & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
    if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 up
    if (magnitude < 0x38800000U) {  // subnormal: adding 1/2 leaves the rounded bits in the mantissa
        float y;
        std::memcpy(&y, &magnitude, sizeof y);
        y += 0.5F;
        std::uint32_t rounded;
        std::memcpy(&rounded, &y, sizeof rounded);
        return static_cast<std::uint16_t>(sign | (rounded - 0x3f000000U));
    }
    const std::uint32_t odd = magnitude >> 13 & 1U;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
}

inline void read_row(const RowsIn& in, std::int64_t row, std::int64_t width, float* out) {
    const std::int64_t at = row * in.stride;
    if (in.element == Element::f32) {
        std::memcpy(out, static_cast<const float*>(in.data) + at,
                    static_cast<std::size_t>(width) * sizeof(float));
        return;
    }
    const std::uint16_t* halves = static_cast<const std::uint16_t*>(in.data) + at;
    if (in.element == Element::bf16) {
        for (std::int64_t d = 0; d < width; ++d) out[d] = to_float(halves[d], Element::bf16);
    } else {
        for (std::int64_t d = 0; d < width; ++d) out[d] = to_float(halves[d], Element::f16);
    }
}

// Turns pairs from `i` on while they fill a T; returns the first one that does not.
template <class T>
inline std::int64_t turn_each(const float* from, const float* phase, std::int64_t pairs, float* to,
                              std::int64_t i) {
    constexpr std::int64_t kStep = sizeof(T) / sizeof(float);
    const auto read = [](const float* at) {
        T x;
        std::memcpy(&x, at, sizeof x);
        return x;
    };
    for (; i + kStep <= pairs; i += kStep) {
        const T cos = read(phase + i);
        const T sin = read(phase + pairs + i);
        const T x = read(from + i);
        const T y = read(from + pairs + i);
        const T turned[] = {x * cos - y * sin, y * cos + x * sin};
        std::memcpy(to + i, &turned[0], sizeof(T));
        std::memcpy(to + pairs + i, &turned[1], sizeof(T));
    }
    return i;
}

inline void turn_halves(const float* from, const float* phase, std::int64_t pairs, float* to) {
    using Four = float __attribute__((vector_size(16)));  // all that small models turn
    std::int64_t i = turn_each<Floats>(from, phase, pairs, to, 0);
    i = turn_each<Four>(from, phase, pairs, to, i);
    turn_each<float>(from, phase, pairs, to, i);
}

inline void turn(float* row, const float* phase, std::int64_t pairs) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        const float even = row[2 * i];
        const float odd = row[2 * i + 1];
        row[2 * i] = even * phase[i] - odd * phase[pairs + i];
        row[2 * i + 1] = odd * phase[i] + even * phase[pairs + i];
    }
}

void gather(const RowsIn& in, std::int64_t first, std::int64_t n, std::int64_t width, float* out) {
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t key = in.order != nullptr ? in.order[first + i] : first + i;
        const std::int64_t from = in.rows != nullptr ? in.rows[key] : key;
        float* const row = out + i * width;
        const bool turned = in.phase != nullptr;
        const float* const phase = turned ? in.phase + key * in.phase_stride : nullptr;
        if (turned && in.halves && in.element == Element::f32) {  // without a copy before
            const float* const at = static_cast<const float*>(in.data) + from * in.stride;
            turn_halves(at, phase, in.pairs, row);
            std::int64_t d = 2 * in.pairs;
            for (; d + kWidth <= width; d += kWidth) store(row + d, load(at + d));
            for (; d < width; ++d) row[d] = at[d];
            continue;
        }
        read_row(in, from, width, row);
        if (turned && in.halves) turn_halves(row, phase, in.pairs, row);
        if (turned && !in.halves) turn(row, phase, in.pairs);
    }
}

void pack(const RowsIn& in, std::int64_t first, std::int64_t queries, std::int64_t width,
          float* out, float* phase_out, float* scratch) {
    RowsIn plain = in;
    plain.phase = nullptr;
    if (queries < kLanes) {
        std::memset(out, 0, static_cast<std::size_t>(width * kLanes) * sizeof(float));
    }
    constexpr std::int64_t kStrip = kWidth;  // scratch holds that many rows of any width
    const bool as_they_lie = in.element == Element::f32 && in.rows == nullptr && !in.order;
    for (std::int64_t q = 0; q < queries; q += kStrip) {
        const std::int64_t n = queries - q < kStrip ? queries - q : kStrip;
        const float* rows = scratch;
        std::int64_t stride = width;
        if (as_they_lie) {
            rows = static_cast<const float*>(in.data) + (first + q) * in.stride;
            stride = in.stride;
        } else {
            gather(plain, first + q, n, width, scratch);
        }
        transpose(rows, stride, n, width, out + group_at(q, width), kGroup);
    }
    if (in.phase == nullptr) return;
    const std::int64_t angles = 2 * in.pairs;
    if (queries < kLanes) {
        std::memset(phase_out, 0, static_cast<std::size_t>(angles * kLanes) * sizeof(float));
    }
    transpose(in.phase + first * in.phase_stride, in.phase_stride, queries, angles, phase_out,
              kLanes);
    for (std::int64_t i = 0; i < in.pairs; ++i) {
        for (std::int64_t lane = 0; lane < kLanes; lane += kWidth) {
            const Floats cos = load(phase_out + i * kLanes + lane);
            const Floats sin = load(phase_out + (in.pairs + i) * kLanes + lane);
            float* const even = out + group_at(lane, width) + (in.halves ? i : 2 * i) * kGroup;
            float* const odd = even + (in.halves ? in.pairs : 1) * kGroup;
            const Floats x = load(even);
            const Floats y = load(odd);
            store(even, x * cos - y * sin);
            store(odd, y * cos + x * sin);
        }
    }
}

}  // namespace
}  // namespace attendrite::ATTENDRITE_LEVEL
