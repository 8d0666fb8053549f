// Floats in one vector register: the dozen operations that the kernels of one level need.
#pragma once

#include <cstdint>
#include <cstring>

#include "shuffle.hpp"

#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)  // its own header, GCC bug 105593
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#endif

#ifndef ATTENDRITE_LEVEL
#error "for files of levels/ only: see levels.hpp"
#endif

// A function that is not put into its callers: a loop that fills the registers shares them with
// nobody.
#define ATTENDRITE_APART __attribute__((noinline))

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // floats in a register
constexpr int kRegisters = 32;
using Floats = __m512;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRegisters = 16;
using Floats = __m256;
#else
constexpr int kWidth = 4;
constexpr int kRegisters = 16;
using Floats = float __attribute__((vector_size(16)));
#endif

inline Floats load(const float* p) {
    Floats x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }

#if defined(__AVX512F__)

inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline bool any_greater(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline Floats nearest(Floats x) { return _mm512_roundscale_ps(x, 0); }
// x 2^n for a whole n.
inline Floats scale(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }

inline void interleave(Floats a, Floats b, Floats& low, Floats& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    high = ATTENDRITE_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

#elif defined(__AVX2__)

inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline bool any_greater(Floats a, Floats b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
inline Floats nearest(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// n is -127 (which gives 0) to 127.
inline Floats scale(Floats x, Floats n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

inline void interleave(Floats a, Floats b, Floats& low, Floats& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = ATTENDRITE_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

#else

using Ints = std::int32_t __attribute__((vector_size(16)));

inline Floats all(float x) { return Floats{x, x, x, x}; }
inline Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats min(Floats a, Floats b) { return a < b ? a : b; }
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }
inline bool any_greater(Floats a, Floats b) {
    const Ints mask = a > b;
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
}
inline Floats nearest(Floats x) {  // |x| < 2^22
    const Floats shift = all(12582912.0F);
    return (x + shift) - shift;
}
inline Floats scale(Floats x, Floats n) {
    const Floats biased = n + all(12582912.0F + 127.0F);  // the low bits of its pattern are n + 127
    Ints bits;
    std::memcpy(&bits, &biased, sizeof bits);
    bits <<= 23;
    Floats power;
    std::memcpy(&power, &bits, sizeof power);
    return x * power;
}

inline void interleave(Floats a, Floats b, Floats& low, Floats& high) {
    low = ATTENDRITE_SHUFFLE(a, b, 0, 4, 1, 5);
    high = ATTENDRITE_SHUFFLE(a, b, 2, 6, 3, 7);
}

#endif

#if !defined(__AVX512F__)
inline float sum(Floats x) {
    float total = 0.0F;
    for (int i = 0; i < kWidth; ++i) total += x[i];
    return total;
}
#endif

// The first n numbers of a register, when there are not more; `rest` for the others.
inline Floats load_some(const float* p, std::int64_t n, float rest) {
    if (n >= kWidth) return load(p);
    Floats x = all(rest);
    std::memcpy(&x, p, static_cast<std::size_t>(n) * sizeof(float));
    return x;
}

inline void store_some(float* p, std::int64_t n, Floats x) {
    if (n >= kWidth) {
        store(p, x);
    } else {
        std::memcpy(p, &x, static_cast<std::size_t>(n) * sizeof(float));
    }
}

// 2^x for x <= 127, within 1e-7 relative, exact at 0; 0 from -127 down.
inline Floats exp2(Floats x) {
#if !defined(__AVX512F__)
    x = max(x, all(-127.0F));
#endif
    const Floats n = nearest(x);
    const Floats f = x - n;
    Floats p = all(0.00132647273F);
    p = fma(p, f, all(0.00967151299F));
    p = fma(p, f, all(0.0555073358F));
    p = fma(p, f, all(0.240222424F));
    p = fma(p, f, all(0.693147004F));
    p = fma(p, f, all(1.0F));
    return scale(p, n);
}

// The numbers of one column of some rows, column after column. Three rows are read from one
// address, by the stride and twice the stride: with an address for each, a loop over six rows would
// keep some in memory and lose a quarter of its time.
template <int ROWS>
class RowSet {
  public:
    RowSet(const float* first, std::int64_t stride) : stride_(stride) {
        for (int i = 0; i < kAddresses; ++i) at_[i] = first + 3 * i * stride;
    }

    float operator[](int row) const { return at_[row / 3][row % 3 * stride_]; }

    void next() {
        for (int i = 0; i < kAddresses; ++i) ++at_[i];
    }

  private:
    static constexpr int kAddresses = (ROWS + 2) / 3;
    const float* at_[kAddresses];
    std::int64_t stride_;
};

// Transposes kWidth rows of kWidth floats: log2 rounds of interleaving rows i and i + kWidth / 2.
inline void transpose_square(const float* from, std::int64_t from_stride, float* to,
                             std::int64_t to_stride) {
    Floats rows[2][kWidth];
    for (int i = 0; i < kWidth; ++i) rows[0][i] = load(from + i * from_stride);
    int now = 0;
    for (int round = 1; round < kWidth; round *= 2, now ^= 1) {
        for (int i = 0; i < kWidth / 2; ++i) {
            interleave(rows[now][i], rows[now][i + kWidth / 2], rows[now ^ 1][2 * i],
                       rows[now ^ 1][2 * i + 1]);
        }
    }
    for (int i = 0; i < kWidth; ++i) store(to + i * to_stride, rows[now][i]);
}

// to[c][r] = from[r][c].
inline void transpose(const float* from, std::int64_t from_stride, std::int64_t n_rows,
                      std::int64_t n_columns, float* to, std::int64_t to_stride) {
    const std::int64_t rows = n_rows / kWidth * kWidth;
    const std::int64_t columns = n_columns / kWidth * kWidth;
    for (std::int64_t r = 0; r < rows; r += kWidth) {
        for (std::int64_t c = 0; c < columns; c += kWidth) {
            transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r,
                             to_stride);
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
