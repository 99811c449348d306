// A small trace in memory, and waiting for what another thread makes.
#pragma once

#include <QCoreApplication>
#include <QElapsedTimer>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "core/trace/synthetic.h"
#include "gui/model/document.h"

namespace kvreplay::gui {

inline SyntheticParameters example_parameters() {
  SyntheticParameters parameters;
  parameters.layers = 3;
  parameters.query_heads = 4;
  parameters.kv_heads = 2;
  parameters.head_dim = 16;
  parameters.prompt = 200;
  parameters.decode = 12;
  parameters.seed = 7;
  return parameters;
}

inline std::shared_ptr<const Document> example_document() {
  return std::make_shared<const Document>(make_synthetic(example_parameters()));
}

// Of another model: fewer layers, heads, tokens and steps. What is read of one trace in the ranges of the other shows.
inline std::shared_ptr<const Document> smaller_document() {
  SyntheticParameters parameters = example_parameters();
  parameters.layers = 2;
  parameters.query_heads = 2;
  parameters.kv_heads = 1;
  parameters.prompt = 120;
  parameters.decode = 5;
  return std::make_shared<const Document>(make_synthetic(parameters));
}

// Runs the event loop until it holds; false after `seconds`.
inline bool wait_until(const std::function<bool()>& holds, int seconds = 30) {
  QElapsedTimer timer;
  timer.start();
  while (!holds()) {
    if (timer.elapsed() > seconds * 1000) return false;
    QCoreApplication::processEvents(QEventLoop::AllEvents, 20);
  }
  return true;
}

// A folder of its own that goes when the test ends.
struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-gui-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

}  // namespace kvreplay::gui
