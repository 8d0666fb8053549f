// Elements of two vectors in any order, by the compilers' own vectors.
#pragma once

#if __has_builtin(__builtin_shufflevector)
#define ATTENDRITE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC before 12
#define ATTENDRITE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype(a){__VA_ARGS__})
#endif
