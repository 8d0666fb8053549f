// Which build of the core runs: chosen once per process from the CPU, or forced by ATTENDRITE_CPU.
#pragma once

namespace attendrite {

enum class Level { portable, v3, v4, v4_bf16 };
constexpr Level kLevels[] = {Level::portable, Level::v3, Level::v4, Level::v4_bf16};

// The level in use. Throws std::runtime_error when ATTENDRITE_CPU names an unknown level or one
// that this CPU or this build cannot run.
Level cpu_level();

// True when this CPU and this build can run the level.
bool level_usable(Level level);

// For tests: use a level from now on. Throws std::invalid_argument when it cannot run here.
void force_level(const char* name);

const char* level_name(Level level);

}  // namespace attendrite
