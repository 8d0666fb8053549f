// Products and layer normalisation of one level: see blocks_table.hpp for what each function does.
#include "blocks_table.hpp"
#include "vector.hpp"

namespace attendrite::ATTENDRITE_LEVEL {
namespace {

// A tile is some rows of a panel: its sums fill the registers, but for the weights of one input and
// one number of x. Tiles of few rows span several panels: sums enough that none waits for another.
constexpr int kVectors = kRegisters == 32 ? 4 : 2;
constexpr int kPanel = kVectors * kWidth;
constexpr int kTileRows = 6;
template <int ROWS>
constexpr int kPanels = ROWS == 1   ? 8 / kVectors
                        : ROWS <= 3 ? 4 / kVectors
                                    : 1;

// Rows that go through the panels together. Their sums, and with a panel's weights their inputs,
// stay in the cache.
constexpr int kBlockRows = 11 * kTileRows;

// The first part of n cut into as few equal parts as `most` allows.
inline std::int64_t part(std::int64_t n, std::int64_t most) {
    const std::int64_t parts = (n + most - 1) / most;
    return (n + parts - 1) / parts;
}

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

// ---- what follows a product ----

// x Phi(x), as max(0, x) - a Phi(-a) with a = |x|. The fourth root of Phi(-a) is nearly straight: a
// polynomial, fitted by Lawson's iteration to least greatest error of the result, leaves 3e-8. It
// ends in 0 at 5.75.
inline Floats gelu(Floats x) {
    const Floats a = min(max(x, -x), all(5.75F));
    const Floats a2 = a * a;  // even and odd powers apart: two short chains
    Floats odd = fma(all(1.04602421e-7F), a2, all(7.19876552e-5F));
    Floats even = fma(all(-5.25734959e-6F), a2, all(-0.000360441773F));
    odd = fma(odd, a2, all(8.5132313e-5F));
    even = fma(even, a2, all(0.003633908F));
    odd = fma(odd, a2, all(0.00477533415F));
    even = fma(even, a2, all(-0.0502502769F));
    odd = fma(odd, a2, all(-0.167723879F));
    even = fma(even, a2, all(0.840895832F));
    const Floats root = fma(odd, a, even);
    const Floats square = root * root;
    return fma(-a, square * square, max(all(0.0F), x));
}

// exp of what is below 0, plus what is above.
inline Floats elu1(Floats x) {
    return exp2(min(all(0.0F), x) * all(1.44269504F)) + max(all(0.0F), x);
}

// Sums of a panel, rows of kPanel, become n columns of y; the other columns are not written.
template <After AFTER>
void finish(const float* sums, std::int64_t rows, const float* bias, std::int64_t n,
            const float* residual, std::int64_t residual_stride, float* y, std::int64_t y_stride) {
    constexpr std::int64_t kColumns = AFTER == After::gated ? kPanel / 2 : kPanel;
    for (std::int64_t r = 0; r < rows; ++r, sums += kPanel) {
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < kColumns; i += kWidth) {
            if (i >= n) break;
            Floats x = load(sums + i) + load(bias + i);
            if constexpr (AFTER == After::gelu) x = gelu(x);
            if constexpr (AFTER == After::elu1) x = elu1(x);
            if constexpr (AFTER == After::gated) {
                x = x * gelu(load(sums + kColumns + i) + load(bias + kColumns + i));
            }
            if (residual != nullptr) {
                x = x + load_some(residual + r * residual_stride + i, n - i, 0.0F);
            }
            store_some(y + r * y_stride + i, n - i, x);
        }
    }
}

// ---- products ----

// Part of a product: rows of x, and inputs of panels that lie panel_stride apart.
struct Part {
    const float* x;
    std::int64_t x_stride;
    const float* weights;
    std::int64_t panel_stride;
    std::int64_t inputs;
    float* sums;  // [panels][..][kPanel]
    std::int64_t sums_stride;
    bool first;  // sums start here
};

// Whatever the tile, a sum takes its inputs one after the other from 0: no row depends on others.
template <int ROWS, int PANELS>
ATTENDRITE_APART void tile(const Part& part) {
    Floats sums[ROWS][PANELS][kVectors];
    for (int r = 0; r < ROWS; ++r) {
        for (int p = 0; p < PANELS; ++p) {
            for (int i = 0; i < kVectors; ++i) sums[r][p][i] = all(0.0F);
        }
    }
    const float* weights = part.weights;
    RowSet<ROWS> rows(part.x, part.x_stride);
    for (std::int64_t d = 0; d < part.inputs; ++d, weights += kPanel) {
        if constexpr (PANELS == 1) {  // registers keep the weights, or else the numbers of x
            Floats w[kVectors];
            for (int i = 0; i < kVectors; ++i) w[i] = load(weights + i * kWidth);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const Floats x = all(rows[r]);
                for (int i = 0; i < kVectors; ++i) sums[r][0][i] = fma(x, w[i], sums[r][0][i]);
            }
        } else {
            Floats x[ROWS];
            for (int r = 0; r < ROWS; ++r) x[r] = all(rows[r]);
#pragma GCC unroll 8
            for (int j = 0; j < PANELS * kVectors; ++j) {
                const int p = j / kVectors;
                const int i = j % kVectors;
                const Floats w = load(weights + p * part.panel_stride + i * kWidth);
                for (int r = 0; r < ROWS; ++r) sums[r][p][i] = fma(x[r], w, sums[r][p][i]);
            }
        }
        rows.next();
    }
    for (int p = 0; p < PANELS; ++p) {
        for (int r = 0; r < ROWS; ++r) {
            for (int i = 0; i < kVectors; ++i) {
                float* const to = part.sums + p * part.sums_stride + r * kPanel + i * kWidth;
                store(to, part.first ? sums[r][p][i] : load(to) + sums[r][p][i]);
            }
        }
    }
}

template <int ROWS>
void tiles(const Part& part, std::int64_t rows, std::int64_t panels) {
    if (rows < ROWS) {
        if constexpr (ROWS > 1) tiles<ROWS - 1>(part, rows, panels);
    } else if (panels == 1) {
        tile<ROWS, 1>(part);
    } else if constexpr (kPanels<ROWS> > 1) {
        tile<ROWS, kPanels<ROWS>>(part);
    }
}

template <After AFTER>
void multiply_after(const Product& product, const float* x, std::int64_t rows,
                    std::int64_t x_stride, const float* residual, std::int64_t residual_stride,
                    float* y, std::int64_t y_stride) {
    constexpr std::int64_t kColumns = AFTER == After::gated ? kPanel / 2 : kPanel;
    const std::int64_t panels = (product.outputs + kColumns - 1) / kColumns;
    const std::int64_t panel_stride = product.inputs * kPanel;
    alignas(64) float sums[kBlockRows * kPanel];
    while (rows > 0) {
        const std::int64_t block = part(rows, kBlockRows);
        const std::int64_t most = block == 1 ? kPanels<1> : block <= 3 ? kPanels<3> : 1;
        for (std::int64_t panel = 0; panel < panels;) {
            const std::int64_t left = panels - panel;
            const std::int64_t some = left >= most ? most : 1;
            for (std::int64_t d = 0; d < product.inputs; d += kPanelDepth) {
                const std::int64_t depth =
                    product.inputs - d < kPanelDepth ? product.inputs - d : kPanelDepth;
                for (std::int64_t r = 0; r < block;) {
                    const std::int64_t n = part(block - r, kTileRows);
                    tiles<kTileRows>(
                        {x + r * x_stride + d, x_stride,
                         product.packed + panel * panel_stride + d * kPanel, panel_stride, depth,
                         sums + r * kPanel, block * kPanel, d == 0},
                        n, some);
                    r += n;
                }
            }
            for (std::int64_t p = 0; p < some; ++p, ++panel) {
                const std::int64_t column = panel * kColumns;
                finish<AFTER>(sums + p * block * kPanel, block, product.bias + panel * kPanel,
                              product.outputs - column,
                              residual != nullptr ? residual + column : nullptr, residual_stride,
                              y + column, y_stride);
            }
        }
        rows -= block;
        x += block * x_stride;
        if (residual != nullptr) residual += block * residual_stride;
        y += block * y_stride;
    }
}

void multiply(const Product& product, const float* x, std::int64_t rows, std::int64_t x_stride,
              const float* residual, std::int64_t residual_stride, float* y,
              std::int64_t y_stride) {
    const auto run = product.after == After::gelu    ? multiply_after<After::gelu>
                     : product.after == After::gated ? multiply_after<After::gated>
                     : product.after == After::elu1  ? multiply_after<After::elu1>
                                                     : multiply_after<After::nothing>;
    run(product, x, rows, x_stride, residual, residual_stride, y, y_stride);
}

void pack(const float* weights, std::int64_t columns, std::int64_t inputs, std::int64_t stride,
          bool gated, float* packed) {
    const std::int64_t outputs = gated ? columns / 2 : columns;
    const std::int64_t group = gated ? kPanel / 2 : kPanel;
    for (std::int64_t first = 0; first < outputs; first += group, packed += inputs * kPanel) {
        const std::int64_t n = outputs - first < group ? outputs - first : group;
        std::memset(packed, 0, static_cast<std::size_t>(inputs * kPanel) * sizeof(float));
        transpose(weights + first * stride, stride, n, inputs, packed, kPanel);
        if (!gated) continue;
        transpose(weights + (outputs + first) * stride, stride, n, inputs, packed + group, kPanel);
    }
}

// ---- layer normalisation ----

// The mean first, then squares of what differs from it: numbers far from 0 lose no digits. Several
// rows at once, since each waits for its own sums.
template <int ROWS>
void normalise(const float* x, std::int64_t width, std::int64_t x_stride, const float* gain,
               const float* offset, float eps, float* y, std::int64_t y_stride) {
    const auto n = static_cast<float>(width);
    Floats sums[ROWS], mean[ROWS], factor[ROWS];
    for (int r = 0; r < ROWS; ++r) sums[r] = all(0.0F);
    for (std::int64_t i = 0; i < width; i += kWidth) {
        for (int r = 0; r < ROWS; ++r) {
            sums[r] = sums[r] + load_some(x + r * x_stride + i, width - i, 0.0F);
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        mean[r] = all(sum(sums[r]) / n);
        sums[r] = all(0.0F);
    }
    for (std::int64_t i = 0; i < width; i += kWidth) {
        for (int r = 0; r < ROWS; ++r) {
            const Floats apart = load_some(x + r * x_stride + i, width - i, mean[r][0]) - mean[r];
            sums[r] = fma(apart, apart, sums[r]);
        }
    }
    for (int r = 0; r < ROWS; ++r) factor[r] = all(1.0F / __builtin_sqrtf(sum(sums[r]) / n + eps));
    for (std::int64_t i = 0; i < width; i += kWidth) {
        const Floats times = gain != nullptr ? load_some(gain + i, width - i, 1.0F) : all(1.0F);
        const Floats plus = offset != nullptr ? load_some(offset + i, width - i, 0.0F) : all(0.0F);
        for (int r = 0; r < ROWS; ++r) {
            const Floats apart = load_some(x + r * x_stride + i, width - i, 0.0F) - mean[r];
            store_some(y + r * y_stride + i, width - i, fma(apart * factor[r], times, plus));
        }
    }
}

void layer_norm(const float* x, std::int64_t rows, std::int64_t width, std::int64_t x_stride,
                const float* gain, const float* offset, float eps, float* y,
                std::int64_t y_stride) {
    constexpr std::int64_t kTogether = 4;
    std::int64_t r = 0;
    for (; r + kTogether <= rows; r += kTogether) {
        normalise<kTogether>(x + r * x_stride, width, x_stride, gain, offset, eps, y + r * y_stride,
                             y_stride);
    }
    for (; r < rows; ++r) {
        normalise<1>(x + r * x_stride, width, x_stride, gain, offset, eps, y + r * y_stride,
                     y_stride);
    }
}

}  // namespace

const BlocksTable blocks_table = {kPanel, pack, multiply, layer_norm};

}  // namespace attendrite::ATTENDRITE_LEVEL
