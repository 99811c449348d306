// GoogleTest inside a Qt application without a display.
#include <gtest/gtest.h>

#include <QApplication>
#include <QStandardPaths>

int main(int count, char** arguments) {
  if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication application(count, arguments);
  // Settings of their own, nowhere near the user's.
  QApplication::setOrganizationName("kvreplay-tests");
  QApplication::setApplicationName("kvreplay-gui-tests");
  QStandardPaths::setTestModeEnabled(true);
  testing::InitGoogleTest(&count, arguments);
  return RUN_ALL_TESTS();
}
