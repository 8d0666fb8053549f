// Stacked models and affine maps against plain loops in double, within the rounding of float32.
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "affine.hpp"
#include "check.hpp"
#include "stacked.hpp"

using namespace attendrite;

namespace {

using Numbers = std::vector<float>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Numbers random_numbers(std::int64_t n, unsigned seed, float size = 1.0F) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, size);
    Numbers out(at(n));
    for (float& x : out) x = normal(random);
    return out;
}

double elu(double x) { return x > 0 ? x : std::expm1(x); }

struct Sizes {
    std::int64_t channels, rows, columns, size, planes, depth, hidden_rows, hidden_columns, units;
    bool linear;
};

// The same weights for the model and for the loops.
struct Weights {
    explicit Weights(const Sizes& s)
        : first(random_numbers(s.depth * (s.channels * s.size * s.size + s.planes), 1, 0.3F)),
          in(random_numbers(s.depth * s.depth, 2, 0.3F)),
          kernel(random_numbers(s.hidden_rows * s.hidden_columns * s.depth, 3, 0.3F)),
          out(random_numbers(s.depth * s.depth, 4, 0.3F)),
          bias(random_numbers(4 * s.depth, 5)),
          features(random_numbers(s.units * s.depth, 6, 0.3F)),
          readout_bias(random_numbers(s.units, 7)),
          positions(random_numbers(2 * s.units, 8, 0.6F)) {
        positions[0] = positions[1] = 1.0F;  // a corner
    }
    Numbers first, in, kernel, out, bias, features, readout_bias, positions;
};

Stacked model_of(const Sizes& s, const Weights& w) {
    const After after = s.linear ? After::nothing : After::elu1;
    const std::int64_t inputs = s.channels * s.size * s.size + s.planes;
    const std::int64_t filled =
        (s.depth + kChannelsTogether - 1) / kChannelsTogether * kChannelsTogether;
    Numbers in_bias(w.bias.begin() + s.depth, w.bias.begin() + 2 * s.depth);
    for (std::int64_t i = 0; !s.linear && i < s.depth; ++i) {
        for (std::int64_t j = 0; j < s.depth; ++j) in_bias[at(i)] -= w.in[at(i * s.depth + j)];
    }
    StackedLayer layer;
    layer.in = Linear(w.in.data(), s.depth, s.depth, in_bias.data());
    layer.out = Linear(w.out.data(), s.depth, s.depth, w.bias.data() + 3 * s.depth, after);
    layer.rows = s.hidden_rows;
    layer.columns = s.hidden_columns;
    layer.weights.resize(at(s.hidden_rows * s.hidden_columns * filled));
    layer.bias.resize(at(filled));
    for (std::int64_t i = 0; i < s.hidden_rows * s.hidden_columns; ++i) {
        for (std::int64_t c = 0; c < s.depth; ++c) {
            layer.weights[at(i * filled + c)] = w.kernel[at(i * s.depth + c)];
        }
    }
    for (std::int64_t c = 0; c < s.depth; ++c) layer.bias[at(c)] = w.bias[at(2 * s.depth + c)];
    std::vector<StackedLayer> layers;
    layers.push_back(std::move(layer));
    return {s.channels,       s.rows,
            s.columns,        s.size,
            s.planes,         Linear(w.first.data(), s.depth, inputs, w.bias.data(), after),
            std::move(layers)};
}

// Loops of the definition: elu after each layer, nothing beyond the edges of a map.
std::vector<double> responses(const Sizes& s, const Weights& w, const float* image,
                              const float* planes, const float* shift, bool plain) {
    const std::int64_t high = s.rows - s.size + 1, wide = s.columns - s.size + 1, d = s.depth;
    const auto after = [&](double x) { return s.linear ? x : elu(x); };
    std::vector<double> map(at(high * wide * d)), next(map.size());
    const std::int64_t inputs = s.channels * s.size * s.size + s.planes;
    for (std::int64_t p = 0; p < high * wide; ++p) {
        for (std::int64_t o = 0; o < d; ++o) {
            const float* weight = w.first.data() + o * inputs;
            double sum = w.bias[at(o)];
            for (std::int64_t c = 0; c < s.channels; ++c) {
                for (std::int64_t i = 0; i < s.size * s.size; ++i) {
                    const std::int64_t y = p / wide + i / s.size, x = p % wide + i % s.size;
                    sum += double{*weight++} * image[(c * s.rows + y) * s.columns + x];
                }
            }
            for (std::int64_t i = 0; i < s.planes; ++i) sum += double{*weight++} * planes[i];
            map[at(p * d + o)] = after(sum);
        }
    }
    const auto product = [&](const Numbers& weights, std::int64_t bias) {
        for (std::int64_t p = 0; p < high * wide; ++p) {
            for (std::int64_t o = 0; o < d; ++o) {
                double sum = w.bias[at(bias * d + o)];
                for (std::int64_t i = 0; i < d; ++i) {
                    sum += double{weights[at(o * d + i)]} * map[at(p * d + i)];
                }
                next[at(p * d + o)] = sum;
            }
        }
        map = next;
    };
    product(w.in, 1);
    for (std::int64_t p = 0; p < high * wide; ++p) {
        for (std::int64_t c = 0; c < d; ++c) {
            double sum = w.bias[at(2 * d + c)];
            for (std::int64_t i = 0; i < s.hidden_rows * s.hidden_columns; ++i) {
                const std::int64_t y = p / wide + i / s.hidden_columns - s.hidden_rows / 2;
                const std::int64_t x = p % wide + i % s.hidden_columns - s.hidden_columns / 2;
                if (y < 0 || y >= high || x < 0 || x >= wide) continue;
                sum += double{w.kernel[at(i * d + c)]} * map[at((y * wide + x) * d + c)];
            }
            next[at(p * d + c)] = sum;
        }
    }
    map = next;
    product(w.out, 3);
    std::vector<double> out(at(s.units));
    for (std::int64_t u = 0; u < s.units; ++u) {
        const double x = (double{w.positions[at(2 * u)]} + shift[0] + 1) / 2 * double(wide - 1);
        const double y = (double{w.positions[at(2 * u + 1)]} + shift[1] + 1) / 2 * double(high - 1);
        double sum = w.readout_bias[at(u)];
        for (std::int64_t p = 0; p < high * wide; ++p) {
            const double part = std::max(0.0, 1 - std::abs(x - double(p % wide))) *
                                std::max(0.0, 1 - std::abs(y - double(p / wide)));
            for (std::int64_t c = 0; c < d && part > 0; ++c) {
                sum += part * w.features[at(u * d + c)] * after(map[at(p * d + c)]);
            }
        }
        out[at(u)] = plain ? sum : elu(sum) + 1;
    }
    return out;
}

void near(const Sizes& s, bool moved, bool plain, std::int64_t n, int threads) {
    const Weights w(s);
    const Stacked model = model_of(s, w);
    Numbers less(at(s.units));
    for (std::int64_t u = 0; !s.linear && u < s.units; ++u) {
        for (std::int64_t c = 0; c < s.depth; ++c) less[at(u)] += w.features[at(u * s.depth + c)];
    }
    const PointReadout readout(w.features.data(), less.data(), w.readout_bias.data(),
                               w.positions.data(), s.units, s.depth, plain);
    const std::int64_t pixels = s.channels * s.rows * s.columns;
    const Numbers images = random_numbers(n * pixels, 11);
    const Numbers planes = random_numbers(n * s.planes, 12),
                  shifts = random_numbers(2 * n, 13, 0.4F);
    Numbers found(at(n * s.units), NAN);
    model(images.data(), n, planes.data(), moved ? shifts.data() : nullptr, readout, found.data(),
          threads);
    const float still[] = {0.0F, 0.0F};
    for (std::int64_t b = 0; b < n; ++b) {
        const std::vector<double> exact =
            responses(s, w, images.data() + b * pixels, planes.data() + b * s.planes,
                      moved ? shifts.data() + 2 * b : &still[0], plain);
        for (std::int64_t u = 0; u < s.units; ++u) {
            const double scale = std::max(1.0, std::abs(exact[at(u)]));
            CHECK(std::abs(exact[at(u)] - found[at(b * s.units + u)]) < 2e-5 * scale);
        }
    }
}

void stacked_models() {
    for (const bool linear : {false, true}) {
        for (const bool moved : {false, true}) {
            near({1, 12, 16, 5, 0, 16, 3, 5, 9, linear}, moved, false, 3, 2);
            near({2, 9, 7, 3, 3, 20, 5, 3, 4, linear}, moved, true, 2, 1);
            near({1, 4, 35, 4, 1, 5, 1, 7, 2, linear}, moved, false, 1, 3);
        }
    }
    near({1, 8, 8, 3, 0, 8, 3, 3, 1, false}, false, false, 0, 1);
}

void layers_that_do_not_fit() {
    const Numbers zeros(1000);
    CHECK(contains(
        thrown_by([&] { Stacked(1, 4, 4, 5, 0, Linear(zeros.data(), 4, 25, nullptr), {}); }),
        "images must be as large as the first kernel"));
    CHECK(contains(
        thrown_by([&] { Stacked(1, 9, 9, 5, 0, Linear(zeros.data(), 4, 24, nullptr), {}); }),
        "inputs of the first product must be 25, got 24"));
}

double dot(const float* a, const float* b, std::int64_t n) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
    return sum;
}

void affine_is_near(const Numbers& weights, std::int64_t units, std::int64_t channels,
                    std::int64_t rows, std::int64_t columns) {
    const std::int64_t pixels = channels * rows * columns;
    const Numbers bias = random_numbers(units, 22);
    const Affine map(weights.data(), bias.data(), units, channels, rows, columns);
    CHECK(map.units() == units && map.operations() > 0);
    for (const std::int64_t n : {0, 1, 5, 66, 67, 140}) {
        const Numbers images = random_numbers(n * pixels, 23);
        Numbers found(at(n * units), NAN), again(at(n * units), NAN);
        map(images.data(), n, found.data(), 1);
        map(images.data(), n, again.data(), 3);
        CHECK(n == 0 || std::memcmp(found.data(), again.data(), found.size() * sizeof(float)) == 0);
        for (std::int64_t i = 0; i < n * units; ++i) {
            const double sum =
                bias[at(i % units)] + dot(weights.data() + i % units * pixels,
                                          images.data() + i / units * pixels, pixels);
            CHECK(std::abs(elu(sum) + 1 - found[at(i)]) < 1e-5 * std::max(1.0, std::abs(sum)));
        }
    }
}

// Units look at windows of their own, some at nothing, some at the whole image or at one pixel.
void affine_maps() {
    constexpr std::int64_t kChannels = 2, kRows = 9, kColumns = 11;
    constexpr std::int64_t kPixels = kChannels * kRows * kColumns;
    for (const std::int64_t units : {1, 15, 16, 17, 70, 200}) {
        Numbers weights = random_numbers(units * kPixels, 21);
        for (std::int64_t u = 0; u < units; ++u) {
            for (std::int64_t p = 0; p < kPixels; ++p) {
                const std::int64_t y = p / kColumns % kRows, x = p % kColumns;
                const bool seen = std::abs(y - u % kRows) < 3 && std::abs(x - u * 7 % kColumns) < 4;
                if (!seen || u % 13 == 12) weights[at(u * kPixels + p)] = 0.0F;
            }
        }
        affine_is_near(weights, units, kChannels, kRows, kColumns);
    }
    Numbers large = random_numbers(20 * 2 * 23 * 31, 24, 0.05F);
    for (std::size_t i = 0; i < large.size(); i += 31) large[i] = 0.0F;  // all but one column
    affine_is_near(large, 20, 2, 23, 31);
    Numbers one(at(kPixels));
    one[at(kPixels - 5)] = -1.5F;
    affine_is_near(one, 1, kChannels, kRows, kColumns);
    CHECK(contains(thrown_by([] { Affine(nullptr, nullptr, 0, 1, 1, 1); }), "must be 1 or more"));
}

}  // namespace

int main() {
    on_every_level([] {
        stacked_models();
        layers_that_do_not_fit();
        affine_maps();
    });
    return failures() == 0 ? 0 : 1;
}
