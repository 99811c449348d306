#include "gui/model/layer_desk.h"

namespace kvreplay::gui {
namespace {

// Above this, window attention is made again for every question.
constexpr std::int64_t most_kept_bytes = std::int64_t{192} << 20;

struct Holder final : QObject {
  explicit Holder(QObject* parent) : QObject(parent) { setObjectName("workshop"); }
  Workshop workshop;
};

}  // namespace

LayerWorkspace& LayerDesk::workspace(const std::shared_ptr<const Document>& document, int layer) {
  if (workspace_ != nullptr && document_ == document && layer_ == layer) return *workspace_;
  workspace_.reset();
  if (backend_ == nullptr) backend_ = make_cpu_backend();
  document_ = document;
  layer_ = layer;
  workspace_ = std::make_unique<LayerWorkspace>(document->trace(), document->layer_number(layer), *backend_);
  return *workspace_;
}

void LayerDesk::tidy() {
  if (workspace_ == nullptr) return;
  const std::int64_t usual_window = 32;
  const std::int64_t bytes = usual_window * workspace_->model().num_query_heads * workspace_->candidates() *
                             static_cast<std::int64_t>(sizeof(float));
  if (bytes > most_kept_bytes) workspace_->forget_shared();
}

Workshop& workshop_of(Store& store) {
  auto* holder = static_cast<Holder*>(store.findChild<QObject*>("workshop", Qt::FindDirectChildrenOnly));
  if (holder == nullptr) holder = new Holder(&store);
  return holder->workshop;
}

}  // namespace kvreplay::gui
