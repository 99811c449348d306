// Does the state come back as it was saved, and is what cannot be read refused with its place?
#include "gui/model/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace kvreplay::gui {
namespace {

using testing::HasSubstr;

AppState example() {
  AppState state;
  state.files = {{1, FileEntry::Kind::trace, "/data/t.h5", "abc"}, {2, FileEntry::Kind::results, "/data/r.h5", ""}};
  state.runs = {{3, RunSpec::Source::live, 1, "snapkv:window=16", "10%", -1, 0},
                {4, RunSpec::Source::results, 1, "", "", 2, 5}};
  state.selection = {3, 4, 7, 2, {0, 5}, {{10, 12}, {40, 41}}};
  state.focus = {1, 2, 3, 4};
  state.zoom = {{"tokens", {100.5, 220}}};
  state.views = {{"eviction_map", {{"rows", "heads"}}}};
  state.next_id = 9;
  return state;
}

std::string refusal(const std::string& text) {
  try {
    parse_session(text, "s.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(StateComesBack, ButForTheFocus) {
  const AppState state = example(), read = parse_session(session_json(state), "s.json");
  EXPECT_EQ(read.files, state.files);
  EXPECT_EQ(read.runs, state.runs);
  EXPECT_EQ(read.selection, state.selection);
  EXPECT_EQ(read.zoom, state.zoom);
  EXPECT_EQ(read.views, state.views);
  EXPECT_EQ(read.next_id, 9);
  EXPECT_EQ(read.focus, Focus());
}

TEST(StateComesBack, AsTheSameBytes) {
  const std::string text = session_json(example());
  EXPECT_EQ(session_json(parse_session(text, "s.json")), text);
}

TEST(SessionsAreRefused, WithThePlaceOfTheMistake) {
  EXPECT_THAT(refusal("not json"), HasSubstr("s.json: is not JSON"));
  EXPECT_THAT(refusal("[]"), HasSubstr("the session must be an object"));
  EXPECT_THAT(refusal("{}"), HasSubstr("is no session"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 99})"), HasSubstr("version 99"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "files": 3})"), HasSubstr("/files must be a list"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "files": [{"id": "x"}]})"),
              HasSubstr("/files/0/id must be a whole number"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "files": [{"id": 1, "kind": "song"}]})"),
              HasSubstr("/files/0/kind must be one of"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "runs": [{"id": 1, "trace": 7}]})"), HasSubstr("there is no file 7"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "selection": {"heads": [-1]}})"), HasSubstr("/selection/heads/0"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "zoom": {"tokens": [1]}})"), HasSubstr("/zoom/tokens must be [low, high]"));
  EXPECT_THAT(refusal(R"({"kvreplay_session": 1, "files": [{"id": 1}, {"id": 1}]})"), HasSubstr("no id stands twice"));
}

TEST(SessionsOfNewerPrograms, OpenAsFarAsTheyAreUnderstood) {
  const AppState state =
      parse_session(R"({"kvreplay_session": 1, "colour": "teal", "files": [{"id": 4, "path": "a", "new": []}]})", "s.json");
  ASSERT_EQ(state.files.size(), 1U);
  EXPECT_EQ(state.files[0].path, "a");
  EXPECT_GT(state.next_id, 4);
}

}  // namespace
}  // namespace kvreplay::gui
