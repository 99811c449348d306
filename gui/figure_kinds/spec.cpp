// Specifications of figures as files and as commands.
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "gui/figure_kinds/kind.h"

namespace kvreplay::figure {
namespace {

using nlohmann::json;

constexpr const char* marker = "kvreplay_figure";  // the key that says what the file is; its value is the version
constexpr int version = 1;
constexpr double smallest_width = 120, largest_width = 8000;

std::string width_text(double width) {
  if (width == column_width) return "column";
  if (width == page_width) return "page";
  return format_number(width);
}

// Text, number and truth as text; a list with ";" between.
std::string option_text(const std::string& where, const std::string& key, const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
  if (value.is_number()) return format_number(value.get<double>());
  if (!value.is_array() || value.empty())
    throw Error(where, "\"" + key + "\" is neither text, number, true, false nor a list of them");
  std::vector<std::string> parts;
  for (const auto& one : value) parts.push_back(option_text(where, key, one));
  return join(parts, ";");
}

void only_keys(const std::string& where, const json& object, const std::string& what, const std::vector<std::string>& keys) {
  if (!object.is_object()) throw Error(where, what + " is no JSON object");
  for (const auto& [key, value] : object.items())
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      throw Error(where, what + " has no key \"" + printable(key) + "\"", "it takes " + join(keys, ", ", " and "));
}

template <class Value>
Value get(const std::string& where, const json& object, const std::string& key, Value otherwise) {
  if (!object.contains(key)) return otherwise;
  try {
    return object.at(key).get<Value>();
  } catch (const json::exception&) {
    throw Error(where, "\"" + key + "\" is of another type than it should be", "`kvreplay figure --list` has an example");
  }
}

Output read_output(const std::string& where, const json& object) {
  only_keys(where, object, "\"output\"", {"width", "height", "medium", "dark", "heading", "pixel_ratio"});
  Output output;
  if (object.contains("width")) output.width = parse_figure_width(option_text(where, "width", object.at("width")));
  output.height = get<double>(where, object, "height", 0);
  const auto medium = get<std::string>(where, object, "medium", "screen");
  if (medium != "screen" && medium != "print") throw Error(where, "\"medium\" is \"screen\" or \"print\"");
  output.medium = medium == "print" ? Medium::print : Medium::screen;
  output.dark = get<bool>(where, object, "dark", false);
  output.heading = get<bool>(where, object, "heading", true);
  output.pixel_ratio = get<int>(where, object, "pixel_ratio", 2);
  return output;
}

std::string quoted(const std::string& text) {
  if (!text.empty() && text.find_first_of(" \t\n'\"\\$`*?;&|<>()[]{}#~!") == std::string::npos) return text;
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

double parse_figure_width(const std::string& text) {
  if (text == "column") return column_width;
  if (text == "page") return page_width;
  double width = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), width);
  if (error != std::errc{} || end != text.data() + text.size() || !(width >= smallest_width && width <= largest_width))
    throw Error("width", "\"" + printable(text) + "\" is not a width",
                "it takes column (3.25 inches), page (6.75 inches) or CSS pixels from 120 to 8000");
  return width;
}

FigureSpec FigureSpec::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) throw Error(path, "cannot be read", "check that the file is there");
  const json parsed = json::parse(text.str(), nullptr, false);
  if (parsed.is_discarded()) throw Error(path, "is not JSON", "`kvreplay figure KIND FILES --write-spec FILE` writes one");
  only_keys(path, parsed, "the specification", {marker, "kind", "files", "options", "output"});
  if (get<int>(path, parsed, marker, version) > version)
    throw Error(path, "is from a newer program", "this one reads version " + std::to_string(version));
  FigureSpec spec;
  spec.kind = get<std::string>(path, parsed, "kind", "");
  if (spec.kind.empty()) throw Error(path, "names no kind", "`kvreplay figure --list` lists them");
  const auto folder = std::filesystem::path(path).parent_path();
  for (const auto& name : get<std::vector<std::string>>(path, parsed, "files", {}))
    spec.files.push_back((folder / name).lexically_normal().string());
  const json options = parsed.value("options", json::object());
  if (!options.is_object()) throw Error(path, "\"options\" is no JSON object");
  for (const auto& [key, value] : options.items()) spec.options[key] = option_text(path, key, value);
  if (parsed.contains("output")) spec.output = read_output(path, parsed.at("output"));
  return spec;
}

std::string FigureSpec::to_json(const std::string& folder) const {
  nlohmann::ordered_json out = {{marker, version}, {"kind", kind}, {"files", nlohmann::ordered_json::array()}};
  const std::filesystem::path base = folder.empty() ? std::filesystem::path(".") : std::filesystem::path(folder);
  for (const auto& file : files) out["files"].push_back(std::filesystem::proximate(file, base).string());
  out["options"] = nlohmann::ordered_json::object();
  for (const auto& [key, value] : options) {
    const auto parts = split(value, ';');
    out["options"][key] = parts.size() > 1 ? nlohmann::ordered_json(parts) : nlohmann::ordered_json(value);
  }
  out["output"] = {{"width", width_text(output.width)},
                   {"medium", output.medium == Medium::print ? "print" : "screen"},
                   {"dark", output.dark},
                   {"heading", output.heading}};
  if (output.height > 0) out["output"]["height"] = output.height;
  if (output.pixel_ratio != Output{}.pixel_ratio) out["output"]["pixel_ratio"] = output.pixel_ratio;
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string FigureSpec::command() const {
  std::string line = "kvreplay figure " + kind;
  for (const auto& file : files) line += " " + quoted(file);
  for (const auto& [key, value] : options)
    for (const auto& part : split(value, ';')) line += " --" + key + " " + quoted(part);
  return line;
}

}  // namespace kvreplay::figure
