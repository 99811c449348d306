// One layer of a trace with a backend of its own, kept from question to question: what explanations and worths are computed
// with beside the evaluator. Of one thread: the store's Background, which all panels share, so that a layer is loaded once.
#pragma once

#include <memory>

#include "core/policy/layer_workspace.h"
#include "gui/model/background.h"
#include "gui/model/document.h"
#include "gui/model/store.h"

namespace kvreplay::gui {

class LayerDesk {
 public:
  // Of a layer by its place in the trace. The workspace of the last call ends with the next for another layer.
  LayerWorkspace& workspace(const std::shared_ptr<const Document>& document, int layer);
  // Lets go of what the workspace computed where that is large: attention of a window of queries to a long text.
  void tidy();

 private:
  std::shared_ptr<const Document> document_;
  int layer_ = -1;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LayerWorkspace> workspace_;
};

// What the panels of one store share, made when it is first asked for.
struct Workshop {
  Background background;  // destroyed last: it refers to the desk
  std::shared_ptr<LayerDesk> desk = std::make_shared<LayerDesk>();
};
Workshop& workshop_of(Store& store);

}  // namespace kvreplay::gui
