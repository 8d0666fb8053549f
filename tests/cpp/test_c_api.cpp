// attendrite.h as a C++ program uses it, on a bundle named on the command line.
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "attendrite.h"
#include "check.hpp"

namespace {

std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Two windows of unequal length, and everything that is asked of them.
struct Windows {
    std::vector<std::int64_t> rows, first, count, units, types, sessions;
    std::vector<double> times, query_times;
    std::int64_t heads, head_width, latents, width;

    explicit Windows(const attendrite_engine* engine) {
        attendrite_model_info model;
        attendrite_site_info encoder;
        attendrite_model_of(engine, &model);
        CHECK(attendrite_site(engine, 0, &encoder) == ATTENDRITE_OK);
        heads = encoder.heads;
        head_width = encoder.width;
        latents = model.latents;
        width = model.width;
        rows = {3, 1, 2};
        std::mt19937_64 chance(1);
        for (const std::int64_t n : {40, 7}) {
            first.push_back(static_cast<std::int64_t>(times.size()));
            for (std::int64_t u = 0; u < 3; ++u) {
                add(0, u, ATTENDRITE_START);
                add(model.sequence_length, u, ATTENDRITE_END);
            }
            for (std::int64_t i = 0; i < n; ++i) {
                add(std::ldexp(static_cast<double>(chance() >> 12), -52) * model.sequence_length,
                    static_cast<std::int64_t>(chance() % 3), ATTENDRITE_SPIKE);
            }
            count.push_back(n + 6);
        }
        query_times = {0.1, model.sequence_length, 0.2, 0.3};
        sessions.assign(4, 1);
    }

    void add(double time, std::int64_t unit, std::int64_t type) {
        times.push_back(time);
        units.push_back(unit);
        types.push_back(type);
    }

    attendrite_batch batch() const {
        attendrite_batch b{};
        b.windows = 2;
        b.queries = 2;
        b.first = first.data();
        b.count = count.data();
        b.times = times.data();
        b.units = units.data();
        b.types = types.data();
        b.query_times = query_times.data();
        b.session_rows = sessions.data();
        return b;
    }

    // Predictions, then sums per unit of the encoder.
    std::vector<float> run(attendrite_engine* engine) const {
        char message[256] = "";
        const auto predicted = static_cast<std::size_t>(4 * width);
        const auto summed = static_cast<std::size_t>(2 * heads * 3);
        std::vector<float> out(predicted + summed, NAN);
        CHECK(attendrite_bind_units(engine, rows.data(), 3, message, sizeof message) == 0);
        const attendrite_batch b = batch();
        float* const predictions[] = {out.data()};
        attendrite_request request{};
        request.statistic = ATTENDRITE_PER_UNIT;
        request.result = out.data() + predicted;
        CHECK(attendrite_run(engine, &b, &request, 1, predictions, message, sizeof message) == 0);
        CHECK(std::strlen(message) == 0);
        return out;
    }

    // The predictions again, from what the encoder's attention gives, by an engine without units.
    void run_encoded(const attendrite_engine* engine, const std::string& folder) const {
        char message[256] = "";
        const auto predicted = static_cast<std::size_t>(4 * width);
        std::vector<float> expected(predicted, NAN), found(predicted, NAN);
        std::vector<float> encoded(static_cast<std::size_t>(2 * heads * latents * head_width), NAN);
        attendrite_engine* other = nullptr;
        CHECK(attendrite_share(engine, &other, message, sizeof message) == ATTENDRITE_OK);
        attendrite_batch b = batch();
        float* const from_tokens[] = {expected.data()};
        attendrite_request request{};
        request.statistic = ATTENDRITE_OUTPUT;
        request.result = encoded.data();
        CHECK(attendrite_run(other, &b, &request, 1, from_tokens, message, sizeof message) == 0);
        attendrite_close(other);

        CHECK(attendrite_open(folder.c_str(), 1, &other, message, sizeof message) == 0);
        b.first = b.count = nullptr;
        b.times = nullptr;
        b.units = b.types = nullptr;
        float* const from_encoded[] = {found.data()};
        const auto run = [&](const float* given, std::int64_t n) {
            return attendrite_run_encoded(other, &b, given, &request, n, from_encoded, message,
                                          sizeof message);
        };
        CHECK(run(nullptr, 0) == ATTENDRITE_BAD_INPUT);
        CHECK(contains(message, "encoded must not be null, got null"));
        CHECK(run(encoded.data(), 1) == ATTENDRITE_BAD_INPUT);
        CHECK(contains(message, "site of a request must be after the encoder"));
        CHECK(run(encoded.data(), -1) == ATTENDRITE_BAD_INPUT);
        CHECK(std::isnan(found[0]));
        CHECK(run(encoded.data(), 0) == ATTENDRITE_OK);
        CHECK(found == expected);
        b.windows = 0;
        CHECK(run(nullptr, 0) == ATTENDRITE_OK);
        attendrite_close(other);
    }

    // Rows of weights sum to one, so that the units' sums are the queries, here the latents.
    void check(const std::vector<float>& out) const {
        for (const float x : out) CHECK(std::isfinite(x));
        const auto each = static_cast<std::size_t>(heads * 3);
        for (std::size_t w = 0; w < 2; ++w) {
            const auto begin = out.end() - static_cast<std::ptrdiff_t>((2 - w) * each);
            const double sum =
                std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(each), 0.0);
            CHECK(std::abs(sum / static_cast<double>(heads * latents) - 1) < 1e-5);
        }
    }
};

void test_threads_share_a_model(const std::string& folder) {
    attendrite_engine* engine = nullptr;
    CHECK(attendrite_open(folder.c_str(), 2, &engine, nullptr, 0) == ATTENDRITE_OK);
    const Windows windows(engine);
    const std::vector<float> expected = windows.run(engine);
    windows.check(expected);
    windows.run_encoded(engine, folder);
    std::vector<std::vector<float>> found(3);
    std::vector<attendrite_engine*> shared(found.size(), nullptr);
    for (auto& other : shared) CHECK(attendrite_share(engine, &other, nullptr, 0) == ATTENDRITE_OK);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < found.size(); ++i) {
        threads.emplace_back([&, i] {
            for (int round = 0; round < 20; ++round) found[i] = windows.run(shared[i]);
            attendrite_close(shared[i]);
        });
    }
    attendrite_close(engine);  // while the others run
    for (auto& thread : threads) thread.join();
    for (const auto& one : found) CHECK(one == expected);
}

// Whole bundles with a few wrong bytes: an engine that runs, or one line.
void test_damaged_bundles(const std::string& folder) {
    const std::string files[] = {contents(folder + "/manifest.json"),
                                 contents(folder + "/weights.safetensors")};
    const std::size_t header = 8 + static_cast<std::size_t>(files[1].find('}', 8));
    std::mt19937_64 chance(1);
    int accepted = 0, refused = 0;
    for (int round = 0; round < 200; ++round) {
        std::string damaged[] = {files[0], files[1]};
        std::string& one = damaged[round % 2];
        // half of them where structure is dense
        const std::size_t reach = round % 4 < 2 ? one.size() : round % 2 == 0 ? 400 : header;
        one[chance() % reach] = static_cast<char>(chance() % 96 + 32);
        char message[512] = "";
        attendrite_engine* engine = nullptr;
        const int status = attendrite_parse(damaged[0].data(), damaged[0].size(), damaged[1].data(),
                                            damaged[1].size(), 1, &engine, message, sizeof message);
        CHECK((status == ATTENDRITE_OK) == (engine != nullptr));
        if (status == ATTENDRITE_OK) {
            Windows(engine).run(engine);
            attendrite_close(engine);
            ++accepted;
        } else {
            CHECK(status == ATTENDRITE_BAD_INPUT && contains(message, " must "));
            ++refused;
        }
    }
    std::printf("damaged bundles: %d accepted, %d refused\n", accepted, refused);
    CHECK(accepted > 20 && refused > 20);  // both ways were tested
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 1;
    test_threads_share_a_model(argv[1]);
    test_damaged_bundles(argv[1]);
    return failures();
}
