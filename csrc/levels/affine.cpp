// Affine maps of windows of one level: see affine_table.hpp for what each function does.
#include "affine_table.hpp"
#include "vector.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// A tile is some images of a panel: its sums fill the registers, but for the weights of one pixel
// and one pixel.
constexpr int kVectors = kRegisters == 32 ? 4 : 2;
constexpr int kPanel = kVectors * kWidth;
constexpr int kImages = 6;

// sums [images][kPanel] over some rows of a window, beside what is there.
template <int IMAGES>
ATTENDRITE_APART void tile(const PixelWindow& window, std::int64_t rows, const float* x,
                           std::int64_t stride, const float* weights, float* sums) {
    Floats s[IMAGES][kVectors];
    for (int i = 0; i < IMAGES; ++i) {
        for (int v = 0; v < kVectors; ++v) s[i][v] = all(0.0F);
    }
    for (std::int64_t row = 0; row < rows; ++row, x += window.row_step) {
        RowSet<IMAGES> pixels(x, stride);
        for (std::int64_t j = 0; j < window.columns; ++j, weights += kPanel) {
            Floats w[kVectors];
            for (int v = 0; v < kVectors; ++v) w[v] = load(weights + v * kWidth);
#pragma GCC unroll 8
            for (int i = 0; i < IMAGES; ++i) {
                const Floats pixel = all(pixels[i]);
                for (int v = 0; v < kVectors; ++v) s[i][v] = fma(pixel, w[v], s[i][v]);
            }
            pixels.next();
        }
    }
    for (int i = 0; i < IMAGES; ++i) {
        for (int v = 0; v < kVectors; ++v) {
            float* const to = sums + i * kPanel + v * kWidth;
            store(to, load(to) + s[i][v]);
        }
    }
}

template <int IMAGES>
void tiles(const PixelWindow& window, std::int64_t rows, const float* x, std::int64_t images,
           std::int64_t stride, const float* weights, float* sums) {
    std::int64_t i = 0;
    for (; i + IMAGES <= images; i += IMAGES) {
        tile<IMAGES>(window, rows, x + i * stride, stride, weights, sums + i * kPanel);
    }
    if constexpr (IMAGES > 1) {
        if (i < images) {
            tiles<IMAGES - 1>(window, rows, x + i * stride, images - i, stride, weights,
                              sums + i * kPanel);
        }
    }
}

void apply(const PixelWindow& window, const float* x, std::int64_t images, std::int64_t stride,
           const float* weights, const float* bias, float* out) {
    std::memset(out, 0, static_cast<std::size_t>(images * kPanel) * sizeof(float));
    const std::int64_t most = kWindowDepth / window.columns;
    const std::int64_t step = most > 1 ? most : 1;
    for (std::int64_t c = 0; c < window.channels; ++c) {
        const float* from = x + c * window.channel_step;
        for (std::int64_t row = 0; row < window.rows; row += step) {
            const std::int64_t some = window.rows - row < step ? window.rows - row : step;
            tiles<kImages>(window, some, from, images, stride, weights, out);
            from += some * window.row_step;
            weights += some * window.columns * kPanel;
        }
    }
    for (std::int64_t i = 0; i < images; ++i, out += kPanel) {
        for (int v = 0; v < kPanel; v += kWidth) {
            const Floats y = load(out + v) + load(bias + v);
            const Floats below = exp2(min(all(0.0F), y) * all(1.44269504F));
            store(out + v, below + max(all(0.0F), y));
        }
    }
}

}  // namespace

const AffineTable affine_table = {kPanel, apply};

}  // namespace attendrite::ATTENDRITE_LEVEL
