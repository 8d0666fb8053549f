// What the readers of foreign bytes share: JSON within limits, and errors of one printable line.
// Included by those readers alone, since the JSON library takes long to compile.
#pragma once

#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace attendrite {

using Json = nlohmann::json;

constexpr int kDeepest = 100;  // of objects and lists in each other
constexpr const char* kRemake = "export the checkpoint again";

// Valid UTF-8 as one printable line: names in foreign files may hold line ends and terminal codes.
inline std::string plain(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const std::string_view rest = text.substr(i);
        const bool c1 = byte == 0xC2 && rest.size() > 1 && (rest[1] & 0xE0) == 0x80;
        const bool separator = rest.substr(0, 2) == "\xE2\x80" && rest.size() > 2 &&
                               (rest[2] == '\xA8' || rest[2] == '\xA9');  // U+2028, U+2029
        if (byte >= 0x20 && byte != 0x7F && !c1 && !separator) {
            out += text[i];
            continue;
        }
        for (const char c : rest.substr(0, separator ? 3 : c1 ? 2 : 1)) {
            char code[5];
            std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(c));
            out += code;
        }
        i += separator ? 2 : c1 ? 1 : 0;
    }
    return out;
}

inline std::string in_quotes(std::string_view name) { return "'" + plain(name) + "'"; }

// "<what> must <be>, got <got>; <what to do>"
inline std::invalid_argument must(const std::string& what, const std::string& be,
                                  const std::string& got, const std::string& todo = kRemake) {
    return std::invalid_argument(what + " must " + be + ", got " + got + "; " + todo);
}

// Reads an object; of its members only those that `wanted` names are kept. Every key occurs once,
// all text is UTF-8, and numbers are finite.
inline Json parse_object(const std::string& what, std::string_view text,
                         const std::function<bool(const std::string&)>& wanted) {
    std::vector<std::set<std::string>> seen;  // keys of the objects that are open, by depth
    const auto keep = [&](int depth, Json::parse_event_t event, Json& parsed) {
        const auto level = static_cast<std::size_t>(depth);
        if (event == Json::parse_event_t::object_start ||
            event == Json::parse_event_t::array_start) {
            if (depth >= kDeepest) {
                throw must(what, "nest at most " + std::to_string(kDeepest) + " deep", "more");
            }
            seen.resize(level);
            seen.resize(level + 1);
        }
        if (event != Json::parse_event_t::key) return true;
        const auto& name = parsed.get_ref<const std::string&>();
        if (!seen[level - 1].insert(name).second) {
            throw must(what, "have every key once", in_quotes(name) + " twice");
        }
        return depth > 1 || wanted(name);
    };
    Json table;
    try {
        table = Json::parse(text.begin(), text.end(), keep);
    } catch (const Json::parse_error& error) {
        throw must(what, "be JSON", "a fault at byte " + std::to_string(error.byte));
    } catch (const Json::out_of_range&) {
        throw must(what, "have finite numbers", "one that is too large");
    }
    if (!table.is_object()) throw must(what, "be an object", table.type_name());
    return table;
}

}  // namespace attendrite
