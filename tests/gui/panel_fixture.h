// A store with a small trace and two complete runs, and one panel on it: no session, no threads but the panel's own.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "gui/model/run_task_internal.h"
#include "gui/model/store.h"
#include "gui/window/panel.h"
#include "tests/gui/example.h"

namespace kvreplay::gui {

inline std::shared_ptr<const Run> evaluated(const std::shared_ptr<const Document>& document, const RunSpec& spec) {
  const auto backend = make_cpu_backend();
  const auto task = make_live_task({spec, document, nullptr, true},
                                   std::make_shared<LiveReplay>(document->trace(), *backend, LiveOptions{}));
  while (const auto piece = task->next({0, 0})) task->work(*piece);
  return task->snapshot();
}

struct TwoRuns {
  explicit TwoRuns(const std::string& policy_a = "snapkv", const std::string& policy_b = "restkv",
                   std::shared_ptr<const Document> the_document = example_document())
      : document(std::move(the_document)) {
    const int file = store.add_file(FileEntry::Kind::trace, "/nowhere/example.h5");
    store.put_document(file, document);
    Selection selection = store.selection();
    for (int* chosen : {&selection.run_a, &selection.run_b}) {
      RunSpec spec;
      spec.trace = file;
      spec.policy = chosen == &selection.run_a ? policy_a : policy_b;
      spec.budget = "30%";
      spec.id = *chosen = store.add_run(spec);
      store.put_run(spec.id, evaluated(document, spec));
    }
    store.set_selection(selection);
  }

  // A second trace with fewer of everything, and the id of a complete run on it.
  int open_smaller(const std::string& policy = "snapkv:window=8") {
    RunSpec spec;
    spec.trace = store.add_file(FileEntry::Kind::trace, "/nowhere/smaller.h5");
    spec.policy = policy;
    spec.budget = "30%";
    const auto smaller = smaller_document();
    store.put_document(spec.trace, smaller);
    spec.id = store.add_run(spec);
    store.put_run(spec.id, evaluated(smaller, spec));
    return spec.id;
  }

  // The panel of this name, on screen.
  void open(const std::string& name) {
    for (const PanelDescription* each : panel_registry())
      if (each->name == name) panel.reset(each->make(store));
    ASSERT_NE(panel, nullptr);
    panel->resize(700, 500);
    panel->show();
    QCoreApplication::processEvents();
  }
  template <class Widget>
  Widget* find(const char* name) {
    auto* widget = panel->findChild<Widget*>(name);
    EXPECT_NE(widget, nullptr) << name;
    return widget;
  }

  std::shared_ptr<const Document> document;
  Store store;
  std::unique_ptr<Panel> panel;
};

}  // namespace kvreplay::gui
