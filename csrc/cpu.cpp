#include "cpu.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace attendrite {
namespace {

std::string usable_levels() {
    std::string names;
    for (const Level level : kLevels) {
        if (level_usable(level))
            names += std::string(names.empty() ? "" : ", ") + level_name(level);
    }
    return names;
}

// The usable level of this name; false when there is none.
bool find_level(const char* name, Level& found) {
    for (const Level level : kLevels) {
        if (level_usable(level) && std::strcmp(name, level_name(level)) == 0) {
            found = level;
            return true;
        }
    }
    return false;
}

Level choose() {
    const char* forced = std::getenv("ATTENDRITE_CPU");
    Level best = Level::portable;
    if (forced != nullptr && forced[0] != '\0') {
        if (find_level(forced, best)) return best;
        throw std::runtime_error("ATTENDRITE_CPU must be one of " + usable_levels() +
                                 " on this CPU, got '" + forced + "'; unset it to choose by CPU");
    }
    for (const Level level : kLevels) {
        if (level_usable(level)) best = level;
    }
    return best;
}

std::atomic<Level>& chosen() {
    static std::atomic<Level> level{choose()};
    return level;
}

}  // namespace

bool level_usable(Level level) {
#if defined(ATTENDRITE_X86_LEVELS)
    // What -march=x86-64-v3 and -v4 let the compiler use. GCC 11 does not know the levels' names.
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&
                    __builtin_cpu_supports("movbe");
    const bool v4 =
        v3 && (ATTENDRITE_EMULATE ||
               (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl")));
    switch (level) {
        case Level::portable:
            return true;
        case Level::v3:
            return v3;
        case Level::v4:
            return v4;
        case Level::v4_bf16:
            return v4 && (ATTENDRITE_EMULATE || __builtin_cpu_supports("avx512bf16"));
    }
    return false;
#else
    return level == Level::portable;
#endif
}

const char* level_name(Level level) {
    switch (level) {
        case Level::portable:
            return "portable";
        case Level::v3:
            return "v3";
        case Level::v4:
            return "v4";
        case Level::v4_bf16:
            return "v4_bf16";
    }
    return "unknown";
}

Level cpu_level() { return chosen().load(std::memory_order_relaxed); }

void force_level(const char* name) {
    Level level = Level::portable;
    if (!find_level(name, level)) {
        throw std::invalid_argument("level must be one of " + usable_levels() +
                                    " on this CPU, got '" + name + "'");
    }
    chosen().store(level, std::memory_order_relaxed);
}

}  // namespace attendrite
