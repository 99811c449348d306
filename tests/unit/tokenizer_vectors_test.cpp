// Do the tokenizers give the ids that their models were trained with? Published test vectors of real models.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/base/text.h"
#include "core/model/tokenizer.h"

namespace kvreplay {
namespace {

namespace fs = std::filesystem;

fs::path tokenizer_data() {
  const char* shared = std::getenv("KVREPLAY_SHARED");
  const fs::path root = shared != nullptr ? fs::path(shared) : fs::path(KVREPLAY_SOURCE_DIR) / ".." / "shared";
  return root / "data" / "tokenizers";
}

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

struct VectorCase {
  std::string vectors;    // name of the .inp and .out files
  std::string tokenizer;  // file or directory beside them
};

class TokenizerVectors : public testing::TestWithParam<VectorCase> {};

TEST_P(TokenizerVectors, GiveThePublishedIds) {
  const fs::path data = tokenizer_data();
  const fs::path input = data / "vectors" / (GetParam().vectors + ".inp");
  if (!fs::exists(input)) GTEST_SKIP() << input << " is absent: the tokenizers of real models were NOT tested";
  const auto tokenizer = Tokenizer::load((data / GetParam().tokenizer).string());

  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string texts = contents(input);
  std::istringstream expected(contents(data / "vectors" / (GetParam().vectors + ".out")));
  int count = 0;
  for (std::size_t begin = 0; begin < texts.size(); ++count) {
    const std::size_t end = std::min(texts.find(separator, begin), texts.size());
    const std::string text = texts.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    ASSERT_TRUE(std::getline(expected, line)) << "no ids for text " << count;
    std::istringstream numbers(line);
    std::vector<std::int32_t> ids{std::istream_iterator<std::int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer->encode(text, false), ids) << "text " << count << ": " << printable(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
  EXPECT_GE(count, 40);
}

INSTANTIATE_TEST_SUITE_P(OfRealModels, TokenizerVectors,
                         testing::Values(VectorCase{"llama-bpe", "llama3-tokenizer"},
                                         VectorCase{"llama-spm", "llama2-tokenizer/tokenizer.model"},
                                         VectorCase{"llama-spm", "llama2-tokenizer/hf_tokenizer.json"},
                                         VectorCase{"llama-spm", "llama2-tokenizer"}, VectorCase{"qwen2", "qwen2-tokenizer"},
                                         VectorCase{"gpt-2", "gpt2-tokenizer"}),
                         [](const auto& tested) {
                           std::string name = tested.param.vectors + "_" + tested.param.tokenizer;
                           for (char& c : name)
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           return name;
                         });

}  // namespace
}  // namespace kvreplay
