#include "gui/window/panel.h"

#include <QEvent>
#include <QLabel>
#include <QStackedLayout>
#include <QTimer>

#include "gui/window/theme.h"

namespace kvreplay::gui {

// NAME_panel() of every line of panels.def.
#define KVREPLAY_PANEL(name) const PanelDescription& name##_panel();
#include "gui/window/panels.def"
#undef KVREPLAY_PANEL

const std::vector<const PanelDescription*>& panel_registry() {
  static const std::vector<const PanelDescription*> panels = {
#define KVREPLAY_PANEL(name) &name##_panel(),
#include "gui/window/panels.def"
#undef KVREPLAY_PANEL
  };
  return panels;
}

Panel::Panel(Store& store, const PanelDescription& description) : store_(store), description_(description) {
  setObjectName(QString::fromStdString(description.name));
  layers_ = new QStackedLayout(this);
  message_ = new QLabel(this);
  message_->setObjectName("message");
  message_->setWordWrap(true);
  message_->setAlignment(Qt::AlignCenter);
  message_->setTextFormat(Qt::RichText);
  message_->setMargin(16);
  layers_->addWidget(message_);
  missed_ = ~Changes();
  connect(&store_, &Store::changed, this, &Panel::collect);
}

Panel::~Panel() = default;

figure::Table Panel::table() const {
  const auto shown = figure();
  return shown != nullptr ? shown->data() : figure::Table{};
}

const figure::Style& Panel::style_now() const { return current_style(); }

void Panel::set_content(QWidget* content) {
  content_ = content;
  layers_->addWidget(content);
  layers_->setCurrentWidget(content);
}

void Panel::show_message(const QString& what, const QString& remedy) {
  QString text = "<p>" + what.toHtmlEscaped() + "</p>";
  if (!remedy.isEmpty()) text += "<p style='color:" + style_now().muted.name() + "'>" + remedy.toHtmlEscaped() + "</p>";
  message_->setText(text);
  layers_->setCurrentWidget(message_);
}

void Panel::show_content() { layers_->setCurrentWidget(content_); }

std::shared_ptr<const Document> Panel::document_or_message() {
  if (auto document = store_.document()) {
    show_content();
    return document;
  }
  for (const FileEntry& file : store_.state().files)
    if (const std::string problem = store_.file_problem(file.id); !problem.empty()) {
      show_message(QString::fromStdString(problem), "Open another trace, or read this one again from the Runs panel.");
      return nullptr;
    }
  if (store_.state().files.empty())
    show_message("No trace is open.", "Open one with Ctrl+O, or drop the file onto this window.");
  else
    show_message("Opening " + QString::fromStdString(store_.state().files.front().path) + " …");
  return nullptr;
}

std::shared_ptr<const Run> Panel::run_or_message(Side side) {
  if (document_or_message() == nullptr) return nullptr;
  const QString name = side == Side::a ? "A" : "B";
  const RunSpec* spec = store_.spec(side);
  if (spec == nullptr) {
    show_message("No run " + name + " is chosen.", "Choose one in the Runs panel, or make one with Controls.");
    return nullptr;
  }
  if (store_.document(spec->trace) == nullptr) {
    const std::string problem = store_.file_problem(spec->trace);
    show_message(problem.empty() ? "Opening the trace of run " + name + " …" : QString::fromStdString(problem));
    return nullptr;
  }
  if (store_.is_of_another_trace(side)) {
    show_message("Run " + name + " is of another trace.",
                 "Choose a run of the trace on screen in the Runs panel: the trace is that of run A.");
    return nullptr;
  }
  auto run = store_.run(side);
  if (run != nullptr && !run->problem.empty()) {
    show_message(QString::fromStdString(run->problem));
    return nullptr;
  }
  if (run == nullptr || run->layer(selection().layer) == nullptr) {
    show_message("Evaluating run " + name + " …");
    return nullptr;
  }
  show_content();
  return run;
}

std::string Panel::setting(const std::string& name, const std::string& otherwise) const {
  return store_.view(description_.name, name, otherwise);
}

void Panel::set_setting(const std::string& name, const std::string& value) {
  store_.set_view(description_.name, name, value);
}

// A dock behind another one's tab counts as visible; only that nothing of it is seen tells. The window refreshes it when its
// tab is chosen.
bool Panel::on_screen() const { return isVisible() && !visibleRegion().isEmpty(); }

// Several changes in one turn of the event loop are one refresh.
void Panel::collect(Changes what) {
  missed_ |= what;
  schedule();
}

void Panel::schedule() {
  if (!missed_ || scheduled_ || !on_screen()) return;
  scheduled_ = true;
  QTimer::singleShot(0, this, [this] {
    scheduled_ = false;
    if (on_screen()) refresh_now();
  });
}

void Panel::refresh_now() {
  if (!missed_) return;
  const Changes what = std::exchange(missed_, Changes());
  refresh(what);
}

// Coming into sight tells itself by no event of its own: by a size, a place or something to draw.
bool Panel::event(QEvent* event) {
  const bool handled = QWidget::event(event);
  if (event->type() == QEvent::Resize || event->type() == QEvent::Move || event->type() == QEvent::Paint) schedule();
  return handled;
}

void Panel::showEvent(QShowEvent* event) {
  QWidget::showEvent(event);
  refresh_now();
}

QString token_text(const Document& document, std::int64_t position) {
  QString text = QString::fromStdString(document.token_label(position));
  return text.replace(' ', QChar(0x00b7));
}

}  // namespace kvreplay::gui
