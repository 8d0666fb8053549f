// Which build of the core runs: chosen once per process from the CPU, or forced by ATTENDRITE_CPU.
#pragma once

namespace attendrite {

enum class Level { portable, v3, v4, v4_bf16 };

// The level in use. Throws std::runtime_error when ATTENDRITE_CPU names an unknown level or one
// that this CPU cannot run.
Level cpu_level();

const char* level_name(Level level);

}  // namespace attendrite
