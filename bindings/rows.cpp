// Layers of transformers. The executors of attendrite have checked shapes.
#include "rows.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;  // of a tensor's memory, 0 for none; Python keeps the tensor alive

// C-contiguous float32: anything else is refused, never copied.
using Array = py::array_t<float, py::array::c_style>;

// Weights [outputs, inputs] and bias [outputs].
attendrite::Linear linear(const Array& weights, const Array& bias, bool gelu) {
    if (weights.ndim() != 2 || bias.ndim() != 1 || bias.shape(0) != weights.shape(0)) {
        throw std::invalid_argument("weights must be [outputs, inputs] and bias [outputs]");
    }
    return {weights.data(), weights.shape(0), weights.shape(1), bias.data(),
            gelu ? attendrite::After::gelu : attendrite::After::nothing};
}

std::unique_ptr<attendrite::Rows> make(bool normed, const Array& weights, const Array& bias,
                                       const std::optional<std::pair<Array, Array>>& then) {
    std::optional<attendrite::Linear> second;
    if (then) second.emplace(linear(then->first, then->second, false));
    return std::make_unique<attendrite::Rows>(normed, linear(weights, bias, then.has_value()),
                                              std::move(second));
}

void run(const attendrite::Rows& rows, Address x, std::int64_t n, std::int64_t x_stride,
         Address residual, std::int64_t residual_stride, Address y, std::int64_t y_stride,
         int threads) {
    const py::gil_scoped_release unlocked;
    rows(reinterpret_cast<const float*>(x), n, x_stride, reinterpret_cast<const float*>(residual),
         residual_stride, reinterpret_cast<float*>(y), y_stride, threads);
}

}  // namespace

void bind_rows(py::module_& m) {
    py::class_<attendrite::Rows>(m, "Rows", "Normalisation, then one product or two, of each row.")
        .def(py::init(&make), py::arg("normed"), py::arg("weights").noconvert(),
             py::arg("bias").noconvert(), py::arg("then") = py::none(),
             "weights [outputs, inputs], bias [outputs]; of the second product `then` too, before "
             "which comes GELU")
        .def_property_readonly("outputs", &attendrite::Rows::outputs)
        .def("run", &run, py::arg("x"), py::arg("rows"), py::arg("x_stride"), py::arg("residual"),
             py::arg("residual_stride"), py::arg("y"), py::arg("y_stride"), py::arg("threads"),
             "Addresses and strides in floats; residual 0: none.");
}
