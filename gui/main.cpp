// kvreplay-gui: which tokens are evicted, why, and what that does to the output, in a window.
#include <QApplication>
#include <cstdio>
#include <cstring>

#include "core/backend/registry.h"
#include "core/base/version.h"
#include "gui/window/main_window.h"
#include "gui/window/theme.h"
#if KVREPLAY_WITH_CUDA
#include "gpu/cuda.h"
#endif

namespace {

constexpr const char* help =
    "usage: kvreplay-gui [TRACE.h5] [RESULTS.h5] [SESSION.json] [--backend auto|cpu|cuda[:n]]\n"
    "\n"
    "Shows which tokens of a trace an eviction policy throws away, why, and what that does to every layer's output.\n"
    "Without a file the bundled trace opens. Files can be dropped onto the window; ? lists the keys, Ctrl+K the commands.\n"
    "\n"
    "  --backend B    what computes (default: every GPU that is there, else the CPU)\n"
    "  --version      the version\n"
    "  --help         this text\n";

struct Options {
  QStringList files;
  std::string backend = "auto";
};

// Options that need no window start none. Returns the exit code, or -1 to go on.
int read_options(int count, char** arguments, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      std::fputs(help, stdout);
      return 0;
    }
    if (argument == "--version") {
      std::printf("%s\n", kvreplay::program_version());
      return 0;
    }
    if (argument == "--backend" && i + 1 < count) {
      options.backend = arguments[++i];
    } else if (argument.rfind("--", 0) == 0) {
      std::fprintf(stderr, "kvreplay-gui: unknown option \"%s\"; `kvreplay-gui --help` lists them\n", argument.c_str());
      return 2;
    } else {
      options.files << QString::fromLocal8Bit(arguments[i]);
    }
  }
  return -1;
}

}  // namespace

int main(int count, char** arguments) {
  Options options;
  if (const int code = read_options(count, arguments, options); code >= 0) return code;
#if KVREPLAY_WITH_CUDA
  kvreplay::register_cuda_backend();
#endif
  QApplication application(count, arguments);
  QApplication::setOrganizationName("kvreplay");
  QApplication::setApplicationName("kvreplay-gui");
  QApplication::setApplicationDisplayName("kvreplay");
  kvreplay::gui::MainWindow window([choice = options.backend] { return kvreplay::make_backend(choice); });
  for (const QString& file : options.files) window.open(file);
  window.show();
  return QApplication::exec();
}
