// attendrite._core: the folder bindings/ is the only place that knows pybind11.
#include <pybind11/pybind11.h>

#include "cpu.hpp"

namespace py = pybind11;

void bind_attention(py::module_& m);
void bind_fields(py::module_& m);
void bind_model(py::module_& m);
void bind_rows(py::module_& m);
void bind_spikes(py::module_& m);
void bind_stacked(py::module_& m);
void bind_tokens(py::module_& m);

namespace {

py::tuple usable_levels() {
    py::list names;
    for (const auto level : attendrite::kLevels) {
        if (attendrite::level_usable(level)) names.append(attendrite::level_name(level));
    }
    return py::tuple(names);
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.doc() = "The C++ core of attendrite. Not public: call attendrite.kernels.";
    m.def(
        "cpu_level", [] { return attendrite::level_name(attendrite::cpu_level()); },
        "Instruction-set level in use: 'portable', 'v3', 'v4' or 'v4_bf16'; ATTENDRITE_CPU forces "
        "one.");
    m.def("cpu_levels", usable_levels, "Levels that this CPU and this build can run, best last.");
    m.def("force_level", attendrite::force_level, py::arg("name"),
          "For tests: use this level from now on.");
    bind_attention(m);
    bind_fields(m);
    bind_model(m);
    bind_rows(m);
    bind_spikes(m);
    bind_stacked(m);
    bind_tokens(m);
}
