#include "attention.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>

namespace py = pybind11;

namespace {

using attendrite::AttentionProblem;
using attendrite::Element;
using Address = std::uintptr_t;  // of a tensor's memory, 0 for none; Python keeps the tensor alive
using Rows = std::tuple<Address, std::int64_t, std::int64_t, std::int64_t>;
template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

attendrite::HeadRows rows(const Rows& x) {
    return {pointer<const void>(std::get<0>(x)), std::get<1>(x), std::get<2>(x), std::get<3>(x)};
}

Element element(const std::string& name) {
    if (name == "float32") return Element::f32;
    if (name == "float16") return Element::f16;
    if (name == "bfloat16") return Element::bf16;
    throw std::invalid_argument("element must be float32, float16 or bfloat16, got " + name);
}

// Fields by name: addresses of what is there, 0 for what is not.
AttentionProblem problem_of(const py::dict& fields) {
    AttentionProblem p{};
    const auto number = [&](const char* name) { return fields[name].cast<std::int64_t>(); };
    const auto address = [&](const char* name) { return fields[name].cast<Address>(); };
    p.element = element(fields["element"].cast<std::string>());
    p.batch = number("batch");
    p.heads = number("heads");
    p.queries = number("queries");
    p.width = number("width");
    p.value_width = number("value_width");
    p.q = rows(fields["q"].cast<Rows>());
    p.k = rows(fields["k"].cast<Rows>());
    p.v = rows(fields["v"].cast<Rows>());
    p.n_keys = number("n_keys");
    p.longest = number("longest");
    p.packed = fields["packed"].cast<bool>();
    p.begin = pointer<const std::int64_t>(address("begin"));
    p.count = pointer<const std::int64_t>(address("count"));
    p.rows = pointer<const std::int64_t>(address("rows"));
    p.n_rows = number("n_rows");
    p.units = pointer<const std::int64_t>(address("units"));
    p.n_units = number("n_units");
    p.key_times = pointer<const double>(address("key_times"));
    p.pairs = number("pairs");
    p.query_phase = {pointer<const float>(address("query_phase")), number("query_phase_batch")};
    p.key_phase = {pointer<const float>(address("key_phase")), number("key_phase_batch")};
    p.rotate_values = fields["rotate_values"].cast<bool>();
    p.query_times = pointer<const double>(address("query_times"));
    p.query_weights = pointer<const float>(address("query_weights"));
    p.scale = fields["scale"].cast<float>();
    p.top_k = number("top_k");
    const std::int64_t head = p.queries * p.value_width;
    p.output = {pointer<void>(address("output")), p.heads * head, head, p.value_width};
    p.lse = pointer<float>(address("lse"));
    p.entropy = pointer<float>(address("entropy"));
    p.lag = pointer<float>(address("lag"));
    p.per_unit = pointer<float>(address("per_unit"));
    p.per_query_unit = pointer<float>(address("per_query_unit"));
    p.per_key = pointer<float>(address("per_key"));
    p.weights = pointer<float>(address("weights"));
    p.weights_mean = pointer<float>(address("weights_mean"));
    p.weights_max = pointer<float>(address("weights_max"));
    p.top_weight = pointer<float>(address("top_k.weight"));
    p.top_key = pointer<std::int64_t>(address("top_k.key"));
    p.partial_lse = pointer<float>(address("partials.lse"));
    p.partial_output = pointer<float>(address("partials.output"));
    return p;
}

// Runs where `size` bytes at `workspace` are enough, and says how many it needs.
std::size_t attention(const py::dict& fields, Address workspace, std::size_t size, int threads) {
    const AttentionProblem p = problem_of(fields);
    const py::gil_scoped_release unlocked;
    const std::size_t needed = attendrite::attention_workspace(p, threads);
    if (needed <= size) attendrite::attention(p, pointer<void>(workspace), threads);
    return needed;
}

void phases(const Array<double>& times, const Array<double>& omega, Array<float>& out,
            int threads) {
    const double* const t = times.data();
    const double* const w = omega.data();
    float* const to = out.mutable_data();
    const auto n = static_cast<std::int64_t>(times.size());
    const auto n_omega = static_cast<std::int64_t>(omega.size());
    const py::gil_scoped_release unlocked;
    attendrite::phases(t, n, w, n_omega, to, threads);
}

}  // namespace

void bind_attention(py::module_& m) {
    m.def(
        "attention", attention, py::arg("fields"), py::arg("workspace"), py::arg("size"),
        py::arg("threads"),
        "Attention of a problem given by addresses, see csrc/attention.hpp; returns the bytes that "
        "it works in, and does nothing where there are fewer.");
    m.def("phases", phases, py::arg("times").noconvert(), py::arg("omega").noconvert(),
          py::arg("out").noconvert(), py::arg("threads"),
          "Cosines and sines of rotary angles, [*, 2, F].");
}
