// attendrite._core: the folder bindings/ is the only place that knows pybind11.
#include <pybind11/pybind11.h>

#include "cpu.hpp"

namespace py = pybind11;

void bind_spikes(py::module_& m);

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.doc() = "The C++ core of attendrite. Not public: call attendrite.kernels.";
    m.def(
        "cpu_level", [] { return attendrite::level_name(attendrite::cpu_level()); },
        "Instruction-set level in use: 'portable', 'v3', 'v4' or 'v4_bf16'; ATTENDRITE_CPU forces one.");
    bind_spikes(m);
}
