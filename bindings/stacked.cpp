// Stacked convolutional models. The executors of attendrite have checked shapes.
#include "stacked.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "affine.hpp"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;  // of a tensor's memory, 0 for none; Python keeps the tensor alive

// C-contiguous float32: anything else is refused, never copied.
using Array = py::array_t<float, py::array::c_style>;

// Weights [outputs, inputs] and bias [outputs].
using Product = std::pair<Array, Array>;

// First product, kernel [rows, columns, channels] and its bias [channels], last product.
using Layer = std::tuple<Product, Product, Product>;

void shape(const Array& array, std::vector<py::ssize_t> expected) {
    if (!std::equal(expected.begin(), expected.end(), array.shape(),
                    array.shape() + array.ndim())) {
        throw std::invalid_argument("arrays of a stacked model must fit each other");
    }
}

attendrite::Linear linear(const Product& product, bool elu1) {
    const auto& [weights, bias] = product;
    if (weights.ndim() != 2) throw std::invalid_argument("weights must be [outputs, inputs]");
    shape(bias, {weights.shape(0)});
    return {weights.data(), weights.shape(0), weights.shape(1), bias.data(),
            elu1 ? attendrite::After::elu1 : attendrite::After::nothing};
}

// Channels are filled up with zeros.
attendrite::StackedLayer layer_of(const Layer& layer, bool is_linear) {
    const auto& [weights, bias] = std::get<1>(layer);
    if (weights.ndim() != 3) throw std::invalid_argument("a kernel must have three axes");
    const std::int64_t taps = weights.shape(0) * weights.shape(1), channels = weights.shape(2);
    shape(bias, {channels});
    constexpr std::int64_t kTogether = attendrite::kChannelsTogether;
    const std::int64_t filled = (channels + kTogether - 1) / kTogether * kTogether;
    attendrite::StackedLayer out;
    out.in = linear(std::get<0>(layer), false);
    out.out = linear(std::get<2>(layer), !is_linear);
    out.rows = weights.shape(0);
    out.columns = weights.shape(1);
    out.weights.resize(static_cast<std::size_t>(taps * filled));
    out.bias.resize(static_cast<std::size_t>(filled));
    for (std::int64_t i = 0; i < taps; ++i) {
        std::copy_n(weights.data() + i * channels, channels, out.weights.begin() + i * filled);
    }
    std::copy_n(bias.data(), channels, out.bias.begin());
    return out;
}

std::unique_ptr<attendrite::Stacked> make(std::int64_t channels, std::int64_t rows,
                                          std::int64_t columns, std::int64_t size,
                                          std::int64_t planes, const Product& first,
                                          const std::vector<Layer>& layers, bool is_linear) {
    std::vector<attendrite::StackedLayer> made;
    for (const Layer& layer : layers) made.push_back(layer_of(layer, is_linear));
    return std::make_unique<attendrite::Stacked>(channels, rows, columns, size, planes,
                                                 linear(first, !is_linear), std::move(made));
}

std::unique_ptr<attendrite::PointReadout> make_readout(const Array& features, const Array& less,
                                                       const Array& bias, const Array& positions,
                                                       bool plain) {
    if (features.ndim() != 2) throw std::invalid_argument("features must be [units, channels]");
    const py::ssize_t units = features.shape(0);
    shape(less, {units});
    shape(bias, {units});
    shape(positions, {units, 2});
    return std::make_unique<attendrite::PointReadout>(features.data(), less.data(), bias.data(),
                                                      positions.data(), units, features.shape(1),
                                                      plain);
}

void run(const attendrite::Stacked& model, Address images, std::int64_t n, Address planes,
         Address shifts, const attendrite::PointReadout& readout, Address out, int threads) {
    const py::gil_scoped_release unlocked;
    model(reinterpret_cast<const float*>(images), n, reinterpret_cast<const float*>(planes),
          reinterpret_cast<const float*>(shifts), readout, reinterpret_cast<float*>(out), threads);
}

std::unique_ptr<attendrite::Affine> make_affine(const Array& weights, const Array& bias) {
    if (weights.ndim() != 4) {
        throw std::invalid_argument("weights must be [units, channels, rows, columns]");
    }
    shape(bias, {weights.shape(0)});
    return std::make_unique<attendrite::Affine>(weights.data(), bias.data(), weights.shape(0),
                                                weights.shape(1), weights.shape(2),
                                                weights.shape(3));
}

void run_affine(const attendrite::Affine& map, Address images, std::int64_t n, Address out,
                int threads) {
    const py::gil_scoped_release unlocked;
    map(reinterpret_cast<const float*>(images), n, reinterpret_cast<float*>(out), threads);
}

}  // namespace

void bind_stacked(py::module_& m) {
    py::class_<attendrite::PointReadout>(m, "PointReadout", "Units that read a map at points.")
        .def(py::init(&make_readout), py::arg("features").noconvert(), py::arg("less").noconvert(),
             py::arg("bias").noconvert(), py::arg("positions").noconvert(),
             py::arg("plain") = false,
             "features [units, channels], less and bias [units], positions [units, 2]")
        .def_property_readonly("units", &attendrite::PointReadout::units);
    py::class_<attendrite::Stacked>(m, "Stacked", "A stacked convolutional core with read-outs.")
        .def(py::init(&make), py::arg("channels"), py::arg("rows"), py::arg("columns"),
             py::arg("size"), py::arg("planes"), py::arg("first"), py::arg("layers"),
             py::arg("linear"),
             "Products are pairs of weights and bias; a layer is product, kernel, product")
        .def("run", &run, py::arg("images"), py::arg("n"), py::arg("planes"), py::arg("shifts"),
             py::arg("readout"), py::arg("out"), py::arg("threads"),
             "Addresses; of shifts 0: none.");
    py::class_<attendrite::Affine>(m, "Affine", "elu(A x + b) + 1, where units look at windows.")
        .def(py::init(&make_affine), py::arg("weights").noconvert(), py::arg("bias").noconvert(),
             "weights [units, channels, rows, columns], bias [units]")
        .def_property_readonly("units", &attendrite::Affine::units)
        .def_property_readonly("operations", &attendrite::Affine::operations)
        .def("run", &run_affine, py::arg("images"), py::arg("n"), py::arg("out"),
             py::arg("threads"), "Addresses.");
}
