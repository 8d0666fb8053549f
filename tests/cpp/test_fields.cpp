// Sums of responses times images against plain loops in double, in memory of exactly the size that
// was asked for: the sanitizers see what is read or written beyond it.
#include <cmath>
#include <random>
#include <vector>

#include "check.hpp"
#include "fields.hpp"

using namespace attendrite;

namespace {

constexpr double kUnit = 0x1p-24;  // rounding of float32

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Totals {
    explicit Totals(std::int64_t units, std::int64_t pixels)
        : products(at(units * pixels), 0.5), r(at(units), 1), r2(r), x(at(pixels), 2), x2(x) {}

    FieldSums sums() { return {products.data(), r.data(), r2.data(), x.data(), x2.data()}; }
    bool operator==(const Totals& other) const {
        return products == other.products && r == other.r && r2 == other.r2 && x == other.x &&
               x2 == other.x2;
    }

    std::vector<double> products, r, r2, x, x2;
};

void check(std::int64_t images, std::int64_t units, std::int64_t pixels) {
    std::mt19937 random(static_cast<unsigned>(images + 31 * units + 7 * pixels));
    std::normal_distribution<float> normal;
    std::vector<float> r(at(images * units)), x(at(images * pixels));
    for (float& value : r) value = normal(random);
    for (float& value : x) value = normal(random);
    Totals found(units, pixels), again(units, pixels), truth(units, pixels);
    add_to_fields(r.data(), units, x.data(), pixels, images, found.sums(), 1);
    add_to_fields(r.data(), units, x.data(), pixels, images, again.sums(), 3);
    CHECK(found == again);

    std::vector<double> sizes(truth.products.size(), 0.0);
    for (std::int64_t i = 0; i < images; ++i) {
        for (std::int64_t u = 0; u < units; ++u) {
            const double a = static_cast<double>(r[at(i * units + u)]);
            truth.r[at(u)] += a;
            truth.r2[at(u)] += a * a;
            for (std::int64_t p = 0; p < pixels; ++p) {
                const double b = static_cast<double>(x[at(i * pixels + p)]);
                truth.products[at(u * pixels + p)] += a * b;
                sizes[at(u * pixels + p)] += std::abs(a * b);
            }
        }
        for (std::int64_t p = 0; p < pixels; ++p) {
            const double b = static_cast<double>(x[at(i * pixels + p)]);
            truth.x[at(p)] += b;
            truth.x2[at(p)] += b * b;
        }
    }
    const double longest = static_cast<double>(images < 256 ? images : 256 + images / 256);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        const double error = std::abs(found.products[i] - truth.products[i]);
        CHECK(error <= longest * kUnit * sizes[i] + 1e-14);
    }
    CHECK(found.r == truth.r);
    CHECK(found.x == truth.x);
    for (std::size_t u = 0; u < found.r2.size(); ++u) {
        CHECK(std::abs(found.r2[u] - truth.r2[u]) <= 1e-12 * truth.r2[u]);
    }
    for (std::size_t p = 0; p < found.x2.size(); ++p) {
        CHECK(std::abs(found.x2[p] - truth.x2[p]) <= 1e-12 * truth.x2[p]);
    }
}

void test() {
    for (const std::int64_t images : {1, 2, 255, 256, 257, 600}) {
        for (const std::int64_t units : {1, 6, 191, 192, 193}) {
            for (const std::int64_t pixels : {1, 16, 63, 64, 65, 129}) {
                check(images, units, pixels);
            }
        }
    }
}

}  // namespace

int main() {
    on_every_level(test);
    return failures() > 0 ? 1 : 0;
}
