// AVX-512 on a CPU with AVX2, for tests: what ATTENDRITE_EMULATE includes ahead of levels v4 and
// v4_bf16. SIMDe has the instructions under their own names. Those here it lacks, or gives other
// results at infinities and subnormal numbers than Intel's manual.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512/cmp.h>
#include <simde/x86/avx512/fmadd.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/max.h>
#include <simde/x86/avx512/min.h>
#include <simde/x86/avx512/roundscale.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/test.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#if defined(ATTENDRITE_EMULATES_BF16)
#define __AVX512BF16__ 1
#endif

namespace attendrite::emulated {
namespace {

using Bits = unsigned __attribute__((vector_size(64)));

// a 2^floor(b); an infinite b wins over NaN.
inline __m512 scalef(__m512 a, __m512 b) {
    for (int i = 0; i < 16; ++i) {
        const float n = __builtin_floorf(b[i]);
        if (n != n) {
            a[i] = n;
        } else if (a[i] != a[i] && __builtin_isinf(n)) {
            a[i] = n < 0 ? 0.0F : n;
        } else {
            a[i] = __builtin_ldexpf(a[i], n < -1000 ? -1000 : n > 1000 ? 1000 : int(n));
        }
    }
    return a;
}

inline float reduce_add(__m512 x) {
    for (int n = 8; n > 0; n /= 2) {
        for (int i = 0; i < n; ++i) x[i] += x[i + n];
    }
    return x[0];
}

// Subnormal numbers are 0 to the instructions of bfloat16.
inline __m512 flushed(__m512 x) {
    const Bits bits = reinterpret_cast<Bits>(x);
    const Bits normal = reinterpret_cast<Bits>((bits & 0x7f800000U) != 0U);
    return reinterpret_cast<__m512>(bits & (normal | 0x80000000U));
}

// The pair's second product is added first.
inline __m512 dpbf16(__m512 c, __m512bh a, __m512bh b) {
    const Bits x = reinterpret_cast<Bits>(a);
    const Bits y = reinterpret_cast<Bits>(b);
    const auto number = [](Bits bits) { return flushed(reinterpret_cast<__m512>(bits)); };
    c = _mm512_fmadd_ps(number(x & 0xffff0000U), number(y & 0xffff0000U), flushed(c));
    c = _mm512_fmadd_ps(number(x << 16), number(y << 16), flushed(c));
    return flushed(c);
}

inline __m256bh cvtneps(__m512 x) {
    const Bits bits = reinterpret_cast<Bits>(flushed(x));
    const Bits nearest = bits + 0x7fffU + (bits >> 16 & 1U);
    const Bits found = (bits & 0x7fffffffU) > 0x7f800000U ? bits | 0x400000U : nearest;
    using Halves = unsigned short __attribute__((vector_size(32)));
    return reinterpret_cast<__m256bh>(__builtin_convertvector(found >> 16, Halves));
}

}  // namespace
}  // namespace attendrite::emulated

#undef _mm512_scalef_ps
#define _mm512_scalef_ps ::attendrite::emulated::scalef
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps ::attendrite::emulated::reduce_add
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps ::attendrite::emulated::dpbf16
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh ::attendrite::emulated::cvtneps
