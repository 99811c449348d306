#include "gui/model/bundled_trace.h"

#include <unistd.h>
#include <QCoreApplication>
#include <QStandardPaths>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/model/capture.h"
#include "core/model/engine.h"
#include "core/model/tokenizer.h"

namespace kvreplay::gui {
namespace {

namespace fs = std::filesystem;

constexpr const char* model_name = "models/reader-8m";
constexpr const char* prompt_name = "prompts/needle-1k";
constexpr std::int64_t generated = 64;

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path.string(), "cannot be read", "install kvreplay with its data, or set KVREPLAY_DATA");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<TextSpan> spans_of(const fs::path& path) {
  const auto json = nlohmann::json::parse(content_of(path), nullptr, false);
  std::vector<TextSpan> spans;
  if (!json.is_array()) throw Error(path.string(), "is not a list of spans");
  for (const auto& span : json) spans.push_back({span.value("start", 0), span.value("end", 0), span.value("label", "")});
  return spans;
}

}  // namespace

std::string data_folder() {
  const fs::path program = QCoreApplication::applicationDirPath().toStdString();
  std::vector<fs::path> places;
  if (const char* given = std::getenv("KVREPLAY_DATA"); given != nullptr && *given != '\0') places.emplace_back(given);
  places.push_back(program / "../share/kvreplay");
  places.emplace_back(KVREPLAY_DATA_FOLDER);
  for (const fs::path& place : places)
    if (fs::exists(place / model_name / "config.json")) return place.lexically_normal().string();
  throw Error("the bundled model", "is not beside this program",
              "install kvreplay with its data, set KVREPLAY_DATA, or open a trace");
}

std::string bundled_trace_path() {
  const fs::path cache = QStandardPaths::writableLocation(QStandardPaths::GenericCacheLocation).toStdString();
  return (cache / "kvreplay" / "needle-1k.h5").string();
}

void make_bundled_trace(const std::string& data, const std::string& path, Job& job) {
  if (fs::exists(path)) return;
  const fs::path folder(data);
  fs::create_directories(fs::path(path).parent_path());
  const std::string directory = (folder / model_name).string();
  const Engine engine = Engine::load(directory);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(directory);
  CaptureRequest request;
  request.ids = tokenizer->encode(content_of(folder / (std::string(prompt_name) + ".txt")), tokenizer->adds_bos());
  request.prompt_length = static_cast<std::int64_t>(request.ids.size());
  request.generate = generated;
  request.stop_ids = engine.config().end_of_text_ids;
  request.spans = spans_of(folder / (std::string(prompt_name) + ".spans.json"));
  request.command = "kvreplay-gui";
  // Under a name of its own: another window may be making it, too.
  const std::string made = path + "." + std::to_string(getpid());
  try {
    capture(engine, tokenizer.get(), request, made, false, nullptr, job);
    fs::rename(made, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(made + ".partial", ignored);
    fs::remove(made, ignored);
    throw;
  }
}

}  // namespace kvreplay::gui
