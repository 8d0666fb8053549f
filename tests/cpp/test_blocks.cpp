// Blocks against plain loops in double, within the rounding of float32, in memory of exactly the
// size that was asked for: the sanitizers see what is read or written beyond it.
#include <cmath>
#include <cstring>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "blocks.hpp"
#include "check.hpp"

using namespace attendrite;

namespace {

using Numbers = std::vector<float>;

constexpr double kUnit = 0x1p-24;      // rounding of float32
constexpr double kGeluError = 2e-7;    // of max(1, |x|)
constexpr double kElu1Error = 1.5e-7;  // of max(1, x)
constexpr After kAfters[] = {After::nothing, After::gelu, After::gated, After::elu1};

// What products can be made in at the level in use.
std::vector<Precision> precisions() {
    if (cpu_level() == Level::v4_bf16) return {Precision::float32, Precision::bfloat16};
    return {Precision::float32};
}

// To the nearest number of 8 significant bits, ties to even.
double to_bfloat16(double x) {
    int exponent = 0;
    const double fraction = std::frexp(x, &exponent);
    return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Rounding of a sum of n products, of the sum of their magnitudes.
double rounding(double n) { return n * kUnit / (1 - n * kUnit); }

bool same(const Numbers& a, const Numbers& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Rows with gaps that nobody may read or write; the last row ends where the memory does.
struct Rows {
    Rows(std::int64_t rows, std::int64_t width, std::int64_t stride, std::mt19937& random)
        : n(rows), width(width), stride(stride) {
        std::normal_distribution<float> normal;
        memory.assign(rows > 0 ? at((rows - 1) * stride + width) : 0, NAN);
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t i = 0; i < width; ++i) memory[at(r * stride + i)] = normal(random);
        }
    }

    const float* data() const { return memory.data(); }
    float* data() { return memory.data(); }
    double operator()(std::int64_t r, std::int64_t i) const {
        return static_cast<double>(memory[at(r * stride + i)]);
    }
    bool gaps_are_whole() const {
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(memory.size()); ++i) {
            if (i % stride >= width && !std::isnan(memory[at(i)])) return false;
        }
        return true;
    }

    std::int64_t n, width, stride;
    Numbers memory;
};

double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double gelu(double x) { return x * phi(x); }
double elu1(double x) { return x > 0 ? x + 1 : std::exp(x); }

struct Exact {
    double value, error;  // at most
};

// What follows a product of this value, known within this error. gelu has slopes up to 1.13.
Exact after(After what, Exact x, Exact gate) {
    const Exact g{gelu(gate.value),
                  1.13 * gate.error + kGeluError * std::max(1.0, std::abs(gate.value))};
    switch (what) {
        case After::gelu:
            return g;
        case After::gated:
            return {x.value * g.value, std::abs(x.value) * g.error + std::abs(g.value) * x.error +
                                           x.error * g.error + kUnit * std::abs(x.value * g.value)};
        case After::elu1:
            return {elu1(x.value), x.error + kElu1Error * std::max(1.0, x.value)};
        default:
            return x;
    }
}

struct Sizes {
    std::int64_t inputs, columns, rows;
    After after;
    bool bias, residual;
    std::int64_t gap;  // of every row
    Precision precision = Precision::float32;
};

struct Product {
    Product(const Sizes& s, unsigned seed)
        : sizes(s),
          random(seed),
          outputs(s.after == After::gated ? s.columns / 2 : s.columns),
          weights(s.columns, s.inputs, s.inputs + s.gap, random),
          bias(1, s.columns, s.columns, random),
          x(s.rows, s.inputs, s.inputs + s.gap, random),
          residual(s.rows, outputs, outputs + 2 * s.gap, random),
          y(s.rows, outputs, outputs + 3 * s.gap, random) {}

    Linear linear() const {
        return Linear(weights.data(), sizes.columns, sizes.inputs,
                      sizes.bias ? bias.data() : nullptr, sizes.after, weights.stride,
                      sizes.precision);
    }

    void run(const Linear& linear, Rows& out, std::int64_t first, std::int64_t n) const {
        linear(x.data() + first * x.stride, n, x.stride,
               sizes.residual ? residual.data() + first * residual.stride : nullptr,
               residual.stride, out.data() + first * out.stride, out.stride);
    }

    Exact column(std::int64_t r, std::int64_t c) const {
        const bool rounds = sizes.precision == Precision::bfloat16;
        double sum = sizes.bias ? bias(0, c) : 0;
        double magnitudes = std::abs(sum);
        for (std::int64_t i = 0; i < sizes.inputs; ++i) {
            const double term = rounds ? to_bfloat16(weights(c, i)) * to_bfloat16(x(r, i))
                                       : weights(c, i) * x(r, i);
            sum += term;
            magnitudes += std::abs(term);
        }
        const std::int64_t depth = rounds ? 2 * kPanelDepth : kPanelDepth;
        const std::int64_t blocks = (sizes.inputs + depth - 1) / depth;
        const std::int64_t terms = std::min(sizes.inputs, depth) + blocks + 1;
        return {sum, rounding(static_cast<double>(terms)) * magnitudes};
    }

    Exact exact(std::int64_t r, std::int64_t c) const {
        Exact z = column(r, c);
        z = after(sizes.after, z, sizes.after == After::gated ? column(r, outputs + c) : z);
        if (sizes.residual) {
            z.value += residual(r, c);
            z.error += kUnit * (std::abs(z.value) + z.error);
        }
        return z;
    }

    Sizes sizes;
    std::mt19937 random;
    std::int64_t outputs;
    Rows weights, bias, x, residual, y;
};

void product_is_near(const Sizes& s, unsigned seed) {
    Product product(s, seed);
    const Linear linear = product.linear();
    CHECK(linear.inputs() == s.inputs);
    CHECK(linear.outputs() == product.outputs);
    product.run(linear, product.y, 0, s.rows);
    for (std::int64_t r = 0; r < s.rows; ++r) {
        for (std::int64_t c = 0; c < product.outputs; ++c) {
            const Exact z = product.exact(r, c);
            CHECK(std::abs(product.y(r, c) - z.value) <= z.error);
        }
    }
    CHECK(product.y.gaps_are_whole());

    // Rows in other company.
    Rows cut(s.rows, product.outputs, product.y.stride, product.random);
    for (std::int64_t first = 0; first < s.rows;) {
        const std::int64_t n =
            1 + static_cast<std::int64_t>(product.random() %
                                          at(std::min<std::int64_t>(s.rows - first, 11)));
        product.run(linear, cut, first, n);
        first += n;
    }
    CHECK(same(cut.memory, product.y.memory));

    // Where y is the residual.
    if (!s.residual) return;
    Rows place = product.residual;
    linear(product.x.data(), s.rows, product.x.stride, place.data(), place.stride, place.data(),
           place.stride);
    for (std::int64_t r = 0; r < s.rows; ++r) {
        for (std::int64_t c = 0; c < product.outputs; ++c) CHECK(place(r, c) == product.y(r, c));
    }
    CHECK(place.gaps_are_whole());
}

void products(Precision precision) {
    std::mt19937 random(1);
    const auto below = [&](std::int64_t n) {
        return 1 + static_cast<std::int64_t>(random() % at(n));
    };
    unsigned seed = 0;
    for (int i = 0; i < 25; ++i) {
        for (const After after : kAfters) {
            for (const bool residual : {false, true}) {
                Sizes s{below(300), below(200), below(70), after,
                        i % 2 == 0, residual,   i % 3,     precision};
                if (after == After::gated) s.columns += s.columns % 2;
                product_is_near(s, ++seed);
            }
        }
    }
    for (std::int64_t rows = 1; rows < 20; ++rows) {  // every tile
        for (const std::int64_t columns : {8, 16, 32, 64, 128, 136, 200}) {
            product_is_near({3, columns, rows, After::nothing, true, false, 0, precision}, ++seed);
        }
    }
    // Several blocks of inputs, and of rows.
    const std::int64_t depth = kPanelDepth * (precision == Precision::bfloat16 ? 2 : 1);
    product_is_near({2 * depth, 64, 64, After::nothing, true, true, 0, precision}, ++seed);
    product_is_near({2 * depth + 1, 34, 101, After::gated, true, true, 1, precision}, ++seed);
    product_is_near({depth + 3, 70, 300, After::nothing, true, true, 1, precision}, ++seed);
    product_is_near({depth + 2, 38, 270, After::gated, true, false, 0, precision}, ++seed);
    product_is_near({3 * depth - 1, 133, 3, After::gelu, true, true, 0, precision}, ++seed);
}

// A product with a weight of 1 shows what its input is rounded to: here numbers half way between
// two and those beside them, the largest ones and infinity.
void inputs_are_rounded_to_the_nearest() {
    Numbers x = {0.0F, -0.0F, 3.38e38F, 3.4e38F, -3.4e38F, INFINITY};
    Numbers expected = {0.0F,     -0.0F,     static_cast<float>(to_bfloat16(3.38e38)),
                        INFINITY, -INFINITY, INFINITY};
    for (double one = 1; one < 2; one += 0x1p-8) {
        for (const double by : {-0x1p-20, 0.0, 0x1p-20}) {
            x.push_back(static_cast<float>(-(one + by) * 0x1p-40));
            expected.push_back(static_cast<float>(to_bfloat16(-(one + by) * 0x1p-40)));
        }
    }
    const float one = 1.0F;
    Numbers y(x.size(), NAN);
    Linear(&one, 1, 1, nullptr, After::nothing, 0, Precision::bfloat16)(
        x.data(), static_cast<std::int64_t>(x.size()), 1, nullptr, 0, y.data(), 1);
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == expected[i]);
}

void bfloat16_where_there_is_none() {
    const float one = 1.0F;
    const std::string said =
        thrown_by([&] { Linear(&one, 1, 1, nullptr, After::nothing, 0, Precision::bfloat16); });
    CHECK(
        contains(said, std::string("bfloat16 must run where the CPU has AVX512_BF16, got level ") +
                           level_name(cpu_level()) + "; use float32"));
}

// Equal terms round the same way again and again: blocks keep that short.
void long_sums_stay_exact() {
    constexpr std::int64_t kInputs = 256 * kPanelDepth;
    const Numbers weights(at(kInputs), 1.0F), x(at(kInputs), 0.1F);
    float y = NAN;
    Linear(weights.data(), 1, kInputs, nullptr)(x.data(), 1, kInputs, nullptr, 0, &y, 1);
    const double exact = static_cast<double>(0.1F) * kInputs;
    CHECK(std::abs(static_cast<double>(y) - exact) <= rounding(2 * 256) * exact);
}

// A product with one weight of 1 shows what follows it alone.
Numbers follow(After what, const Numbers& x) {
    Numbers y(x.size(), NAN);
    const float one = 1.0F;
    const auto rows = static_cast<std::int64_t>(x.size());
    Linear(&one, 1, 1, nullptr, what)(x.data(), rows, 1, nullptr, 0, y.data(), 1);
    return y;
}

void functions_are_near() {
    Numbers x;
    for (double one = -20; one < 20; one += 1e-4) x.push_back(static_cast<float>(one));
    for (double one = 1e-30; one < 1e30; one *= 1.1) {
        x.push_back(static_cast<float>(one));
        x.push_back(static_cast<float>(-one));
    }
    const Numbers gelus = follow(After::gelu, x);
    const Numbers elus = follow(After::elu1, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const auto exact = static_cast<double>(x[i]);
        CHECK(std::abs(static_cast<double>(gelus[i]) - gelu(exact)) <=
              kGeluError * std::max(1.0, std::abs(exact)));
        CHECK(std::abs(static_cast<double>(elus[i]) - elu1(exact)) <=
              kElu1Error * std::max(1.0, exact));
        if (exact < -6) CHECK(std::abs(gelus[i]) < 1e-20F);  // beyond the polynomial
        if (exact > 6) CHECK(gelus[i] == x[i]);
    }
    CHECK(follow(After::gelu, {0.0F})[0] == 0.0F);
    CHECK(follow(After::elu1, {0.0F})[0] == 1.0F);
}

void nan_stays_in_its_row(Precision precision) {
    for (const After what : kAfters) {
        Product product({70, 40, 9, what, true, true, 1, precision}, 3);
        product.x.memory[at(4 * product.x.stride + 69)] = NAN;
        product.run(product.linear(), product.y, 0, 9);
        for (std::int64_t r = 0; r < 9; ++r) {
            for (std::int64_t c = 0; c < product.outputs; ++c) {
                CHECK(std::isnan(product.y(r, c)) == (r == 4));
            }
        }
    }
}

// Memory that begins in the middle of a register gives the same bits.
void any_alignment_will_do(Precision precision) {
    const Product product({45, 50, 23, After::gelu, true, true, 0, precision}, 4);
    const Linear linear = product.linear();
    Rows expected = product.y;
    product.run(linear, expected, 0, 23);
    for (const std::size_t shift : {1U, 3U, 7U, 15U}) {
        Numbers x(shift), y(shift + product.y.memory.size()), residual(shift);
        x.insert(x.end(), product.x.memory.begin(), product.x.memory.end());
        residual.insert(residual.end(), product.residual.memory.begin(),
                        product.residual.memory.end());
        linear(x.data() + shift, 23, 45, residual.data() + shift, 50, y.data() + shift, 50);
        CHECK(same(Numbers(y.begin() + static_cast<std::ptrdiff_t>(shift), y.end()),
                   expected.memory));
    }
}

void no_rows_no_reads() {
    const Product product({20, 30, 1, After::nothing, true, false, 0}, 5);
    product.linear()(nullptr, 0, 20, nullptr, 0, nullptr, 30);
    layer_norm(nullptr, 0, 20, 20, nullptr, nullptr, 1e-5F, nullptr, 20);
}

void linear_moves() {
    static_assert(!std::is_copy_constructible_v<Linear> && !std::is_copy_assignable_v<Linear>);
    CHECK(Linear().inputs() == 0 && Linear().outputs() == 0);
    Product product({33, 44, 10, After::gated, true, false, 0}, 6);
    product.run(product.linear(), product.y, 0, 10);
    Linear first = product.linear();
    const Linear second = std::move(first);
    first = product.linear();
    std::vector<Linear> layers;
    for (int i = 0; i < 5; ++i) layers.push_back(product.linear());
    layers.erase(layers.begin());
    for (const Linear* const linear : std::vector<const Linear*>{&first, &second, &layers.back()}) {
        Rows again(10, 22, 22, product.random);
        product.run(*linear, again, 0, 10);
        CHECK(same(again.memory, product.y.memory));
    }
}

void impossible_sizes() {
    const Numbers weights(9, 1.0F);
    const auto made = [&](std::int64_t outputs, std::int64_t inputs, After after,
                          std::int64_t stride) {
        return thrown_by([&] { Linear(weights.data(), outputs, inputs, nullptr, after, stride); });
    };
    CHECK(made(3, 3, After::nothing, 0).empty());
    CHECK(contains(made(3, 3, After::gated, 0), "must be even, got 3"));
    CHECK(contains(made(0, 3, After::nothing, 0), "outputs of a product must be 1 or more, got 0"));
    CHECK(contains(made(3, 0, After::nothing, 0), "inputs of a product must be 1 or more, got 0"));
    CHECK(contains(made(2, 3, After::nothing, 2), "must be 3 or more, got 2"));
}

// Weights keep the level that they were packed for.
void packed_weights_keep_their_level(Precision precision) {
    const char* const now = level_name(cpu_level());
    Product product({40, 100, 9, After::gelu, true, false, 0, precision}, 7);
    const Linear linear = product.linear();
    product.run(linear, product.y, 0, 9);
    for (const Level level : kLevels) {
        if (!level_usable(level)) continue;
        force_level(level_name(level));
        Rows again(9, 100, 100, product.random);
        product.run(linear, again, 0, 9);
        CHECK(same(again.memory, product.y.memory));
    }
    force_level(now);
}

void layer_norm_is_near(std::int64_t rows, std::int64_t width, std::int64_t gap, double far,
                        bool gain, bool offset) {
    constexpr float kEps = 1e-5F;
    std::mt19937 random(static_cast<unsigned>(rows * 1000 + width));
    Rows x(rows, width, width + gap, random), y(rows, width, width + 2 * gap, random);
    const Rows factor(1, width, width, random), term(1, width, width, random);
    for (float& one : x.memory) one += static_cast<float>(far);
    const float* const gains = gain ? factor.data() : nullptr;
    const float* const offsets = offset ? term.data() : nullptr;
    layer_norm(x.data(), rows, width, x.stride, gains, offsets, kEps, y.data(), y.stride);
    const auto n = static_cast<double>(width);
    for (std::int64_t r = 0; r < rows; ++r) {
        double mean = 0;
        double magnitude = 0;
        for (std::int64_t i = 0; i < width; ++i) {
            mean += x(r, i) / n;
            magnitude += std::abs(x(r, i)) / n;
        }
        double variance = static_cast<double>(kEps);
        for (std::int64_t i = 0; i < width; ++i) variance += std::pow(x(r, i) - mean, 2) / n;
        const double mean_error = rounding(n + 1) * magnitude;
        // An error of the mean enters the variance by its square; roots halve relative errors.
        const double relative = 0.5 * (rounding(n + 5) + mean_error * mean_error / variance);
        for (std::int64_t i = 0; i < width; ++i) {
            const double scale = (gain ? factor(0, i) : 1) / std::sqrt(variance);
            const double z = (x(r, i) - mean) * scale;
            const double shifted = z + (offset ? term(0, i) : 0);
            const double error =
                mean_error * std::abs(scale) +
                (std::abs(z) + mean_error * std::abs(scale)) * (relative + rounding(6)) +
                kUnit * std::abs(shifted);
            CHECK(std::abs(y(r, i) - shifted) <= error);
        }
    }
    CHECK(y.gaps_are_whole());

    Rows place = x;
    for (std::int64_t r = 0; r < rows; ++r) {  // in place, and in no company
        float* const row = place.data() + r * place.stride;
        layer_norm(row, 1, width, place.stride, gains, offsets, kEps, row, place.stride);
        for (std::int64_t i = 0; i < width; ++i) CHECK(place(r, i) == y(r, i));
    }
    CHECK(place.gaps_are_whole());
}

void layer_norms() {
    for (const std::int64_t width : {1, 2, 3, 7, 8, 15, 16, 17, 48, 50, 64, 128, 155}) {
        for (const std::int64_t rows : {1, 2, 3, 4, 5, 9, 70}) {
            layer_norm_is_near(rows, width, rows % 3, 0, rows % 2 == 0, width % 2 == 0);
            layer_norm_is_near(rows, width, rows % 2, 1e4, true, true);
        }
    }
}

}  // namespace

int main() {
    on_every_level([] {
        for (const Precision precision : precisions()) {
            products(precision);
            nan_stays_in_its_row(precision);
            any_alignment_will_do(precision);
            packed_weights_keep_their_level(precision);
        }
        if (precisions().size() > 1) {
            inputs_are_rounded_to_the_nearest();
        } else {
            bfloat16_where_there_is_none();
        }
        long_sums_stay_exact();
        functions_are_near();
        no_rows_no_reads();
        linear_moves();
        impossible_sizes();
        layer_norms();
    });
    return failures() == 0 ? 0 : 1;
}
