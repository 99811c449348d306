#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

FinchCount count_of(const PolicySpec& spec) {
  if (!spec.values.boolean("normalize")) return FinchCount::none;
  return spec.values.text("count") == "before" ? FinchCount::before : FinchCount::visible;
}

Parameter count_parameter() {
  Parameter count = choice_parameter("count", "the tokens that count: before the query, or all that it sees, itself too",
                                     {"before", "visible"}, {{"kvpress", "before"}});
  count.only_with = {{"normalize", {"true"}}};
  return count;
}

}  // namespace

const PolicyDescription& finch_policy() {
  static const PolicyDescription description = {
      .name = "finch",
      .idea = "Keeps what the question at the end of the prompt attends to, each query counted by how many tokens it sees.",
      .paper = "Corallo and Papotti, FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models, TACL 2024",
      .stages =
          "attention (last W queries) × tokens before the query → mean → top-k, the window forced; once when the prompt "
          "ends",
      .needs = "the last W prompt queries: W is the length of the question",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "No pooling, mean over the query heads of a KV head; the count is one below the tokens that a query "
                    "sees. The published code then moves the kept keys together: positions=compacted."}},
      .parameters = {window_parameter({{"kvpress", "64"}}),
                     boolean_parameter("normalize", "multiply each query's attention by how many tokens there are",
                                       {{"kvpress", "true"}}),
                     count_parameter(),
                     integer_parameter("chunk",
                                       "compress each run of this many tokens by itself, at least one of each; 0: "
                                       "the whole prompt at once",
                                       0, 16777216, {{"kvpress", "0"}})},
      .make =
          [](const PolicySpec& spec) {
            const int window = spec.values.integer("window"), chunk = spec.values.integer("chunk");
            OneShotStages stages;
            stages.indicator =
                forced_window_indicator(finch_indicator(window, count_of(spec)), no_pooling(), window, "none");
            if (chunk > 0) stages.selection = per_chunk_selection(chunk);
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
