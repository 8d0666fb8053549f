// A bundle in memory: what manifest.json and weights.safetensors hold, checked. Foreign bytes:
// every fault in them is one std::invalid_argument with a line that says what must be and what was
// found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace attendrite {

enum class Stored { f16, bf16, f32, f64 };

// A tensor in the memory of its file.
struct Tensor {
    Stored dtype;
    std::vector<std::int64_t> shape;
    const unsigned char* data;

    std::int64_t size() const;          // numbers
    std::vector<float> floats() const;  // rounded where stored wider
    std::vector<double> doubles() const;
};

struct TaskFact {
    std::string name;
    std::int64_t id, width;
    std::string kind;
};

struct Bundle {
    std::string family, name;
    std::map<std::string, double> config;  // numbers only
    std::map<std::string, std::int64_t, std::less<>> units, sessions;
    std::vector<TaskFact> tasks;
    std::map<std::string, Tensor, std::less<>> weights;
    std::shared_ptr<const void> memory;  // what the tensors point into
};

// Reads the folder; hashes are not checked (the Python reader does).
Bundle read_bundle(const std::string& folder);

// Copies the weights.
Bundle parse_bundle(std::string_view manifest, const void* weights, std::size_t n);

}  // namespace attendrite
