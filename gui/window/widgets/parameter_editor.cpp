#include "gui/window/widgets/parameter_editor.h"

#include <QCheckBox>
#include <QComboBox>
#include <QDoubleSpinBox>
#include <QLineEdit>
#include <QSpinBox>
#include <cmath>

#include "core/base/text.h"

namespace kvreplay::gui {
namespace {

constexpr double largest = 1e9;

// Numbers without trailing zeros, as policy strings have them.
class RealBox final : public QDoubleSpinBox {
 public:
  using QDoubleSpinBox::QDoubleSpinBox;
  QString textFromValue(double value) const override { return QString::fromStdString(format_number(value)); }
};

QWidget* integer_editor(const Parameter& parameter, const std::string& value, QWidget* parent,
                        const std::function<void(const std::string&)>& changed) {
  auto* box = new QSpinBox(parent);
  box->setRange(static_cast<int>(std::max(parameter.minimum, -largest)),
                static_cast<int>(std::min(parameter.maximum, largest)));
  box->setValue(QString::fromStdString(value).toInt());
  box->setKeyboardTracking(false);
  QObject::connect(box, &QSpinBox::valueChanged, parent, [changed](int number) { changed(std::to_string(number)); });
  return box;
}

QWidget* real_editor(const Parameter& parameter, const std::string& value, QWidget* parent,
                     const std::function<void(const std::string&)>& changed) {
  auto* box = new RealBox(parent);
  box->setDecimals(6);
  box->setRange(std::max(parameter.minimum, -largest), std::min(parameter.maximum, largest));
  box->setStepType(QAbstractSpinBox::AdaptiveDecimalStepType);
  box->setValue(QString::fromStdString(value).toDouble());
  box->setKeyboardTracking(false);
  QObject::connect(box, &QDoubleSpinBox::valueChanged, parent, [changed](double number) { changed(format_number(number)); });
  return box;
}

QWidget* choice_editor(const Parameter& parameter, const std::string& value, QWidget* parent,
                       const std::function<void(const std::string&)>& changed) {
  auto* box = new QComboBox(parent);
  for (const std::string& choice : parameter.choices) box->addItem(QString::fromStdString(choice));
  box->setCurrentText(QString::fromStdString(value));
  QObject::connect(box, &QComboBox::currentTextChanged, parent,
                   [changed](const QString& text) { changed(text.toStdString()); });
  return box;
}

QWidget* switch_editor(const std::string& value, QWidget* parent, const std::function<void(const std::string&)>& changed) {
  auto* box = new QCheckBox(parent);
  box->setChecked(value == "true");
  QObject::connect(box, &QCheckBox::toggled, parent, [changed](bool on) { changed(on ? "true" : "false"); });
  return box;
}

QWidget* text_editor(const std::string& value, QWidget* parent, const std::function<void(const std::string&)>& changed) {
  auto* line = new QLineEdit(QString::fromStdString(value), parent);
  QObject::connect(line, &QLineEdit::editingFinished, parent, [line, changed] { changed(line->text().toStdString()); });
  return line;
}

}  // namespace

QWidget* make_parameter_editor(const Parameter& parameter, const std::string& value, QWidget* parent,
                               const std::function<void(const std::string&)>& changed) {
  QWidget* editor = nullptr;
  // A number's text that is no number ("auto") is edited as text.
  bool number = false;
  QString::fromStdString(value).toDouble(&number);
  switch (parameter.type) {
    case ParameterType::integer:
      editor = number ? integer_editor(parameter, value, parent, changed) : text_editor(value, parent, changed);
      break;
    case ParameterType::real:
      editor = number ? real_editor(parameter, value, parent, changed) : text_editor(value, parent, changed);
      break;
    case ParameterType::boolean: editor = switch_editor(value, parent, changed); break;
    case ParameterType::choice: editor = choice_editor(parameter, value, parent, changed); break;
    case ParameterType::text: editor = text_editor(value, parent, changed); break;
  }
  editor->setObjectName(QString::fromStdString(parameter.key));
  const std::string allowed = parameter.allowed();
  editor->setToolTip(QString::fromStdString(parameter.doc + (allowed.empty() ? "" : " (" + allowed + ")")));
  return editor;
}

}  // namespace kvreplay::gui
