#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "bundle.hpp"
#include "check.hpp"
#include "safetensors.hpp"

using namespace attendrite;

namespace {

const std::string kManifest = R"({"format": 1, "family": "poyo", "name": "tiny",
 "config": {"dim": 4, "sequence_length": 0.5, "remark": "no number", "flag": true},
 "units": {"a/\u00e9 1": 2, "b": 1}, "sessions": {"s": 1},
 "tasks": [{"name": "place", "id": 3, "dim": 2, "kind": "continuous"}],
 "training": {"deep": [{"a": [1, {"b": {}}]}, "x"], "units": {"b": "not read"}},
 "source": {}, "files": {}})";

// A header, its length before it, numbers behind it.
std::string file_of(const std::string& header, const std::string& numbers) {
    const std::uint64_t length = header.size();
    std::string out(sizeof length, '\0');
    std::memcpy(out.data(), &length, sizeof length);
    return out + header + numbers;
}

template <class Number>
std::string bytes_of(std::initializer_list<Number> numbers) {
    return {reinterpret_cast<const char*>(numbers.begin()), numbers.size() * sizeof(Number)};
}

// All four dtypes, a scalar, an empty tensor; with 3 bytes of blanks no number is aligned.
std::string weights() {
    const std::string header =
        R"({"__metadata__": {"format": "pt"},)"
        R"("single": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},)"
        R"("double": {"dtype": "F64", "shape": [2], "data_offsets": [24, 40]},)"
        R"("half": {"dtype": "F16", "shape": [6], "data_offsets": [40, 52]},)"
        R"("brain": {"dtype": "BF16", "shape": [3], "data_offsets": [52, 58]},)"
        R"("scalar": {"dtype": "F32", "shape": [], "data_offsets": [58, 62]},)"
        R"("empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [62, 62]}})";
    const std::string pad(11 - header.size() % 8, ' ');
    return file_of(header + pad,
                   bytes_of<float>({1, 2, 3, 4, 5, 1e-40F}) + bytes_of<double>({-0.0, 0.1}) +
                       bytes_of<std::uint16_t>({0x3E00, 0x8000, 0x0001, 0x7BFF, 0xC000, 0x83FF}) +
                       bytes_of<std::uint16_t>({0x3FC0, 0xC000, 0x0001}) + bytes_of<float>({7}));
}

Bundle parse(const std::string& manifest, const std::string& weights) {
    return parse_bundle(manifest, weights.data(), weights.size());
}

std::string refusal(const std::string& manifest, const std::string& weights) {
    try {
        parse(manifest, weights);
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

void test_what_is_written_is_read() {
    const Bundle bundle = parse(kManifest, weights());
    CHECK(bundle.family == "poyo" && bundle.name == "tiny");
    CHECK((bundle.config == std::map<std::string, double>{{"dim", 4.0}, {"sequence_length", 0.5}}));
    CHECK(bundle.units.size() == 2 && bundle.units.at("a/\xC3\xA9 1") == 2);
    CHECK(bundle.sessions.size() == 1 && bundle.sessions.at("s") == 1);
    CHECK(bundle.tasks.size() == 1 && bundle.tasks[0].name == "place" && bundle.tasks[0].id == 3 &&
          bundle.tasks[0].width == 2 && bundle.tasks[0].kind == "continuous");
    CHECK(bundle.weights.size() == 6);

    const Tensor& single = bundle.weights.at("single");
    CHECK((single.shape == std::vector<std::int64_t>{2, 3}) && single.dtype == Stored::f32);
    CHECK((single.floats() == std::vector<float>{1, 2, 3, 4, 5, 1e-40F}));
    CHECK((bundle.weights.at("double").doubles() == std::vector<double>{-0.0, 0.1}));
    CHECK(std::signbit(bundle.weights.at("double").doubles()[0]));
    CHECK(bundle.weights.at("double").floats()[1] == 0.1F);  // rounded
    const float tiny = std::ldexp(1.0F, -24);
    const auto half = bundle.weights.at("half").floats();
    CHECK((half == std::vector<float>{1.5F, -0.0F, tiny, 65504.0F, -2.0F, -1023 * tiny}));
    CHECK(std::signbit(half[1]));
    CHECK((bundle.weights.at("brain").doubles() ==
           std::vector<double>{1.5, -2.0, std::ldexp(1.0, -133)}));
    CHECK(bundle.weights.at("scalar").size() == 1 && bundle.weights.at("scalar").floats()[0] == 7);
    CHECK(bundle.weights.at("empty").size() == 0 && bundle.weights.at("empty").floats().empty());
}

// The weights are copied, and live as long as the last bundle.
void test_memory() {
    Bundle copy;
    {
        std::string file = weights();
        const Bundle bundle = parse(kManifest, file);
        copy = bundle;
        file.assign(file.size(), '\xFF');
    }
    CHECK(copy.weights.at("single").floats()[1] == 2);
}

void test_bad_weights() {
    const std::string four(4, '\0'), eight(8, '\0');
    const auto one = [](const std::string& facts) { return R"({"a": {)" + facts + "}}"; };
    const std::string good = R"("dtype": "F32", "shape": [2], "data_offsets": [0, 8])";
    CHECK(refusal(kManifest, file_of(one(good), eight)).empty());
    const struct {
        std::string file, message;
    } cases[] = {
        {"", "must be a safetensors file, got 0 bytes"},
        {std::string(7, '{'), "must be a safetensors file, got 7 bytes"},
        {std::string("PK\3\4") + weights(), "must be a safetensors file"},
        {file_of("{}", "") + "x", "must end with its last tensor, got 1 bytes more"},
        {file_of(one(good), eight).replace(0, 8, 8, '\xFF'), "header of weights.safetensors must"},
        {file_of(one(good), eight).replace(0, 1, 1, '\x7F'), "bytes, got 127"},
        {file_of("{\"a\": ", ""), "must be JSON, got a fault at byte 7"},
        {file_of("{\"a\xFF\": 1}", ""), "must be JSON, got a fault at byte 4"},
        {file_of("{\"__metadata__\": 3}", ""), "'__metadata__' of weights.safetensors must map"},
        {file_of(R"({"a": {)" + good + R"(}, "a": {)" + good + "}}", eight), "'a' twice"},
        {file_of(one(R"("shape": [2], )" + good), eight), "'shape' twice"},
        {file_of(R"({"a\nb": 1})", ""), "weights 'a\\x0ab' must have a dtype"},
        {file_of(one(R"("dtype": "F32", "shape": [2])"), eight), "two data_offsets"},
        {file_of(one(R"("dtype": "F32", "shape": [-2], "data_offsets": [0, 8])"), eight), "two"},
        {file_of(one(R"("dtype": "F32", "shape": [2.0], "data_offsets": [0, 8])"), eight), "two"},
        {file_of(one(R"("dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8])"), eight), "two"},
        {file_of(one(R"("dtype": "I64", "shape": [1], "data_offsets": [0, 8])"), eight),
         "must be one of float16, bfloat16, float32, float64, got 'I64'"},
        {file_of(one(R"("dtype": "F32", "shape": [2], "data_offsets": [0, 8])"), four),
         "must span 8 bytes of the 4, got 0..8"},
        {file_of(one(R"("dtype": "F32", "shape": [3], "data_offsets": [0, 8])"), eight),
         "must span 12 bytes of the 8, got 0..8"},
        {file_of(one(R"("dtype": "F32", "shape": [1], "data_offsets": [8, 4])"), eight), "8..4"},
        {file_of(one(R"("dtype": "F32", "shape": [1], "data_offsets": [18446744073709551612, 0])"),
                 eight),
         "must span 4 bytes"},
        // 2^32 * 2^32 * 4 bytes and 2^63 * 2: all bits of the true size are lost
        {file_of(
             one(R"("dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0])"),
             ""),
         "must have a size that can be counted"},
        {file_of(one(R"("dtype": "F16", "shape": [9223372036854775808], "data_offsets": [0, 0])"),
                 ""),
         "must have a size that can be counted"},
        {file_of(
             one(R"("dtype": "F16", "shape": [0, 9223372036854775808], "data_offsets": [0, 0])"),
             ""),
         "must have a size that can be counted"},
        {file_of(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},)"
                 R"( "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})",
                 four),
         "must hold tensors one after another, got 0 after 4"},
        {file_of(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},)"
                 R"( "b": {"dtype": "F16", "shape": [1], "data_offsets": [6, 8]}})",
                 eight),
         "must hold tensors one after another, got 6 after 4"},
        {file_of(one(good), bytes_of<float>({0, -std::numeric_limits<float>::infinity()})),
         "weights 'a' must be finite, got NaN or infinity at [1]; train again"},
        {file_of(one(R"("dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8])"),
                 bytes_of<std::uint16_t>({0, 0, 0x7E00, 0})),
         "must be finite, got NaN or infinity at [1, 0]; train again"},
    };
    for (const auto& bad : cases) {
        const std::string message = refusal(kManifest, bad.file);
        CHECK(contains(message, bad.message));
        if (!contains(message, bad.message)) std::fprintf(stderr, "  got: %s\n", message.c_str());
    }
}

std::string with(const std::string& old, const std::string& now) {
    std::string out = kManifest;
    return out.replace(out.find(old), old.size(), now);
}

void test_bad_manifests() {
    const struct {
        std::string manifest, message;
    } cases[] = {
        {"", "manifest.json must be JSON, got a fault at byte 1"},
        {"[1]", "manifest.json must be an object, got array"},
        {kManifest + "x", "must be JSON"},
        {with("\"x\"]", "\"\\ud800\"]"), "must be JSON"},
        {with("\"x\"]", "NaN]"), "must be JSON"},
        {with("\"x\"]", "1e999]"), "must have finite numbers, got one that is too large"},
        {with("\"x\"]", std::string(200, '[') + std::string(200, ']') + "]"), "at most 100 deep"},
        {with("\"x\"]", "{\"k\": 1, \"k\": 2}]"), "must have every key once, got 'k' twice"},
        {with("\"name\": \"tiny\"", "\"family\": \"again\""), "got 'family' twice"},
        {with("\"format\": 1, ", ""), "must be an object with 'format'"},
        {with("\"format\": 1", "\"format\": true"), "format of manifest.json must be an integer"},
        {with("\"format\": 1", "\"format\": 0"), "must be an integer of at least 1, got 0"},
        {with("\"format\": 1", "\"format\": 2"), "must be at most 1, got 2; upgrade attendrite"},
        {with("\"poyo\"", "7"), "'family' of manifest.json must be a string, got number"},
        {with("\"name\": \"tiny\",", ""), "'name' of manifest.json must be a string, got none"},
        {with("\"config\"", "\"Config\""), "'config' of manifest.json must be an object"},
        {with("{\"s\": 1}", "[]"), "'sessions' of manifest.json must be an object, got array"},
        {with("\"b\": 1", "\"b\": 0"), "row of 'b' in the units vocabulary must be an integer"},
        {with("\"b\": 1", "\"b\": 1.0"), "must be an integer of at least 1, got 1.0"},
        {with("\"b\": 1", "\"b\": 18446744073709551615"), "got 18446744073709551615"},
        {with("\"b\": 1", "\"b\": \"1\""), "must be an integer of at least 1, got string"},
        {with("\"b\": 1", "\"b\\u2028\\u0085\\u001b\": 0"), "'b\\xe2\\x80\\xa8\\xc2\\x85\\x1b'"},
        {with("\"b\": 1", "\"b\": 2"), "units vocabulary must have distinct rows"},
        {with("\"dim\": 2, ", ""), "a task of manifest.json must have name, id, dim and kind"},
        {with("\"dim\": 2, ", "\"dim\": 2, \"x\": 1, "), "must have name, id, dim and kind"},
        {with("\"place\"", "\"\""), "name of a task must be printable text"},
        {with("\"place\"", "\"a\\u0000b\""),
         "name of a task must be printable text, got 'a\\x00b'"},
        {with("\"id\": 3", "\"id\": 0"), "id of task 'place' must be an integer of at least 1"},
        {with("\"continuous\"", "\"other\""), "kind of task 'place' must be continuous, binary"},
        {with("\"kind\": \"continuous\"}", R"("kind": "binary"}, {"name": "q", "id": 3, "dim": 1,
          "kind": "binary"})"),
         "tasks must have distinct names and ids, got 'q' again"},
    };
    for (const auto& bad : cases) {
        const std::string message = refusal(bad.manifest, weights());
        CHECK(contains(message, bad.message));
        if (!contains(message, bad.message)) std::fprintf(stderr, "  got: %s\n", message.c_str());
    }
    // What a run does not need is not kept, however long.
    CHECK(refusal(with("\"x\"]", "\"" + std::string(1 << 20, 'x') + "\"]"), weights()).empty());
}

void write(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}

void test_folders() {
    const auto folder = std::filesystem::temp_directory_path() /
                        ("attendrite_test_bundle_" + std::to_string(std::random_device{}()));
    CHECK(contains(thrown_by([&] { read_bundle(folder.string()); }),
                   "must be a folder, got nothing there; make one: attendrite export"));
    std::filesystem::create_directory(folder);
    CHECK(contains(thrown_by([&] { read_bundle(folder.string()); }), "must hold manifest.json"));
    write(folder / "manifest.json", kManifest);
    CHECK(contains(thrown_by([&] { read_bundle(folder.string()); }), "hold weights.safetensors"));
    write(folder / "weights.safetensors", weights());
    const Bundle bundle = read_bundle(folder.string());
    CHECK(bundle.units.size() == 2 && bundle.weights.at("scalar").floats()[0] == 7);
    CHECK(contains(thrown_by([&] { read_bundle((folder / "manifest.json").string()); }),
                   "must be a folder, got a file"));
    std::filesystem::remove_all(folder);
}

// A damaged copy: bits turned, bytes dropped or doubled, digits and structure exchanged.
std::string damaged(std::string text, std::mt19937_64& chance) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(chance() % n); };
    for (auto turns = 1 + below(3); turns > 0 && !text.empty(); --turns) {
        const std::size_t at = below(text.size());
        switch (below(6)) {
            case 0:
                text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
                break;
            case 1:
                text[at] = "0129.-eE{}[]\",:\\u\xFF\x00"[below(20)];
                break;
            case 2:
                text.erase(at, 1 + below(16));
                break;
            case 3:
                text.insert(below(text.size()), text.substr(at, 1 + below(64)));
                break;
            case 4:
                text.resize(at);
                break;
            case 5: {
                const std::size_t digit = text.find_first_of("0123456789", at);
                const char* const values[] = {"0", "4294967296", "18446744073709551615", "1e400"};
                if (digit != std::string::npos) text.replace(digit, 1, values[below(4)]);
            }
        }
    }
    return text;
}

void test_damaged_bytes() {
    std::mt19937_64 chance(1);
    const std::string file = weights();
    int accepted = 0, refused = 0;
    for (int round = 0; round < 6000; ++round) {
        const bool first = chance() % 2 == 0;
        const std::string manifest = first ? damaged(kManifest, chance) : kManifest;
        const std::string bytes = first ? file : damaged(file, chance);
        try {
            const Bundle bundle = parse(manifest, bytes);
            for (const auto& [name, tensor] : bundle.weights) {
                const auto n = static_cast<std::size_t>(tensor.size());
                CHECK(tensor.floats().size() == n && tensor.doubles().size() == n);
            }
            ++accepted;
        } catch (const std::invalid_argument& error) {  // and nothing else
            const std::string message = error.what();
            CHECK(contains(message, " must ") && contains(message, "; "));
            CHECK(message.find_first_of("\n\r\x1b") == std::string::npos);
            ++refused;
        }
    }
    std::printf("damaged bundles: %d accepted, %d refused\n", accepted, refused);
    CHECK(accepted > 300 && refused > 3000);  // both ways were tested
}

}  // namespace

int main() {
    test_what_is_written_is_read();
    test_memory();
    test_bad_weights();
    test_bad_manifests();
    test_folders();
    test_damaged_bytes();
    return failures();
}
