// Sums of responses times images of one level: see fields_table.hpp for what each function does.
#include "fields_table.hpp"
#include "vector.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// A tile is some units of a panel of pixels: its sums fill the registers, but for the pixels of one
// image and one response.
constexpr int kVectors = kRegisters == 32 ? 4 : 2;
constexpr int kPanel = kVectors * kWidth;
constexpr int kTile = 6;
static_assert(kUnitsTogether % kTile == 0 && kPixelsTogether % kPanel == 0, "whole tiles");

// Sums are taken over this many images in registers: a slice of a panel stays in the cache.
constexpr std::int64_t kDepth = 256;

constexpr std::int64_t kLine = 64 / sizeof(double);

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

void pack_images(const float* values, std::int64_t images, std::int64_t pixels, std::int64_t begin,
                 std::int64_t end, float* packed, double* sum, double* squares) {
    const std::int64_t n = end - begin;
    double totals[2][kPixelsTogether] = {};
    float row[kPixelsTogether] = {};
    for (std::int64_t i = 0; i < images; ++i) {
        std::memcpy(row, values + i * pixels + begin, static_cast<std::size_t>(n) * sizeof(float));
        for (std::int64_t j = 0; j < kPixelsTogether; ++j) {
            const double x = row[j];
            totals[0][j] += x;
            totals[1][j] += x * x;
        }
        float* to = packed + i * kPanel;
        for (std::int64_t j = 0; j < n; j += kPanel, to += images * kPanel) {
            std::memcpy(to, row + j, kPanel * sizeof(float));
        }
    }
    for (std::int64_t j = 0; j < n; ++j) {
        sum[begin + j] += totals[0][j];
        squares[begin + j] += totals[1][j];
    }
}

// Responses of some units as tiles [images][kTile], zeros beyond the last unit; and their sums.
void pack_responses(const Responses& responses, std::int64_t begin, std::int64_t units,
                    float* packed, double* sum, double* squares) {
    double totals[2][kUnitsTogether] = {};
    float row[kUnitsTogether] = {};
    for (std::int64_t i = 0; i < responses.images; ++i) {
        std::memcpy(row, responses.values + i * responses.units + begin,
                    static_cast<std::size_t>(units) * sizeof(float));
        for (std::int64_t u = 0; u < kUnitsTogether; ++u) {
            const double r = row[u];
            totals[0][u] += r;
            totals[1][u] += r * r;
        }
        float* to = packed + i * kTile;
        for (std::int64_t u = 0; u < units; u += kTile, to += responses.images * kTile) {
            std::memcpy(to, row + u, kTile * sizeof(float));
        }
    }
    for (std::int64_t u = 0; u < units; ++u) {
        sum[begin + u] += totals[0][u];
        squares[begin + u] += totals[1][u];
    }
}

// sums [kTile][kPixelsTogether] of some images, beside what is there unless they are the first.
void tile(const float* responses, const float* pixels, std::int64_t images, float* sums,
          bool first) {
    Floats s[kTile][kVectors];
    for (int u = 0; u < kTile; ++u) {
        for (int v = 0; v < kVectors; ++v) s[u][v] = all(0.0F);
    }
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < images; ++i, responses += kTile, pixels += kPanel) {
        Floats x[kVectors];
        for (int v = 0; v < kVectors; ++v) x[v] = load(pixels + v * kWidth);
#pragma GCC unroll 8
        for (int u = 0; u < kTile; ++u) {
            const Floats r = all(responses[u]);
            for (int v = 0; v < kVectors; ++v) s[u][v] = fma(r, x[v], s[u][v]);
        }
    }
    for (int u = 0; u < kTile; ++u) {
        for (int v = 0; v < kVectors; ++v) {
            float* const to = sums + u * kPixelsTogether + v * kWidth;
            store(to, first ? s[u][v] : load(to) + s[u][v]);
        }
    }
}

// The large sums come from memory while what is added to them is computed.
inline void fetch(const double* row, std::int64_t n) {
    for (std::int64_t i = 0; i < n; i += kLine) __builtin_prefetch(row + i, 1, 2);
}

void add_units(const Responses& responses, std::int64_t begin, std::int64_t end,
               const float* packed, std::int64_t pixels, float* room, double* products, double* sum,
               double* squares) {
    const std::int64_t images = responses.images;
    const std::int64_t units = end - begin;
    pack_responses(responses, begin, units, room, sum, squares);
    alignas(64) float sums[kUnitsTogether * kPixelsTogether];
    for (std::int64_t group = 0; group < pixels; group += kPixelsTogether) {
        const std::int64_t some = smaller(kPixelsTogether, pixels - group);
        double* const to = products + begin * pixels + group;
        for (std::int64_t at = 0; at < images; at += kDepth) {
            const std::int64_t depth = smaller(kDepth, images - at);
            for (std::int64_t j = 0; j < some; j += kPanel) {
                for (std::int64_t u = 0; u < units; u += kTile) {
                    if (at + depth == images) {
                        for (std::int64_t row = u; row < smaller(units, u + kTile); ++row) {
                            fetch(to + row * pixels + j, smaller(kPanel, some - j));
                        }
                    }
                    tile(room + u * images + at * kTile,
                         packed + group * images + j * images + at * kPanel, depth,
                         sums + u * kPixelsTogether + j, at == 0);
                }
            }
        }
        for (std::int64_t u = 0; u < units; ++u) {
            for (std::int64_t j = 0; j < some; ++j) {
                to[u * pixels + j] += static_cast<double>(sums[u * kPixelsTogether + j]);
            }
        }
    }
}

}  // namespace

const FieldsTable fields_table = {pack_images, add_units};

}  // namespace attendrite::ATTENDRITE_LEVEL
