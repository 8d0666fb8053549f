// Layers of rows against the blocks that they are made of, on any number of threads.
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"
#include "rows.hpp"

using namespace attendrite;

namespace {

using Numbers = std::vector<float>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Numbers random_numbers(std::int64_t n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Numbers out(at(n));
    for (float& x : out) x = normal(random);
    return out;
}

Linear linear(std::int64_t outputs, std::int64_t inputs, After after, unsigned seed) {
    const Numbers weights = random_numbers(outputs * inputs, seed);
    const Numbers bias = random_numbers(outputs, seed + 1);
    return {weights.data(), outputs, inputs, bias.data(), after};
}

// Rows lie with a gap; the result is written over the residual, and over x where that is allowed.
void they_are_their_blocks(std::int64_t n, bool normed, bool twice, bool added, int threads) {
    constexpr std::int64_t kInputs = 19, kHidden = 37, kStride = 23;
    const std::int64_t outputs = added ? kInputs : 11;
    const Numbers x = random_numbers(n * kStride, 1);
    const After after = twice ? After::gelu : After::nothing;
    const std::int64_t first = twice ? kHidden : outputs;
    std::optional<Linear> second;
    if (twice) second.emplace(linear(outputs, kHidden, After::nothing, 9));
    const Rows rows(normed, linear(first, kInputs, after, 5), std::move(second));
    CHECK(rows.inputs() == kInputs && rows.outputs() == outputs);

    Numbers y = added ? x : Numbers(at(n * kStride), NAN);
    const float* const residual = added ? y.data() : nullptr;
    const float* const from = added && normed ? y.data() : x.data();
    rows(from, n, kStride, residual, kStride, y.data(), kStride, threads);

    for (std::int64_t r = 0; r < n; ++r) {
        Numbers now(x.begin() + r * kStride, x.begin() + r * kStride + kInputs);
        if (normed) {
            layer_norm(now.data(), 1, kInputs, kInputs, nullptr, nullptr, 1e-5F, now.data(),
                       kInputs);
        }
        Numbers next(at(first));
        linear(first, kInputs, after, 5)(now.data(), 1, kInputs, nullptr, 0, next.data(), first);
        if (twice) {
            Numbers last(at(outputs));
            linear(outputs, kHidden, After::nothing, 9)(next.data(), 1, kHidden, nullptr, 0,
                                                        last.data(), outputs);
            next = last;
        }
        for (std::int64_t i = 0; i < outputs; ++i) {
            const float expected = next[at(i)] + (added ? x[at(r * kStride + i)] : 0.0F);
            CHECK(y[at(r * kStride + i)] == expected);
        }
        for (std::int64_t i = outputs; i < kStride; ++i) {
            CHECK(added ? y[at(r * kStride + i)] == x[at(r * kStride + i)]
                        : std::isnan(y[at(r * kStride + i)]));
        }
    }
}

void products_that_do_not_fit() {
    const std::string said = thrown_by([] {
        std::optional<Linear> second;
        second.emplace(linear(3, 5, After::nothing, 1));
        const Rows rows(false, linear(4, 2, After::gelu, 2), std::move(second));
    });
    CHECK(contains(said, "the second product must take 4 numbers, got one of 5"));
}

}  // namespace

int main() {
    on_every_level([] {
        for (const std::int64_t n : {0, 1, 65, 66, 67, 200}) {
            for (const bool normed : {false, true}) {
                for (const bool twice : {false, true}) {
                    they_are_their_blocks(n, normed, twice, false, 1);
                    they_are_their_blocks(n, normed, twice, true, 3);
                }
            }
        }
        products_that_do_not_fit();
    });
    return failures() == 0 ? 0 : 1;
}
