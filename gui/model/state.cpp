#include "gui/model/state.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"

namespace kvreplay::gui {
namespace {

using Json = nlohmann::json;

// Reads one object's keys; every complaint names the key by its path ("/runs/0/trace").
class Reader {
 public:
  Reader(const Json& json, std::string where, std::string path)
      : json_(json), where_(std::move(where)), path_(std::move(path)) {
    if (!json.is_object()) fail("", "an object");
  }

  std::int64_t integer(const char* key, std::int64_t otherwise, std::int64_t low, std::int64_t high) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number_integer()) fail(key, "a whole number");
    const auto number = value->get<std::int64_t>();
    if (number < low || number > high)
      fail(key, "a whole number in [" + std::to_string(low) + ", " + std::to_string(high) + "]");
    return number;
  }
  int small(const char* key, int otherwise, int low) const {
    return static_cast<int>(integer(key, otherwise, low, std::numeric_limits<int>::max()));
  }
  double number(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr || !value->is_number()) fail(key, "a number");
    return value->get<double>();
  }
  std::string text(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_string()) fail(key, "a text");
    return value->get<std::string>();
  }
  // One of the names, the first where the key is absent.
  std::size_t choice(const char* key, const std::vector<std::string>& names) const {
    const std::string given = text(key);
    if (given.empty() && find(key) == nullptr) return 0;
    const auto found = std::find(names.begin(), names.end(), given);
    if (found == names.end()) fail(key, "one of " + names.front() + " and " + names.back());
    return static_cast<std::size_t>(found - names.begin());
  }
  template <class Use>
  void each(const char* key, const Use& use) const {
    const Json* list = find(key);
    if (list == nullptr) return;
    if (!list->is_array()) fail(key, "a list");
    for (std::size_t i = 0; i < list->size(); ++i) use((*list)[i], path_ + "/" + key + "/" + std::to_string(i));
  }
  template <class Use>
  void each_member(const char* key, const Use& use) const {
    const Json* object = find(key);
    if (object == nullptr) return;
    if (!object->is_object()) fail(key, "an object");
    for (const auto& [name, value] : object->items()) use(name, value, path_ + "/" + key + "/" + name);
  }
  // Null where the key is absent.
  const Json* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }
  Reader sub(const Json& json, const std::string& path) const { return {json, where_, path}; }
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    const std::string path = path_ + (key.empty() ? "" : "/" + key);
    throw Error(where_, (path.empty() ? "the session" : path) + " must be " + expected,
                "open another file, or mend this one");
  }

 private:
  const Json& json_;
  std::string where_, path_;
};

const std::vector<std::string> file_kinds = {"trace", "results"};
const std::vector<std::string> run_sources = {"live", "results"};

Selection read_selection(const Reader& reader) {
  Selection selection;
  selection.run_a = reader.small("run_a", -1, -1);
  selection.run_b = reader.small("run_b", -1, -1);
  selection.step = reader.small("step", 0, 0);
  selection.layer = reader.small("layer", 0, 0);
  reader.each("heads", [&](const Json& head, const std::string& path) {
    if (!head.is_number_integer() || head.get<std::int64_t>() < 0 || head.get<std::int64_t>() > 1 << 20)
      reader.sub(Json::object(), path).fail("", "a query head's number");
    selection.heads.push_back(head.get<int>());
  });
  reader.each("tokens", [&](const Json& range, const std::string& path) {
    if (!range.is_array() || range.size() != 2 || !range[0].is_number_integer() || !range[1].is_number_integer())
      reader.sub(Json::object(), path).fail("", "[first position, one past the last]");
    selection.tokens.push_back({range[0].get<std::int64_t>(), range[1].get<std::int64_t>()});
  });
  return selection;
}

void check_references(const AppState& state, const Reader& reader) {
  std::set<int> ids;
  for (const auto& file : state.files)
    if (!ids.insert(file.id).second) reader.fail("files", "a list in which no id stands twice");
  for (const auto& run : state.runs) {
    if (!ids.insert(run.id).second) reader.fail("runs", "a list in which no id stands twice");
    const int needed = run.source == RunSpec::Source::live ? run.trace : run.results;
    if (state.file(needed) == nullptr)
      reader.fail("runs", "runs of files that are listed (there is no file " + std::to_string(needed) + ")");
  }
}

}  // namespace

const FileEntry* AppState::file(int id) const {
  const auto found = std::find_if(files.begin(), files.end(), [id](const auto& entry) { return entry.id == id; });
  return found == files.end() ? nullptr : &*found;
}

const RunSpec* AppState::run(int id) const {
  const auto found = std::find_if(runs.begin(), runs.end(), [id](const auto& entry) { return entry.id == id; });
  return found == runs.end() ? nullptr : &*found;
}

std::string session_json(const AppState& state) {
  nlohmann::ordered_json json;
  json["kvreplay_session"] = session_version;
  json["files"] = nlohmann::ordered_json::array();
  for (const auto& file : state.files)
    json["files"].push_back({{"id", file.id},
                             {"kind", file_kinds[static_cast<std::size_t>(file.kind)]},
                             {"path", file.path},
                             {"identity", file.identity}});
  json["runs"] = nlohmann::ordered_json::array();
  for (const auto& run : state.runs) {
    nlohmann::ordered_json entry = {
        {"id", run.id}, {"source", run_sources[static_cast<std::size_t>(run.source)]}, {"trace", run.trace}};
    if (run.source == RunSpec::Source::live) {
      entry["policy"] = run.policy;
      entry["budget"] = run.budget;
    } else {
      entry["results"] = run.results;
      entry["index"] = run.index;
    }
    json["runs"].push_back(std::move(entry));
  }
  const Selection& selection = state.selection;
  json["selection"] = {{"run_a", selection.run_a}, {"run_b", selection.run_b}, {"step", selection.step},
                       {"layer", selection.layer}, {"heads", selection.heads}, {"tokens", nlohmann::ordered_json::array()}};
  for (const auto& range : selection.tokens)
    json["selection"]["tokens"].push_back(nlohmann::ordered_json::array({range.begin, range.end}));
  json["zoom"] = nlohmann::ordered_json::object();
  for (const auto& [axis, visible] : state.zoom)
    json["zoom"][axis] = nlohmann::ordered_json::array({visible.low, visible.high});
  json["views"] = state.views;
  json["next_id"] = state.next_id;
  // Paths are bytes; what is not UTF-8 in them is replaced rather than an error.
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

AppState parse_session(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw Error(where, "is not JSON", "a session is what this program saved");
  const Reader reader(json, where, "");
  if (reader.find("kvreplay_session") == nullptr)
    throw Error(where, "is no session of this program", "it lacks the key kvreplay_session");
  const auto version = reader.integer("kvreplay_session", 0, 1, std::numeric_limits<int>::max());
  if (version > session_version)
    throw Error(where,
                "is a session of version " + std::to_string(version) + "; this program reads version " +
                    std::to_string(session_version),
                "use a newer program");
  AppState state;
  int largest = 0;
  reader.each("files", [&](const Json& entry, const std::string& path) {
    const Reader file = reader.sub(entry, path);
    state.files.push_back({file.small("id", 0, 0), static_cast<FileEntry::Kind>(file.choice("kind", file_kinds)),
                           file.text("path"), file.text("identity")});
    largest = std::max(largest, state.files.back().id);
  });
  reader.each("runs", [&](const Json& entry, const std::string& path) {
    const Reader run = reader.sub(entry, path);
    state.runs.push_back({run.small("id", 0, 0), static_cast<RunSpec::Source>(run.choice("source", run_sources)),
                          run.small("trace", -1, -1), run.text("policy"), run.text("budget"), run.small("results", -1, -1),
                          run.small("index", 0, 0)});
    largest = std::max(largest, state.runs.back().id);
  });
  if (const Json* selection = reader.find("selection"); selection != nullptr)
    state.selection = read_selection(reader.sub(*selection, "/selection"));
  reader.each_member("zoom", [&](const std::string& axis, const Json& visible, const std::string& path) {
    if (!visible.is_array() || visible.size() != 2 || !visible[0].is_number() || !visible[1].is_number())
      reader.sub(Json::object(), path).fail("", "[low, high]");
    state.zoom[axis] = {visible[0].get<double>(), visible[1].get<double>()};
  });
  reader.each_member("views", [&](const std::string& panel, const Json& settings, const std::string& path) {
    if (!settings.is_object()) reader.sub(Json::object(), path).fail("", "an object");
    for (const auto& [setting, value] : settings.items()) {
      if (!value.is_string()) reader.sub(Json::object(), path + "/" + setting).fail("", "a text");
      state.views[panel][setting] = value.get<std::string>();
    }
  });
  check_references(state, reader);
  state.next_id = std::max(largest + 1, reader.small("next_id", 1, 1));
  return state;
}

}  // namespace kvreplay::gui
