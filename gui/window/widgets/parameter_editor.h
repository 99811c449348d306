// The widget in which one parameter is set: a number box, a choice, a switch or a line of text, by its description.
#pragma once

#include <QWidget>
#include <functional>
#include <string>

#include "core/base/parameter.h"

namespace kvreplay::gui {

// changed: called with the text of each value that the user sets. Its object name is the parameter's key.
QWidget* make_parameter_editor(const Parameter& parameter, const std::string& value, QWidget* parent,
                               const std::function<void(const std::string&)>& changed);

}  // namespace kvreplay::gui
