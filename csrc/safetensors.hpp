// The safetensors format: 8 bytes of header length, a JSON header of names, dtypes, shapes and
// offsets, then the numbers, little-endian (github.com/huggingface/safetensors).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "bundle.hpp"

namespace attendrite {

// The tensors of a file in memory; they point into it, not aligned to anything. They cover the
// bytes after the header without holes and without sharing any. Throws std::invalid_argument.
std::map<std::string, Tensor, std::less<>> read_safetensors(const unsigned char* file,
                                                            std::size_t n);

// Place of the first NaN or infinity, -1: none.
std::int64_t first_not_finite(const Tensor& tensor);

}  // namespace attendrite
