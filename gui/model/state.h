// What the window shows and what of it is saved: plain data, written to session files as versioned JSON.
//
// Everything here is small: which files are open, what is run on them, what is selected. Tensors and results are found again
// from it (gui/model/document.h, gui/model/run.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kvreplay::gui {

// An opened file. Its identity is core's: a hash of the contents (core/trace/identity.h), compared when a session is opened.
struct FileEntry {
  enum class Kind : std::uint8_t { trace, results };
  int id = 0;  // never reused within a session
  Kind kind = Kind::trace;
  std::string path;
  std::string identity;  // empty until the file was read
  bool operator==(const FileEntry&) const = default;
};

// What is to be shown as one run: a policy replayed live, or a run of a results file.
struct RunSpec {
  enum class Source : std::uint8_t { live, results };
  int id = 0;  // never reused within a session
  Source source = Source::live;
  int trace = -1;      // FileEntry::id of the trace
  std::string policy;  // live: "snapkv:window=16"
  std::string budget;  // live: "256", "10%", "2MiB"
  int results = -1;    // results: FileEntry::id of the results file
  int index = 0;       // results: number of the run in it
  bool operator==(const RunSpec&) const = default;
};

// Positions [begin, end).
struct TokenRange {
  std::int64_t begin = 0, end = 0;
  bool contains(std::int64_t position) const { return position >= begin && position < end; }
  bool operator==(const TokenRange&) const = default;
};

struct Selection {
  int run_a = -1, run_b = -1;      // RunSpec::id; -1: none
  int step = 0;                    // 0: when the prompt ended; s: after decode step s
  int layer = 0;                   // place among the trace's captured layers, from 0 (Document::layer_number names it)
  std::vector<int> heads;          // query heads, ascending; empty: all
  std::vector<TokenRange> tokens;  // ascending, apart from each other; empty: none
  bool operator==(const Selection&) const = default;
};

// What the mouse is over, -1 where it is over nothing. Not saved, no part of the history.
struct Focus {
  int token = -1, head = -1, layer = -1, step = -1;
  bool operator==(const Focus&) const = default;
};

// The visible stretch of an axis, in its own units.
struct Interval {
  double low = 0, high = 0;
  bool operator==(const Interval&) const = default;
};

struct AppState {
  std::vector<FileEntry> files;
  std::vector<RunSpec> runs;
  Selection selection;
  Focus focus;
  // By axis. Panels that use the same name move together: "tokens" is the axis of positions that they share, others begin
  // with the panel's name ("time_line.error"). No entry: all of it is visible.
  std::map<std::string, Interval> zoom;
  // By panel, then by setting: {"eviction_map": {"rows": "heads"}}.
  std::map<std::string, std::map<std::string, std::string>> views;
  int next_id = 1;

  const FileEntry* file(int id) const;
  const RunSpec* run(int id) const;
};

inline constexpr int session_version = 1;

// A session file: JSON of what is saved. `focus` is left out.
std::string session_json(const AppState& state);

// Throws Error, with `where` as its place, that names the key for text that is no JSON, a version that this program does not
// know, a value of another type or out of range, and for runs of files that are not listed. Keys that it does not know are
// ignored, so that a newer program's session opens as far as it is understood.
AppState parse_session(const std::string& text, const std::string& where);

}  // namespace kvreplay::gui
