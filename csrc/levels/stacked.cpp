// Convolutions by channel and point read-outs of one level: see stacked_table.hpp for what each
// function does.
#include "stacked_table.hpp"
#include "vector.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

static_assert(kChannelsTogether % kWidth == 0, "whole registers of channels");

// Sums fill the registers, but for a weight and a number of the map.
constexpr int kPlaces = kRegisters == 32 ? 28 : 14;

// `n` places side by side, of a register of channels.
template <int PLACES>
ATTENDRITE_APART void places(const Depthwise& kernel, const float* map, std::int64_t stride,
                             std::int64_t channel, float* out) {
    const std::int64_t step = kernel.channels;
    Floats sums[PLACES];
    for (int i = 0; i < PLACES; ++i) sums[i] = load(kernel.bias + channel);
    const float* weights = kernel.weights + channel;
    for (std::int64_t row = 0; row < kernel.rows; ++row) {
        const float* from = map + row * stride + channel;
        for (std::int64_t column = 0; column < kernel.columns; ++column) {
            const Floats weight = load(weights);
            const float* at = from;
#pragma GCC unroll 28
            for (int i = 0; i < PLACES; ++i, at += step) sums[i] = fma(weight, load(at), sums[i]);
            weights += step;
            from += step;
        }
    }
    for (int i = 0; i < PLACES; ++i) store(out + i * step + channel, sums[i]);
}

template <int PLACES>
void row_of(const Depthwise& kernel, const float* map, std::int64_t stride, std::int64_t channel,
            std::int64_t n, float* out) {
    std::int64_t i = 0;
    for (; i + PLACES <= n; i += PLACES) {
        places<PLACES>(kernel, map + i * kernel.channels, stride, channel,
                       out + i * kernel.channels);
    }
    if constexpr (PLACES > 1) {
        row_of<PLACES / 2>(kernel, map + i * kernel.channels, stride, channel, n - i,
                           out + i * kernel.channels);
    }
}

void depthwise(const Depthwise& kernel, const float* map, std::int64_t stride, std::int64_t n,
               float* out) {
    for (std::int64_t channel = 0; channel < kernel.channels; channel += kWidth) {
        row_of<kPlaces>(kernel, map, stride, channel, n, out);
    }
}

inline float elu1(float x) {
    if (x > 0.0F) return x + 1.0F;
    float lanes[kWidth];
    store(lanes, exp2(all(x * 1.44269504F)));
    return lanes[0];
}

void read(const float* map, std::int64_t channels, const Point* points, std::int64_t units,
          const float* features, const float* less, const float* bias, bool plain, float* out) {
    for (std::int64_t u = 0; u < units; ++u, features += channels) {
        const Point& point = points[u];
        const float* at[4];
        Floats weight[4];
        float whole = 0.0F;
        for (int i = 0; i < 4; ++i) {
            at[i] = map + point.place[i] * channels;
            weight[i] = all(point.weight[i]);
            whole += point.weight[i];
        }
        Floats sums = all(0.0F);
        for (std::int64_t c = 0; c < channels; c += kWidth) {
            Floats here = weight[0] * load(at[0] + c);
            for (int i = 1; i < 4; ++i) here = fma(weight[i], load(at[i] + c), here);
            sums = fma(here, load(features + c), sums);
        }
        const float drive = sum(sums) - whole * less[u] + bias[u];
        out[u] = plain ? drive : elu1(drive);
    }
}

}  // namespace

const StackedTable stacked_table = {depthwise, read};

}  // namespace attendrite::ATTENDRITE_LEVEL
