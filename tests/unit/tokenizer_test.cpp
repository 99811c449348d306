// Do tokenizers read what their files say, refuse what they cannot, and lose nothing of a text?
#include "core/model/tokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "core/base/error.h"
#include "core/base/utf8.h"
#include "core/model/unicode_normalization.h"
#include "tests/unit/small_tokenizers.h"

namespace kvreplay {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

std::unique_ptr<Tokenizer> tokenizer_of(const json& file) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", file.dump());
  return Tokenizer::load(directory.path());
}

std::string pieces_joined(const Tokenizer& tokenizer, const Ids& ids) {
  std::string text;
  for (const std::int32_t id : ids) text += tokenizer.token_bytes(id);
  return text;
}

// Letters of many scripts, white space, digits, control characters and emoji, in runs.
std::string random_text(std::mt19937_64& random, int runs) {
  static const std::vector<std::u32string> alphabets = {U"abcdefghij ABC'",           U"0123456789½²٣",
                                                        U" \n\r\t\u00a0\u3000\u180e", U"éèüßαβдежשלם",
                                                        U"我想在日本語한국",          U"😀🦙🚀👩‍👧🏳️",
                                                        U"\x01\x07\x1b\x7f",          U".,;:!?()<|>▁Ġ"};
  std::string text;
  for (int run = 0; run < runs; ++run) {
    const auto& alphabet = alphabets[random() % alphabets.size()];
    for (std::uint64_t i = random() % 12; i > 0; --i) append_code_point(text, alphabet[random() % alphabet.size()]);
  }
  return text;
}

const std::vector<std::string> some_merges = {"Ġ t", "h e", "Ġt he", "a a", "aa aa", "Ġ Ġ", "l l", "2 0"};

TEST(ByteLevelTokenizer, MergesTheLowestRankFirstWithinPieces) {
  const auto tokenizer = tokenizer_of(byte_level_json(some_merges, {"<|end|>"}));
  EXPECT_EQ(tokenizer->encode("the the", false), (Ids{'t', 257, 258}));
  EXPECT_EQ(tokenizer->encode("aaaaaaa", false), (Ids{260, 259, 'a'}));
  EXPECT_EQ(tokenizer->encode("a  t", false), (Ids{'a', ' ', 256})) << "the last of two spaces belongs to the word";
  EXPECT_EQ(tokenizer->encode("a20 20", false), (Ids{'a', 263, ' ', 263}));
  EXPECT_EQ(tokenizer->vocabulary_size(), 265);
}

TEST(ByteLevelTokenizer, CutsDigitsAndAddsAPrefixSpaceWhereTheFileSaysSo) {
  json file = byte_level_json(some_merges, {});
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Digits"}, {"individual_digits", true}},
                             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}}}};
  EXPECT_EQ(tokenizer_of(file)->encode("a20", false), (Ids{'a', '2', '0'}));
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  EXPECT_EQ(tokenizer_of(file)->encode("the", false), (Ids{258}));
}

TEST(ByteLevelTokenizer, SplitsByExpressionWithEveryBehavior) {
  const auto pieces = [](const char* behavior, bool invert) {
    json file = byte_level_json(some_merges, {});
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", "a+"}}}, {"behavior", behavior}, {"invert", invert}},
          {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}}}}};
    const auto tokenizer = tokenizer_of(file);
    return pieces_joined(*tokenizer, tokenizer->encode("xaay-a", false));  // a space before each piece shows the cuts
  };
  EXPECT_EQ(pieces("Isolated", false), " x aa y- a");
  EXPECT_EQ(pieces("Removed", false), " x y-");
  EXPECT_EQ(pieces("Removed", true), " aa a");
  EXPECT_EQ(pieces("MergedWithPrevious", false), " xaa y-a");
  EXPECT_EQ(pieces("MergedWithNext", false), " x aay- a");
  EXPECT_EQ(pieces("Contiguous", false), " x aa y- a");
}

// PCRE2's own \s would take U+180E, and a class inside a class has a ] that ends nothing.
TEST(ByteLevelTokenizer, ReadsWhiteSpaceAsUnicodeDoes) {
  json file = byte_level_json({}, {});
  for (const char* expression : {"\\S+", "[^\\s]+", "[^[:digit:]\\s]+"}) {
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Removed"}, {"invert", true}},
          {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}}}}};
    const auto tokenizer = tokenizer_of(file);
    EXPECT_EQ(pieces_joined(*tokenizer, tokenizer->encode("a\u180Eb\u3000c \u0085d", false)), " a\u180Eb c d") << expression;
  }
}

TEST(ByteLevelTokenizer, TakesWholePiecesWhenMergesAreIgnored) {
  json file = byte_level_json({"b c", "a bc"}, {"<|end|>"});
  file["model"]["vocab"]["xyz"] = 300;
  EXPECT_EQ(tokenizer_of(file)->encode("xyz", false), (Ids{'x', 'y', 'z'}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokenizer_of(file)->encode("xyz", false), (Ids{300}));
  file["pre_tokenizer"]["use_regex"] = false;
  EXPECT_EQ(tokenizer_of(file)->encode("<|end|>", false).size(), 7U) << "a special token must not come out of text";
}

TEST(ByteLevelTokenizer, LosesNothingOfRandomTexts) {
  const auto tokenizer = tokenizer_of(byte_level_json(some_merges, {"<|end|>"}));
  constexpr std::uint64_t seed = 20240611;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 300; ++i) {
    const std::string text = random_text(random, 8);
    const Ids ids = tokenizer->encode(text, false);
    ASSERT_EQ(tokenizer->decode(ids), text);
    ASSERT_EQ(pieces_joined(*tokenizer, ids), text);
  }
}

TEST(ByteLevelTokenizer, ReadsBytesThatAreNoTextAsReplacementCharacters) {
  const auto tokenizer = tokenizer_of(byte_level_json(some_merges, {}));
  constexpr std::uint64_t seed = 7;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 500; ++i) {
    std::string bytes = random_text(random, 2);
    for (int k = 0; k < 5; ++k) bytes.insert(random() % (bytes.size() + 1), 1, static_cast<char>(random() % 256));
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(bytes, false)), valid_utf8(bytes));
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xE2\x82z\xFF\xC3", false)), "a\uFFFDz\uFFFD\uFFFD");
}

TEST(ByteLevelTokenizer, ParsesSpecialTokensOnlyWhenAsked) {
  const auto tokenizer = tokenizer_of(byte_level_json(some_merges, {"<|end|>", "<|end|>more"}));
  EXPECT_EQ(tokenizer->encode("a<|end|>", false).size(), 8U);
  EXPECT_EQ(tokenizer->encode("a<|end|>b", false, SpecialTokens::parsed), (Ids{'a', 264, 'b'}));
  EXPECT_EQ(tokenizer->encode("<|end|>more", false, SpecialTokens::parsed), (Ids{265})) << "the longest name counts";
  EXPECT_EQ(tokenizer->decode(Ids{'a', 264, 'b'}), "ab");
  EXPECT_EQ(tokenizer->token_bytes(264), "<|end|>");
  EXPECT_TRUE(tokenizer->is_special(264));
  EXPECT_FALSE(tokenizer->is_special('a'));
  EXPECT_EQ(tokenizer->token_id("<|end|>"), 264);
  EXPECT_EQ(tokenizer->token_id("<|start|>"), std::nullopt);
  EXPECT_THROW(tokenizer->decode(Ids{266}), Error);
}

TEST(ByteLevelTokenizer, GivesAddedTokensTheSpaceBesideThem) {
  json file = byte_level_json({}, {});
  file["added_tokens"] = {
      {{"id", 256}, {"content", "[x]"}, {"special", false}, {"normalized", false}, {"lstrip", true}},
      {{"id", 257}, {"content", "[y]"}, {"special", false}, {"normalized", false}, {"rstrip", true}},
      {{"id", 258}, {"content", "zz"}, {"special", false}, {"normalized", false}, {"single_word", true}}};
  const auto tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer->encode("a \t[x] b", false), (Ids{'a', 256, ' ', 'b'}));
  EXPECT_EQ(tokenizer->encode("a [y] \u3000b", false), (Ids{'a', ' ', 257, 'b'}));
  EXPECT_EQ(tokenizer->encode("zz zzz", false), (Ids{258, ' ', 'z', 'z', 'z'}));
}

TEST(CharacterTokenizer, FallsBackToBytesAndMarksSpaces) {
  const auto tokenizer = tokenizer_of(character_json({"▁", "a", "b"}, {"▁ a", "a b"}));
  const Ids ids = tokenizer->encode("ab aé", false);
  EXPECT_EQ(ids, (Ids{262, 261, 262, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(pieces_joined(*tokenizer, ids), " ab a\u00E9");
  EXPECT_EQ(tokenizer->decode(ids), "ab aé");
  EXPECT_EQ(tokenizer->token_bytes(3 + 0x0A), "\n");
  EXPECT_EQ(tokenizer->encode("", false), Ids{});
}

TEST(CharacterTokenizer, FusesUnknownCharactersWithoutByteTokens) {
  const auto tokenizer = tokenizer_of(character_json({"▁", "a"}, {}, false));
  EXPECT_EQ(tokenizer->encode("axya", false), (Ids{259, 260, 0, 260}));
}

TEST(CharacterTokenizer, MarksTheFirstPieceOnlyWhereMetaspaceSaysFirst) {
  json file = character_json({"▁", "a", "b"}, {"▁ a"});
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}};
  const auto tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer->encode("a a", false), (Ids{262, 262}));
  EXPECT_EQ(tokenizer->encode("a</s>a", false, SpecialTokens::parsed), (Ids{262, 2, 260}));
  EXPECT_EQ(tokenizer->decode(Ids{262, 262}), "a a");
}

TEST(TokenizerMerges, AreThoseOfAPlainSearchWhateverTheLength) {
  constexpr std::uint64_t seed = 99;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    MergeTable table;
    std::vector<std::array<std::int32_t, 2>> pairs;
    std::int32_t next = 6;
    for (int i = 0; i < 40; ++i) {
      const auto left = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(next));
      const auto right = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(next));
      if (table.find(left, right).id >= 0) continue;
      table.add(left, right, {static_cast<std::uint32_t>(i), next++});
    }
    Ids symbols(1 + random() % 120);
    for (auto& symbol : symbols) symbol = static_cast<std::int32_t>(random() % 6);
    Ids expected = symbols;
    for (;;) {
      std::size_t best = expected.size();
      for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
        const auto merge = table.find(expected[i], expected[i + 1]);
        if (merge.id >= 0 && (best == expected.size() || merge.rank < table.find(expected[best], expected[best + 1]).rank))
          best = i;
      }
      if (best == expected.size()) break;
      expected[best] = table.find(expected[best], expected[best + 1]).id;
      expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    table.apply(symbols);
    ASSERT_EQ(symbols, expected);
  }
}

// A quadratic merge loop would take hours on these; the test's own time limit is what fails then.
TEST(TokenizerMerges, AreFastOnLongTextsWithoutSpaces) {
  const auto tokenizer = tokenizer_of(byte_level_json(some_merges, {}));
  EXPECT_EQ(tokenizer->encode(std::string(1 << 20, 'a'), false).size(), (1U << 20) / 4);
  EXPECT_EQ(tokenizer->encode(std::string(1 << 20, ' '), false).size(), (1U << 20) / 2);
}

TEST(TokenizerSettingsFiles, GiveTheTokensThatBeginAndEnd) {
  const TemporaryDirectory directory;
  const json file = byte_level_json({}, {"<s>", "</s>", "<end>"});
  directory.write("tokenizer.json", file.dump());
  EXPECT_EQ(Tokenizer::load(directory.path())->bos(), std::nullopt);

  directory.write("config.json", R"({"bos_token_id": 256, "eos_token_id": 257, "model_type": "llama"})");
  auto tokenizer = Tokenizer::load(directory.path());
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), Ids{257});
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->encode("a", true), (Ids{256, 'a'}));
  EXPECT_EQ(tokenizer->encode("a", false), (Ids{'a'}));

  directory.write("generation_config.json", R"({"eos_token_id": [257, 258]})");
  EXPECT_EQ(Tokenizer::load(directory.path())->eos(), (Ids{257, 258}));

  directory.write("tokenizer_config.json", R"({"bos_token": null, "eos_token": {"content": "<end>"}})");
  tokenizer = Tokenizer::load(directory.path());
  EXPECT_EQ(tokenizer->bos(), std::nullopt);
  EXPECT_FALSE(tokenizer->adds_bos());

  directory.write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": false})");
  tokenizer = Tokenizer::load(directory.path());
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_FALSE(tokenizer->adds_bos());
}

TEST(TokenizerSettingsFiles, LeaveBosToThePostProcessor) {
  json file = byte_level_json({}, {"<s>"});
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {256}}, {"tokens", {"<s>"}}}}}}};
  const auto tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_TRUE(tokenizer->adds_bos());
}

TEST(TokenizerFiles, VocabularyWithMergesAndRankListsGiveTheSame) {
  const TemporaryDirectory directory;
  directory.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4})");
  directory.write("merges.txt", "#version: 0.2\na b\n");
  const auto merges = Tokenizer::load(directory.path());
  EXPECT_EQ(merges->encode("ab ab<|endoftext|>", false, SpecialTokens::parsed), (Ids{2, 3, 2, 4}));

  const std::string ranks = directory.write("tokenizer.model", "YQ== 0\nYg== 1\nYWI= 2\nIA== 3\n");
  const auto listed = Tokenizer::load(ranks);
  EXPECT_EQ(listed->encode("ab ab", false), (Ids{2, 3, 2}));
  EXPECT_EQ(listed->token_id("<|begin_of_text|>"), 4);
  EXPECT_EQ(listed->token_id("<|eot_id|>"), 4 + 9);
  EXPECT_EQ(listed->bos(), 4);
  EXPECT_EQ(listed->vocabulary_size(), 4 + 256);
}

TEST(TokenizerFiles, DifferentFilesHaveDifferentHashes) {
  const auto one = tokenizer_of(byte_level_json({}, {})), other = tokenizer_of(byte_level_json({"a b"}, {}));
  EXPECT_EQ(one->sha256().size(), 64U);
  EXPECT_NE(one->sha256(), other->sha256());
  EXPECT_NE(one->description().find("256 tokens"), std::string::npos) << one->description();
}

// What is wrong with a file, and words that the message must have.
struct BadFile {
  std::string name, contents;
  std::vector<std::string> words;
};
void PrintTo(const BadFile& bad, std::ostream* out) {
  *out << bad.name << " that must name " << testing::PrintToString(bad.words);
}

class TokenizerErrors : public testing::TestWithParam<BadFile> {};

TEST_P(TokenizerErrors, NameTheFileAndTheEntry) {
  const TemporaryDirectory directory;
  directory.write(GetParam().name, GetParam().contents);
  if (GetParam().name == "merges.txt") directory.write("vocab.json", R"({"a": 0, "b": 1})");
  try {
    Tokenizer::load(directory.path());
    FAIL() << "the file was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(GetParam().name), std::string::npos) << message;
    for (const std::string& word : GetParam().words) EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

std::string changed(const std::function<void(json&)>& change) {
  json file = byte_level_json({"a b"}, {"<s>"});
  change(file);
  return file.dump();
}

INSTANTIATE_TEST_SUITE_P(
    OfDamagedFiles, TokenizerErrors,
    testing::Values(
        BadFile{"tokenizer.json", "{\"model\": {\"type\": \"BP", {"JSON"}}, BadFile{"tokenizer.json", "[]", {"object"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["type"] = "Unigram"; }), {"model", "Unigram", "BPE"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["merges"][0] = "a ?x"; }), {"model.merges[0]", "?x"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["merges"][0] = "ab"; }), {"model.merges[0]"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["merges"] = 3; }), {"merges"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["vocab"]["zz"] = 'a'; }), {"model.vocab", "zz"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["vocab"]["zz"] = -1; }), {"model.vocab", "zz", "-1"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["vocab"]["zz"] = 1LL << 40; }), {"model.vocab", "zz"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["vocab"]["zz"] = "x"; }), {"model.vocab", "zz"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["model"]["unk_token"] = "<none>"; }), {"unk_token", "<none>"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["added_tokens"][0].erase("id"); }), {"added_tokens[0]"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["added_tokens"][0]["id"] = -5; }), {"added_tokens[0]", "-5"}},
        BadFile{"tokenizer.json", changed([](json& f) { f["pre_tokenizer"]["type"] = "Bert"; }), {"pre_tokenizer", "Bert"}},
        BadFile{"tokenizer.json",
                changed([](json& f) {
                  f["normalizer"] = {{"type", "Lowercase"}};
                }),
                {"normalizer", "Lowercase", "NFC"}},
        BadFile{"tokenizer.json",
                changed([](json& f) {
                  f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
                }),
                {"pre_tokenizer", "regular expression"}},
        BadFile{"merges.txt", "a c\n", {"merges.txt", "\"c\""}}, BadFile{"tokenizer.model", "no model", {"SentencePiece"}},
        BadFile{"tokenizer.model", "YQ== 0\nYg== x\n", {"line 2"}},
        BadFile{"tokenizer.model", "YQ== 0\n!!! 1\n", {"line 2", "base64"}}));

// Whatever a file says, it is read or refused. (The library's own errors are the only ones that may come out.)
TEST(TokenizerDamage, IsReadOrRefused) {
  constexpr std::uint64_t seed = 4711;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<std::string> originals = {byte_level_json(some_merges, {"<s>", "</s>"}).dump(),
                                              character_json({"▁", "a", "b"}, {"▁ a", "a b"}).dump(),
                                              "YQ== 0\nYg== 1\nYWI= 2\nIA== 3\nYmI= 4\n"};
  constexpr std::string_view marks = "0123456789-[]{}\",:\\eEnu<>";
  int read = 0, refused = 0;
  for (int round = 0; round < 500; ++round) {
    const std::size_t which = random() % originals.size();
    std::string damaged = originals[which];
    for (std::uint64_t k = random() % 2; k < 2; ++k) {
      // Half of the damage is done behind the long vocabulary, where the pipeline is described.
      const std::size_t from = random() % 2 == 0 && damaged.size() > 2000 ? damaged.size() - 1200 : 0;
      const std::size_t at = from + random() % (damaged.size() - from);
      switch (random() % 4) {
        case 0: damaged[at] = static_cast<char>(random()); break;
        case 1: damaged.erase(at, random() % 12); break;
        case 2: damaged.insert(at, 1, marks[random() % marks.size()]); break;
        default: damaged[at] = marks[random() % marks.size()];
      }
    }
    const TemporaryDirectory directory;
    const std::string path = directory.write(which == 2 ? "tokenizer.model" : "tokenizer.json", damaged);
    try {
      const auto tokenizer = Tokenizer::load(path);
      tokenizer->decode(tokenizer->encode("a ab\n\xFFé😀<s>", true, SpecialTokens::parsed));
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(read, 20);
  EXPECT_GT(refused, 20);
}

TEST(TokenizerErrorsOfFolders, SayWhatIsMissing) {
  const TemporaryDirectory directory;
  EXPECT_THROW(Tokenizer::load(directory.path()), Error);
  EXPECT_THROW(Tokenizer::load(directory.path() + "/none"), Error);
}

TEST(UnicodeNormalizationC, GivesThePublishedForms) {
  EXPECT_EQ(normalize_nfc("plain"), "plain");
  EXPECT_EQ(normalize_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(normalize_nfc("a\u0301\u0328"), "\u0105\u0301") << "marks are ordered by class before they compose";
  EXPECT_EQ(normalize_nfc("\u212B\u2126"), "\u00C5\u03A9") << "singletons are replaced";
  EXPECT_EQ(normalize_nfc("\u1E9B\u0323"), "\u1E9B\u0323");
  EXPECT_EQ(normalize_nfc("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(normalize_nfc("\uAC00\u11A8"), "\uAC01");
  EXPECT_EQ(normalize_nfc("\u0958"), "\u0915\u093C") << "composition exclusions stay apart";
  EXPECT_EQ(normalize_nfc("\u0344"), "\u0308\u0301");
}

}  // namespace
}  // namespace kvreplay
