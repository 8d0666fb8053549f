#include "safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "foreign.hpp"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers are taken from the file as they are: a little-endian machine is needed"
#endif

namespace attendrite {
namespace {

constexpr const char* kFile = "weights.safetensors";
constexpr std::uint64_t kLongestHeader = 100'000'000;  // bytes, the limit of the format

// What the format calls a dtype, and what we do.
struct Kind {
    const char *stored, *name;
    Stored dtype;
    std::uint64_t bytes;
};
constexpr Kind kKinds[] = {{"F16", "float16", Stored::f16, 2},
                           {"BF16", "bfloat16", Stored::bf16, 2},
                           {"F32", "float32", Stored::f32, 4},
                           {"F64", "float64", Stored::f64, 8}};

std::string weights_of(const std::string& name) { return "weights " + in_quotes(name); }

const Kind& kind_of(const std::string& name, const std::string& dtype) {
    std::string known;
    for (const Kind& kind : kKinds) {
        if (dtype == kind.stored) return kind;
        known += (known.empty() ? "" : ", ") + std::string(kind.name);
    }
    throw must(weights_of(name), "be one of " + known, in_quotes(dtype));
}

// a * b; false where it does not fit.
bool times(std::uint64_t a, std::uint64_t b, std::uint64_t& out) {
    if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return false;
    out = a * b;
    return true;
}

bool counts(const Json& list) {
    return list.is_array() && std::all_of(list.begin(), list.end(),
                                          [](const Json& x) { return x.is_number_unsigned(); });
}

struct Part {
    std::uint64_t begin, end;
};

// Checks a tensor by itself: its shape needs just the bytes that its offsets span.
Tensor tensor_of(const std::string& name, const Json& fact, std::uint64_t n, Part& part) {
    const bool whole = fact.is_object() && fact.contains("dtype") && fact["dtype"].is_string() &&
                       fact.contains("shape") && counts(fact["shape"]) &&
                       fact.contains("data_offsets") && counts(fact["data_offsets"]) &&
                       fact["data_offsets"].size() == 2;
    if (!whole) {
        throw must(weights_of(name), "have a dtype, a shape and two data_offsets", "other facts");
    }
    const Kind& kind = kind_of(name, fact["dtype"].get_ref<const std::string&>());
    Tensor tensor{kind.dtype, {}, nullptr};
    std::uint64_t bytes = kind.bytes;
    bool fits = true;
    for (const Json& axis : fact["shape"]) {
        const auto length = axis.get<std::uint64_t>();
        fits = fits && length <= std::numeric_limits<std::int64_t>::max() &&
               times(bytes, length, bytes);
        tensor.shape.push_back(static_cast<std::int64_t>(length));
    }
    part = {fact["data_offsets"][0].get<std::uint64_t>(),
            fact["data_offsets"][1].get<std::uint64_t>()};
    if (!fits || part.begin > part.end || part.end > n || part.end - part.begin != bytes) {
        const std::string be =
            fits ? "span " + std::to_string(bytes) + " bytes of the " + std::to_string(n)
                 : "have a size that can be counted";
        throw must(weights_of(name), be,
                   std::to_string(part.begin) + ".." + std::to_string(part.end));
    }
    return tensor;
}

void check_metadata(const Json& metadata) {
    const bool texts =
        metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                            [](const Json& value) { return value.is_string(); });
    if (!texts) throw must(std::string("'__metadata__' of ") + kFile, "map text to text", "more");
}

void check_cover(std::vector<Part> parts, std::uint64_t n) {
    std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    std::uint64_t end = 0;
    for (const Part& part : parts) {
        if (part.begin != end) {
            throw must(kFile, "hold tensors one after another",
                       std::to_string(part.begin) + " after " + std::to_string(end));
        }
        end = part.end;
    }
    if (end != n) {
        throw must(kFile, "end with its last tensor", std::to_string(n - end) + " bytes more");
    }
}

template <class Bits>
Bits bits_at(const Tensor& tensor, std::int64_t i) {
    Bits bits;
    std::memcpy(&bits, tensor.data + static_cast<std::size_t>(i) * sizeof bits, sizeof bits);
    return bits;
}

float from_bf16(std::uint16_t bits) {
    const std::uint32_t wide = std::uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

float from_f16(std::uint16_t bits) {
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    float value = 0;
    if (exponent == 31) {
        value = fraction != 0 ? std::numeric_limits<float>::quiet_NaN()
                              : std::numeric_limits<float>::infinity();
    } else if (exponent == 0) {
        value = std::ldexp(static_cast<float>(fraction), -24);
    } else {
        value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return (bits & 0x8000) != 0 ? -value : value;
}

template <class Number>
std::vector<Number> numbers(const Tensor& tensor) {
    std::vector<Number> out(static_cast<std::size_t>(tensor.size()));
    const auto fill = [&](const auto& at) {
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] = static_cast<Number>(at(static_cast<std::int64_t>(i)));
        }
    };
    switch (tensor.dtype) {
        case Stored::f16:
            fill([&](std::int64_t i) { return from_f16(bits_at<std::uint16_t>(tensor, i)); });
            break;
        case Stored::bf16:
            fill([&](std::int64_t i) { return from_bf16(bits_at<std::uint16_t>(tensor, i)); });
            break;
        case Stored::f32:
            fill([&](std::int64_t i) { return bits_at<float>(tensor, i); });
            break;
        case Stored::f64:
            fill([&](std::int64_t i) { return bits_at<double>(tensor, i); });
            break;
    }
    return out;
}

// A number is not finite where all bits of its exponent are set.
template <class Bits>
std::int64_t first_with(const Tensor& tensor, Bits exponent) {
    const std::int64_t n = tensor.size();
    for (std::int64_t i = 0; i < n; ++i) {
        if ((bits_at<Bits>(tensor, i) & exponent) == exponent) return i;
    }
    return -1;
}

}  // namespace

std::int64_t Tensor::size() const {
    std::int64_t n = 1;
    for (const std::int64_t length : shape) n *= length;
    return n;
}

std::vector<float> Tensor::floats() const { return numbers<float>(*this); }

std::vector<double> Tensor::doubles() const { return numbers<double>(*this); }

std::int64_t first_not_finite(const Tensor& tensor) {
    switch (tensor.dtype) {
        case Stored::f16:
            return first_with<std::uint16_t>(tensor, 0x7C00);
        case Stored::bf16:
            return first_with<std::uint16_t>(tensor, 0x7F80);
        case Stored::f32:
            return first_with<std::uint32_t>(tensor, 0x7F800000);
        case Stored::f64:
            return first_with<std::uint64_t>(tensor, 0x7FF0000000000000);
    }
    return -1;
}

std::map<std::string, Tensor, std::less<>> read_safetensors(const unsigned char* file,
                                                            std::size_t n) {
    std::uint64_t length = 0;
    if (n < sizeof length + 1 || file[sizeof length] != '{') {
        throw must(kFile, "be a safetensors file", std::to_string(n) + " bytes of another kind");
    }
    std::memcpy(&length, file, sizeof length);
    const std::uint64_t most = std::min<std::uint64_t>(kLongestHeader, n - sizeof length);
    if (length > most) {
        throw must(std::string("header of ") + kFile,
                   "have at most " + std::to_string(most) + " bytes", std::to_string(length));
    }
    const unsigned char* const data = file + sizeof length + length;
    const std::uint64_t rest = n - sizeof length - length;
    const std::string_view text(reinterpret_cast<const char*>(file + sizeof length), length);
    const Json header = parse_object(std::string("header of ") + kFile, text,
                                     [](const std::string&) { return true; });

    std::map<std::string, Tensor, std::less<>> tensors;
    std::vector<Part> parts;
    for (const auto& [name, fact] : header.items()) {
        if (name == "__metadata__") {
            check_metadata(fact);
            continue;
        }
        Tensor tensor = tensor_of(name, fact, rest, parts.emplace_back());
        tensor.data = data + parts.back().begin;
        tensors.emplace(name, std::move(tensor));
    }
    check_cover(std::move(parts), rest);
    return tensors;
}

}  // namespace attendrite
