// kvreplay-gui: which tokens are evicted, why, and what that does to the output, in a window.
#include <QApplication>
#include <cstdio>

#include "core/backend/registry.h"
#include "core/base/error.h"
#include "core/base/version.h"
#include "gui/window/main_window.h"
#include "gui/window/screenshots.h"
#include "gui/window/tour.h"
#if KVREPLAY_WITH_CUDA
#include "gpu/cuda.h"
#endif

namespace {

using kvreplay::gui::MainWindow;

constexpr const char* help =
    "usage: kvreplay-gui [TRACE.h5] [RESULTS.h5] [SESSION.json] [options]\n"
    "\n"
    "Shows which tokens of a trace an eviction policy throws away, why, and what that does to every layer's output.\n"
    "Without a file the bundled trace opens. Files can be dropped onto the window; ? lists the keys, Ctrl+K the commands.\n"
    "\n"
    "  --backend B          auto, cpu, cuda or cuda:n: what computes (default: every GPU that is there, else the CPU)\n"
    "  --screenshots DIR    write pictures of the window and its panels, light and dark, and end\n"
    "  --version            the version\n"
    "  --help               this text\n";

struct Options {
  QStringList files;
  QString screenshots;
  std::string backend = "auto";
};

// Options that need no window start none. Returns the exit code, or -1 to go on.
int read_options(int count, char** arguments, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const bool has_value = i + 1 < count;
    if (argument == "--help" || argument == "-h") {
      std::fputs(help, stdout);
      return 0;
    }
    if (argument == "--version") {
      std::printf("%s\n", kvreplay::program_version());
      return 0;
    }
    if (argument == "--backend" && has_value) {
      options.backend = arguments[++i];
    } else if (argument == "--screenshots" && has_value) {
      options.screenshots = QString::fromLocal8Bit(arguments[++i]);
    } else if (argument.rfind("--", 0) == 0) {
      std::fprintf(stderr,
                   "kvreplay-gui: unknown option \"%s\", or its value is missing; `kvreplay-gui --help` lists them\n",
                   argument.c_str());
      return 2;
    } else {
      options.files << QString::fromLocal8Bit(arguments[i]);
    }
  }
  return -1;
}

int run(const Options& options) {
  // One that cannot be had is said before there is a window.
  const auto backend = std::make_shared<std::unique_ptr<kvreplay::Backend>>(kvreplay::make_backend(options.backend));
  MainWindow window([backend] { return std::move(*backend); });
  for (const QString& file : options.files) window.open(file);
  if (options.files.isEmpty()) window.session().open_bundled();
  window.show();
  if (!options.screenshots.isEmpty()) {
    window.resize(1600, 1000);
    QApplication::processEvents();
    window.reset_layout();
    kvreplay::gui::write_screenshots(window, options.screenshots);
    return 0;
  }
  kvreplay::gui::Tour::run_at_first_start(window);
  return QApplication::exec();
}

}  // namespace

int main(int count, char** arguments) {
  Options options;
  if (const int code = read_options(count, arguments, options); code >= 0) return code;
#if KVREPLAY_WITH_CUDA
  kvreplay::register_cuda_backend();
#endif
  const QApplication application(count, arguments);
  QApplication::setOrganizationName("kvreplay");
  QApplication::setApplicationName("kvreplay-gui");
  QApplication::setApplicationDisplayName("kvreplay");
  try {
    return run(options);
  } catch (const kvreplay::Error& error) {
    std::fprintf(stderr, "kvreplay-gui: %s\n", error.what());
    return error.exit_code();
  }
}
