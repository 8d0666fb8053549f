#include "bundle.hpp"

#include <filesystem>
#include <fstream>
#include <limits>

#include "foreign.hpp"
#include "safetensors.hpp"

namespace attendrite {
namespace {

using Bytes = std::vector<unsigned char>;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kWeights = "weights.safetensors";
constexpr std::int64_t kFormat = 1;
constexpr std::uint64_t kLongestManifest = std::uint64_t{1} << 28;  // bytes

// What a run needs; the facts about training and source may be long and stay unread.
const std::set<std::string> kWanted = {"format", "family",   "name", "config",
                                       "units",  "sessions", "tasks"};
const std::set<std::string> kTaskKinds = {"continuous", "binary", "multinomial", "multilabel"};

const Json& part(const Json& table, const char* name, Json::value_t kind, const char* be) {
    const auto found = table.find(name);
    if (found == table.end() || found->type() != kind) {
        throw must(in_quotes(name) + " of " + kManifest, be,
                   found == table.end() ? "none" : found->type_name());
    }
    return *found;
}

// The integer from `least` on, or a refusal.
std::int64_t integer(const Json& value, std::int64_t least, const std::string& what) {
    constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
    const bool fits = value.is_number_integer() &&
                      !(value.is_number_unsigned() &&
                        value.get<std::uint64_t>() > static_cast<std::uint64_t>(kMost)) &&
                      value.get<std::int64_t>() >= least;
    if (!fits) {
        throw must(what, "be an integer of at least " + std::to_string(least),
                   value.is_number() ? plain(value.dump()) : value.type_name());
    }
    return value.get<std::int64_t>();
}

std::map<std::string, std::int64_t, std::less<>> vocabulary(const Json& table, const char* name) {
    std::map<std::string, std::int64_t, std::less<>> out;
    std::set<std::int64_t> rows;
    for (const auto& [id, row] : table.items()) {
        out[id] = integer(row, 1, "row of " + in_quotes(id) + " in the " + name + " vocabulary");
        if (!rows.insert(out[id]).second) {
            throw must(std::string(name) + " vocabulary", "have distinct rows", "a row twice");
        }
    }
    return out;
}

TaskFact task_of(const Json& row) {
    const bool whole = row.is_object() && row.size() == 4 && row.contains("name") &&
                       row["name"].is_string() && row.contains("kind") && row["kind"].is_string() &&
                       row.contains("id") && row.contains("dim");
    if (!whole) {
        throw must(std::string("a task of ") + kManifest, "have name, id, dim and kind",
                   row.is_object() ? "others" : row.type_name());
    }
    TaskFact task{row["name"], 0, 0, row["kind"]};
    if (task.name.empty() || plain(task.name) != task.name) {
        throw must("name of a task", "be printable text", in_quotes(task.name));
    }
    if (kTaskKinds.count(task.kind) == 0) {
        throw must("kind of task " + in_quotes(task.name),
                   "be continuous, binary, multinomial or multilabel", in_quotes(task.kind));
    }
    task.id = integer(row["id"], 1, "id of task " + in_quotes(task.name));
    task.width = integer(row["dim"], 1, "dim of task " + in_quotes(task.name));
    return task;
}

std::vector<TaskFact> tasks_of(const Json& list) {
    std::vector<TaskFact> tasks;
    std::set<std::string> names;
    std::set<std::int64_t> ids;
    for (const Json& row : list) {
        const TaskFact& task = tasks.emplace_back(task_of(row));
        if (!names.insert(task.name).second || !ids.insert(task.id).second) {
            throw must("tasks", "have distinct names and ids", in_quotes(task.name) + " again");
        }
    }
    return tasks;
}

// Everything of the manifest; no weights.
Bundle facts_of(std::string_view text) {
    const Json table = parse_object(
        kManifest, text, [](const std::string& name) { return kWanted.count(name) != 0; });
    const auto found = table.find("format");
    if (found == table.end()) throw must(kManifest, "be an object with 'format'", "none");
    const auto format = integer(*found, 1, std::string("format of ") + kManifest);
    if (format > kFormat) {
        throw must(std::string("format of ") + kManifest, "be at most " + std::to_string(kFormat),
                   std::to_string(format), "upgrade attendrite");
    }
    constexpr auto kText = Json::value_t::string, kObject = Json::value_t::object;
    Bundle bundle;
    bundle.family = part(table, "family", kText, "be a string");
    bundle.name = part(table, "name", kText, "be a string");
    for (const auto& [name, value] : part(table, "config", kObject, "be an object").items()) {
        if (value.is_number()) bundle.config[name] = value.get<double>();
    }
    bundle.units = vocabulary(part(table, "units", kObject, "be an object"), "units");
    bundle.sessions = vocabulary(part(table, "sessions", kObject, "be an object"), "sessions");
    bundle.tasks = tasks_of(part(table, "tasks", Json::value_t::array, "be a list"));
    return bundle;
}

void check_finite(const std::string& name, const Tensor& tensor) {
    std::int64_t place = first_not_finite(tensor);
    if (place < 0) return;
    std::string index;
    for (auto length = tensor.shape.rbegin(); length != tensor.shape.rend(); ++length) {
        index = std::to_string(place % *length) + (index.empty() ? "" : ", ") + index;
        place /= *length;
    }
    throw must("weights " + in_quotes(name), "be finite", "NaN or infinity at [" + index + "]",
               "train again");
}

Bundle bundle_of(std::string_view manifest, const std::shared_ptr<const Bytes>& weights) {
    Bundle bundle = facts_of(manifest);
    bundle.weights = read_safetensors(weights->data(), weights->size());
    for (const auto& [name, tensor] : bundle.weights) check_finite(name, tensor);
    bundle.memory = weights;
    return bundle;
}

Bytes read_file(const std::filesystem::path& folder, const char* name, std::uint64_t longest) {
    const std::filesystem::path path = folder / name;
    std::error_code none;
    if (!std::filesystem::is_regular_file(path, none)) {
        throw must("bundle " + in_quotes(folder.u8string()), std::string("hold ") + name, "none");
    }
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const auto size = static_cast<std::int64_t>(file.tellg());
    if (file && static_cast<std::uint64_t>(size) > longest) {
        throw must(name, "have at most " + std::to_string(longest) + " bytes",
                   std::to_string(size));
    }
    Bytes bytes(file ? static_cast<std::size_t>(size) : 0);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!file) {
        throw must(in_quotes(path.u8string()), "be readable", "an error",
                   "check its permissions and its disk");
    }
    return bytes;
}

}  // namespace

Bundle read_bundle(const std::string& folder) {
    const auto path = std::filesystem::u8path(folder);
    std::error_code none;
    if (!std::filesystem::is_directory(path, none)) {
        throw must("bundle " + in_quotes(folder), "be a folder",
                   std::filesystem::exists(path, none) ? "a file" : "nothing there",
                   "make one: attendrite export");
    }
    constexpr auto kAny = std::numeric_limits<std::uint64_t>::max();
    const Bytes manifest = read_file(path, kManifest, kLongestManifest);
    const auto weights = std::make_shared<const Bytes>(read_file(path, kWeights, kAny));
    return bundle_of({reinterpret_cast<const char*>(manifest.data()), manifest.size()}, weights);
}

Bundle parse_bundle(std::string_view manifest, const void* weights, std::size_t n) {
    if (manifest.size() > kLongestManifest) {
        throw must(kManifest, "have at most " + std::to_string(kLongestManifest) + " bytes",
                   std::to_string(manifest.size()));
    }
    const auto* const bytes = static_cast<const unsigned char*>(weights);
    return bundle_of(manifest, std::make_shared<const Bytes>(bytes, bytes + n));
}

}  // namespace attendrite
