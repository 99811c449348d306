// One of a few named values: a combo box that speaks in the values' names, not in places of a list.
#pragma once

#include <QComboBox>
#include <string>
#include <vector>

namespace kvreplay::gui {

class Choice final : public QComboBox {
  Q_OBJECT

 public:
  struct Option {
    std::string value;
    QString label;
    QString tip = {};
  };

  // what: for who cannot see the box ("What a row is").
  Choice(const QString& object_name, const QString& what, const std::vector<Option>& options, QWidget* parent);

  std::string value() const;
  // Without a signal. A value that is not there leaves it as it is.
  void show_value(const std::string& value);
  void set_options(const std::vector<Option>& options);  // keeps the value where it is still there
  // Grey and not to be chosen, with the reason as its tip; empty: to be chosen again.
  void set_unavailable(const std::string& value, const QString& why);

 signals:
  void chosen(const std::string& value);  // by the user
};

}  // namespace kvreplay::gui
