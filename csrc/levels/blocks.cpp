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

// Rows that go through the panels together: the more there are, the less often weights come from
// the outermost cache. Their inputs, and a panel's weights, stay in the L2.
constexpr int kBlockRows = 44 * kTileRows;

// The first part of n cut into as few equal parts as `most` allows.
inline std::int64_t part(std::int64_t n, std::int64_t most) {
    const std::int64_t parts = (n + most - 1) / most;
    return (n + parts - 1) / parts;
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

// Where some columns of a product go: bias, residual (or nullptr) and y begin with the first one.
struct Goal {
    const float* bias;
    const float* residual;
    std::int64_t residual_stride;
    float* y;
    std::int64_t y_stride;
};

// Sums of a panel, rows of kPanel, become n columns of y; the other columns are not written.
template <After AFTER>
void finish(const float* sums, std::int64_t rows, std::int64_t n, const Goal& goal) {
    constexpr std::int64_t kColumns = AFTER == After::gated ? kPanel / 2 : kPanel;
    for (std::int64_t r = 0; r < rows; ++r, sums += kPanel) {
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < kColumns; i += kWidth) {
            if (i >= n) break;
            Floats x = load(sums + i) + load(goal.bias + i);
            if constexpr (AFTER == After::gelu) x = gelu(x);
            if constexpr (AFTER == After::elu1) x = elu1(x);
            if constexpr (AFTER == After::gated) {
                x = x * gelu(load(sums + kColumns + i) + load(goal.bias + kColumns + i));
            }
            if (goal.residual != nullptr) {
                x = x + load_some(goal.residual + r * goal.residual_stride + i, n - i, 0.0F);
            }
            store_some(goal.y + r * goal.y_stride + i, n - i, x);
        }
    }
}

// ---- products ----

// What a product multiplies: numbers, or pairs of bfloat16 in the 32 bits of one.
struct Numbers {
    static constexpr std::int64_t kEach = 1;
    static Floats multiply_add(Floats a, Floats b, Floats c) { return fma(a, b, c); }
};

#if defined(__AVX512BF16__)
struct Pairs {
    static constexpr std::int64_t kEach = 2;
    // Adds both products of each pair.
    static Floats multiply_add(Floats a, Floats b, Floats c) {
        return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
    // Rows of n numbers, rounded to the nearest, ties to even; a last one without a partner has 0.
    // Whole halves of registers are written.
    static void round(const float* x, std::int64_t rows, std::int64_t x_stride, std::int64_t n,
                      float* to, std::int64_t to_stride) {
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t i = 0; i < n; i += kWidth) {
                const auto pairs = _mm512_cvtneps_pbh(load_some(x + r * x_stride + i, n - i, 0.0F));
                std::memcpy(to + r * to_stride + i / 2, &pairs, sizeof pairs);
            }
        }
    }
};
#endif

// Part of a product: rows of x, and inputs of panels that lie panel_stride apart.
struct Part {
    const float* x;
    std::int64_t x_stride;
    const float* weights;
    std::int64_t panel_stride;
    std::int64_t inputs;
    float* sums;  // [panels][..][kPanel]
    std::int64_t sums_stride;
    bool first;        // sums start here
    const Goal* goal;  // where they end, if nothing but bias and residual is added to full panels
};

// Unrolled, so that sums never leave their registers.
template <int ROWS, int PANELS, class Each>
inline void each_sum(const Each& each) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
#pragma GCC unroll 4
            for (int i = 0; i < kVectors; ++i) each(r, p, i);
        }
    }
}

// Whatever the tile, a sum takes its inputs one after the other from 0: no row depends on others.
template <int ROWS, int PANELS, class FACTORS>
ATTENDRITE_APART void tile(const Part& part) {
    Floats sums[ROWS][PANELS][kVectors];
    each_sum<ROWS, PANELS>([&](int r, int p, int i) { sums[r][p][i] = all(0.0F); });
    const float* weights = part.weights;
    RowSet<ROWS> rows(part.x, part.x_stride);
    for (std::int64_t d = 0; d < part.inputs; ++d, weights += kPanel) {
        if constexpr (PANELS == 1) {  // registers keep the weights, or else the numbers of x
            Floats w[kVectors];
            for (int i = 0; i < kVectors; ++i) w[i] = load(weights + i * kWidth);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const Floats x = all(rows[r]);
                for (int i = 0; i < kVectors; ++i) {
                    sums[r][0][i] = FACTORS::multiply_add(x, w[i], sums[r][0][i]);
                }
            }
        } else {
            Floats x[ROWS];
            for (int r = 0; r < ROWS; ++r) x[r] = all(rows[r]);
#pragma GCC unroll 8
            for (int j = 0; j < PANELS * kVectors; ++j) {
                const int p = j / kVectors;
                const int i = j % kVectors;
                const Floats w = load(weights + p * part.panel_stride + i * kWidth);
                for (int r = 0; r < ROWS; ++r) {
                    sums[r][p][i] = FACTORS::multiply_add(x[r], w, sums[r][p][i]);
                }
            }
        }
        rows.next();
    }
    if (!part.first) {
        each_sum<ROWS, PANELS>([&](int r, int p, int i) {
            const float* const before = part.sums + p * part.sums_stride + r * kPanel + i * kWidth;
            sums[r][p][i] = load(before) + sums[r][p][i];
        });
    }
    if (part.goal == nullptr) {
        each_sum<ROWS, PANELS>([&](int r, int p, int i) {
            store(part.sums + p * part.sums_stride + r * kPanel + i * kWidth, sums[r][p][i]);
        });
        return;
    }
    const Goal& goal = *part.goal;  // as finish() does it
    each_sum<ROWS, PANELS>([&](int r, int p, int i) {
        const std::int64_t column = p * kPanel + i * kWidth;
        Floats x = sums[r][p][i] + load(goal.bias + column);
        if (goal.residual != nullptr) {
            x = x + load(goal.residual + r * goal.residual_stride + column);
        }
        store(goal.y + r * goal.y_stride + column, x);
    });
}

template <int ROWS, class FACTORS>
void tiles(const Part& part, std::int64_t rows, std::int64_t panels) {
    if (rows < ROWS) {
        if constexpr (ROWS > 1) tiles<ROWS - 1, FACTORS>(part, rows, panels);
    } else if (panels == 1) {
        tile<ROWS, 1, FACTORS>(part);
    } else if constexpr (kPanels<ROWS> > 1) {
        tile<ROWS, kPanels<ROWS>, FACTORS>(part);
    }
}

// Weights that are multiplied next, asked for little by little meanwhile: where they are first used
// a tile would wait for the outermost cache, line by line.
class Ahead {
  public:
    Ahead(const float* weights, std::int64_t n) : at_(weights), lines_((n + kLine - 1) / kLine) {}

    // The share that belongs to `done` rows of `all`.
    void ask(std::int64_t done, std::int64_t all) {
        for (const std::int64_t end = lines_ * done / all; asked_ < end; ++asked_) {
            __builtin_prefetch(at_ + asked_ * kLine, 0, 2);
        }
    }

  private:
    static constexpr std::int64_t kLine = 16;
    const float* at_;
    std::int64_t lines_;
    std::int64_t asked_ = 0;
};

// Rows of a product, and where they go.
struct Rows {
    const float* x;
    std::int64_t n, x_stride;
    const float* residual;
    std::int64_t residual_stride;
    float* y;
    std::int64_t y_stride;

    Rows from(std::int64_t r, std::int64_t some) const {
        return {x + r * x_stride, some,
                x_stride,         residual != nullptr ? residual + r * residual_stride : nullptr,
                residual_stride,  y + r * y_stride,
                y_stride};
    }
    Goal goal(const float* bias, std::int64_t column) const {
        return {bias, residual != nullptr ? residual + column : nullptr, residual_stride,
                y + column, y_stride};
    }
};

template <After AFTER, class FACTORS>
class Multiplication {
  public:
    explicit Multiplication(const Product& product)
        : product_(product),
          panels_((product.outputs + kColumns - 1) / kColumns),
          factors_((product.inputs + FACTORS::kEach - 1) / FACTORS::kEach) {}

    void run(const Rows& rows) {
        for (std::int64_t r = 0; r < rows.n;) {
            const Rows block = rows.from(r, part(rows.n - r, kMostRows));
            const std::int64_t most = block.n == 1 ? kPanels<1> : block.n <= 3 ? kPanels<3> : 1;
            for (std::int64_t panel = 0; panel < panels_;) {
                const std::int64_t some = panels_ - panel >= most ? most : 1;
                for (std::int64_t d = 0; d < factors_; d += kPanelDepth) {
                    multiply(block, panel, some, d);
                }
                panel += some;
            }
            r += block.n;
        }
    }

  private:
    static constexpr std::int64_t kColumns = AFTER == After::gated ? kPanel / 2 : kPanel;
    static constexpr bool kRounds = FACTORS::kEach > 1;
    // Rounded numbers have their place here, on the stack.
    static constexpr std::int64_t kMostRows = kRounds ? kBlockRows / 4 : kBlockRows;

    // Rows times the factors from d on of some panels, and what follows where these are the last.
    void multiply(const Rows& rows, std::int64_t panel, std::int64_t some, std::int64_t d) {
        const std::int64_t stride = factors_ * kPanel;  // of panels
        const std::int64_t depth = factors_ - d < kPanelDepth ? factors_ - d : kPanelDepth;
        const bool last = d + depth == factors_;
        const std::int64_t column = panel * kColumns;
        const std::int64_t columns = product_.outputs - column;
        const bool ends = last && AFTER == After::nothing && columns >= some * kColumns;
        const float* x = rows.x + d;
        std::int64_t x_stride = rows.x_stride;
        if constexpr (kRounds) {
            x = rounded_;
            x_stride = depth + kWidth;  // not a power of two: rows would share few lines
            if (panel == 0 || factors_ > kPanelDepth) round(rows, d, depth);  // else it is there
        }
        const float* const weights = product_.packed + panel * stride + d * kPanel;
        const bool more = panel + some < panels_;
        Ahead ahead(more ? weights + some * stride : nullptr, more ? depth * kPanel : 0);
        for (std::int64_t r = 0; r < rows.n;) {
            const std::int64_t n = part(rows.n - r, kTileRows);
            ahead.ask(r + n, rows.n);
            float* const sums = sums_ + (factors_ > kPanelDepth ? r * kPanel : 0);
            const std::int64_t sums_stride = rows.n * kPanel;
            const Rows now = rows.from(r, n);
            const Goal goal = now.goal(product_.bias + panel * kPanel, column);
            tiles<kTileRows, FACTORS>({x + r * x_stride, x_stride, weights, stride, depth, sums,
                                       sums_stride, d == 0, ends ? &goal : nullptr},
                                      n, some);
            for (std::int64_t p = 0; last && !ends && p < some; ++p) {
                finish<AFTER>(
                    sums + p * sums_stride, n, columns - p * kColumns,
                    now.goal(product_.bias + (panel + p) * kPanel, column + p * kColumns));
            }
            r += n;
        }
    }

    // Rows of x as the tiles take them.
    void round(const Rows& rows, std::int64_t d, std::int64_t depth) {
        const std::int64_t first = FACTORS::kEach * d;
        const std::int64_t past = first + FACTORS::kEach * depth;
        const std::int64_t end = product_.inputs < past ? product_.inputs : past;
        FACTORS::round(rows.x + first, rows.n, rows.x_stride, end - first, rounded_,
                       depth + kWidth);
    }

    const Product& product_;
    const std::int64_t panels_, factors_;
    alignas(64) float sums_[kMostRows * kPanel];
    alignas(64) float rounded_[kRounds ? kMostRows * (kPanelDepth + kWidth) : 1];
};

template <class FACTORS>
void multiply(const Product& product, const float* x, std::int64_t rows, std::int64_t x_stride,
              const float* residual, std::int64_t residual_stride, float* y,
              std::int64_t y_stride) {
    const Rows all{x, rows, x_stride, residual, residual_stride, y, y_stride};
    switch (product.after) {
        case After::nothing:
            return Multiplication<After::nothing, FACTORS>(product).run(all);
        case After::gelu:
            return Multiplication<After::gelu, FACTORS>(product).run(all);
        case After::gated:
            return Multiplication<After::gated, FACTORS>(product).run(all);
        case After::elu1:
            return Multiplication<After::elu1, FACTORS>(product).run(all);
    }
}

// Weights of n columns, [n][inputs], side by side in a panel.
template <class FACTORS>
void pack_columns(const float* weights, std::int64_t stride, std::int64_t n, std::int64_t inputs,
                  float* packed) {
    if constexpr (FACTORS::kEach == 1) {
        transpose(weights, stride, n, inputs, packed, kPanel);
    } else {
        constexpr std::int64_t kMost = FACTORS::kEach * kPanelDepth;
        alignas(64) float rounded[kPanel * kPanelDepth];
        for (std::int64_t d = 0; d < inputs; d += kMost, packed += kPanelDepth * kPanel) {
            const std::int64_t some = inputs - d < kMost ? inputs - d : kMost;
            FACTORS::round(weights + d, n, stride, some, rounded, kPanelDepth);
            transpose(rounded, kPanelDepth, n, (some + FACTORS::kEach - 1) / FACTORS::kEach, packed,
                      kPanel);
        }
    }
}

template <class FACTORS>
void pack(const float* weights, std::int64_t columns, std::int64_t inputs, std::int64_t stride,
          bool gated, float* packed) {
    const std::int64_t outputs = gated ? columns / 2 : columns;
    const std::int64_t group = gated ? kPanel / 2 : kPanel;
    const std::int64_t size = (inputs + FACTORS::kEach - 1) / FACTORS::kEach * kPanel;
    for (std::int64_t first = 0; first < outputs; first += group, packed += size) {
        const std::int64_t n = outputs - first < group ? outputs - first : group;
        std::memset(packed, 0, static_cast<std::size_t>(size) * sizeof(float));
        pack_columns<FACTORS>(weights + first * stride, stride, n, inputs, packed);
        if (!gated) continue;
        pack_columns<FACTORS>(weights + (outputs + first) * stride, stride, n, inputs,
                              packed + group);
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

#if defined(__AVX512BF16__)
const BlocksTable blocks_table = {kPanel,      pack<Numbers>,   multiply<Numbers>,
                                  pack<Pairs>, multiply<Pairs>, layer_norm};
#else
const BlocksTable blocks_table = {kPanel,  pack<Numbers>, multiply<Numbers>,
                                  nullptr, nullptr,       layer_norm};
#endif

}  // namespace attendrite::ATTENDRITE_LEVEL
