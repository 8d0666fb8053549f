#include "cpu.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace attendrite {
namespace {

constexpr Level kLevels[] = {Level::portable, Level::v3, Level::v4, Level::v4_bf16};

bool supported(Level level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    switch (level) {
        case Level::portable:
            return true;
        case Level::v3:
            return v3;
        case Level::v4:
            return v4;
        case Level::v4_bf16:
            return v4 && __builtin_cpu_supports("avx512bf16");
    }
    return false;
#else
    return level == Level::portable;
#endif
}

Level choose() {
    const char* forced = std::getenv("ATTENDRITE_CPU");
    Level best = Level::portable;
    std::string usable;
    for (const Level level : kLevels) {
        if (!supported(level)) continue;
        best = level;
        usable += std::string(usable.empty() ? "" : ", ") + level_name(level);
        if (forced != nullptr && std::strcmp(forced, level_name(level)) == 0) return level;
    }
    if (forced != nullptr && forced[0] != '\0') {
        throw std::runtime_error("ATTENDRITE_CPU must be one of " + usable + " on this CPU, got '" +
                                 forced + "'; unset it to choose by CPU");
    }
    return best;
}

}  // namespace

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

Level cpu_level() {
    static const Level level = choose();
    return level;
}

}  // namespace attendrite
