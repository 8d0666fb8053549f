// One source, several instruction-set levels.
//
// A file levels/<name>.cpp is compiled once per level with ATTENDRITE_LEVEL set to the level's name
// and puts everything into that namespace, behind one table of plain functions:
//
//     // <name>_table.hpp                          // levels/<name>.cpp
//     struct NameTable { void (*run)(...); };      namespace attendrite::ATTENDRITE_LEVEL {
//     ATTENDRITE_DECLARE_TABLE(NameTable,          namespace { void run(...) {...} }
//                              name_table)         const NameTable name_table = {run};
//                                                  }
//     // <name>.cpp, compiled once
//     ATTENDRITE_TABLE_IN_USE(name_table).run(...);
//
// The rule that keeps an old CPU safe: the linker keeps *one* copy of an inline function or
// template that several objects define, and it may keep the AVX-512 one. So a file of levels/ (and
// what it includes) defines no external inline function and uses no template of the standard
// library: it includes <cstdint>, <cstddef>, <cstring>, <immintrin.h> and headers of plain structs,
// and keeps its own code in anonymous namespaces. tests/cpp checks the objects for such symbols.
#pragma once

#include "cpu.hpp"

#define ATTENDRITE_DECLARE_TABLE(Table, name) \
    namespace portable {                      \
    extern const Table name;                  \
    }                                         \
    namespace v3 {                            \
    extern const Table name;                  \
    }                                         \
    namespace v4 {                            \
    extern const Table name;                  \
    }                                         \
    namespace v4_bf16 {                       \
    extern const Table name;                  \
    }

// For files that are compiled once (never in levels/): the table of the level in use.
#if defined(ATTENDRITE_X86_LEVELS)
#define ATTENDRITE_TABLE_IN_USE(name) \
    ::attendrite::at_level(portable::name, v3::name, v4::name, v4_bf16::name)
#else
#define ATTENDRITE_TABLE_IN_USE(name) (portable::name)
#endif

namespace attendrite {

template <class Table>
const Table& at_level(const Table& portable, const Table& v3, const Table& v4,
                      const Table& v4_bf16) {
    const Table* const tables[] = {&portable, &v3, &v4, &v4_bf16};
    return *tables[static_cast<int>(cpu_level())];
}

}  // namespace attendrite
