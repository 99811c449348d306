#include <algorithm>
#include <cstdio>
#include <tuple>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/wrappers/wrapper.h"
#include "core/replay/replay.h"
#include "core/report/policy_label.h"
#include "trace_tools/backend_option.h"
#include "trace_tools/command.h"
#include "trace_tools/replay_tables.h"

namespace kvreplay::cli {
namespace {

using Strings = std::vector<std::string>;

// "a,b" and repeated options alike.
Strings listed(const options::variables_map& values, const char* name) {
  Strings out;
  if (values.count(name) == 0) return out;
  for (const auto& value : values[name].as<Strings>())
    for (const auto& part : split(value, ',')) out.push_back(part);
  return out;
}

// A granularity asked for on the command line holds for every policy that has the parameter.
std::string with_granularity(const std::string& policy, const std::string& granularity) {
  const PolicySpec spec = parse_policy(policy);
  if (!spec.values.has("granularity")) {
    if (make_policy(spec)->granularity() != Granularity::layer && !spec.description->keeps_everything)
      throw Error("--granularity", spec.label() + " has one of its own and no such parameter",
                  "leave --granularity out, or this policy");
    return policy;
  }
  for (const auto& key : spec.given)
    if (key == "granularity") return policy;
  return policy + (policy.find(':') == std::string::npos ? ":" : ",") + "granularity=" + granularity;
}

class ReplayCommand final : public Command {
 public:
  std::string_view name() const override { return "replay"; }
  std::string_view summary() const override { return "what policies would have evicted from a trace, and what that costs"; }
  std::string_view usage() const override {
    return "TRACE... --policy P [--policy P...] --budget N[,N|10%|2MiB...] --out R.h5 [options]";
  }
  std::string_view description() const override {
    return R"(Replays traces through every policy at every budget and writes when each token was evicted and all metrics to one
results file. Work that policies and budgets share is done once.

  kvreplay replay t.h5 --policy restkv --policy snapkv --policy full --budget 64,128,10% --out r.h5
  kvreplay replay t.h5 --policy restkv@released:alpha=0.5 --budget 2MiB --metrics output_error --out r.h5

A budget is tokens per stored head when the prompt ends, window and sinks included; a share of the prompt; or bytes of
the whole cache. With --equal-bytes it is bytes for every policy (256: those of 256 tokens in every KV head of every
layer), and each gets the budget in tokens at which its cache really takes that much and no more: sets per query head,
pyramids, skipped layers and whole chunks cost what they cost.

  kvreplay replay t.h5 --policy snapkv --policy snapkv@released --budget 256 --equal-bytes --out r.h5

--score and --judge name marked spans of the trace: LABEL is every span of that label, LABEL#2 the second, `prompt` and
`generated` the trace's halves. Tokens after the eviction are decode steps, whether they were generated or not.

  --score context                        a policy that does not know the question which follows
  --score question --judge generated     one that knows the question alone (with a window of at most its length)
  --score question#1 --judge question#2  several turns: evicted at the first question, measured at the second

--restore and --drop say what one token is worth: HEAD counts a policy's own rows (KV heads, query heads, or 0), * is
all of them, and no LAYER is every layer. --worth finds the tokens that are worth most, all of them at once.

  kvreplay replay t.h5 --policy snapkv --budget 64 --worth 3 --out r.h5
  kvreplay replay t.h5 --policy snapkv --budget 64 --restore 2:1:117 --drop '*:0' --out r.h5

--summary-only writes what each run is and its means, a few kilobytes a run: for sweeps of thousands of settings.

--constraints adds the runs of what an engine can do; beside each stands the extra error over the policy's own run.

  kvreplay replay t.h5 --policy snapkv --policy h2o --budget 10% --constraints --out r.h5

--backend says what computes: every GPU that is there, or the CPU. The results file says which it was (`backend`); scores
of float16 traces differ between the two in their last digits, so a token at the cut of a kept set may, too.

Runs are numbered by trace, then policy, then budget; those with an edit come after the run that they change.
`kvreplay policies` lists the policies, `kvreplay metrics` the metrics. A replay that fails leaves no output.)";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("policy", options::value<Strings>()->value_name("P"),
                          "a policy string; may be given several times")(
        "budget", options::value<Strings>()->value_name("N"),
        "tokens (256), share of the prompt (10%), bytes (2MiB); a list, or several times")(
        "equal-bytes",
        "budgets mean the bytes of so many tokens in every KV head: each policy gets what really fits into them")(
        "out", options::value<std::string>()->value_name("R.h5"), "the results file")(
        "granularity", options::value<std::string>()->value_name("G"),
        "query_head, kv_head or layer, for every policy that has the choice")(
        "metrics", options::value<std::string>()->value_name("A,B"),
        "names of metrics, or none (default: all that the trace has data for)")("scores",
                                                                                "write the policies' final scores too")(
        "summary-only", "write means alone, neither evictions nor values of heads and steps: for sweeps of many runs")(
        "evidence", options::value<Strings>()->value_name("LABEL"),
        "label of the marked spans that evidence_recall counts (default: needle, evidence)")(
        "score", options::value<Strings>()->value_name("LABEL"),
        "only queries in these marked spans may score; the eviction happens where the last of them ends")(
        "judge", options::value<Strings>()->value_name("LABEL"),
        "only queries in these marked spans count in the metrics (default: all after the eviction)")(
        "prompt-length", options::value<std::int64_t>()->value_name("N"),
        "the eviction happens after N tokens, whatever the trace's prompt (instead of --score)")(
        "restore", options::value<Strings>()->value_name("[LAYER:]HEAD:TOKEN"),
        "measure every run again with this evicted token kept; may be given several times, each is a run")(
        "drop", options::value<Strings>()->value_name("[LAYER:]HEAD:TOKEN"), "the same with this kept token evicted")(
        "worth", options::value<std::int64_t>()->value_name("N"),
        "list the N evicted tokens of each layer and head whose return would lower the error most")(
        "constraints",
        "every policy also as engines can have it: in blocks of 16, 32 and 256 slots, one set a layer, append-only")(
        "stability", "evict once more with half-precision scores, and say how much of each kept set stays")(
        "early-steps", options::value<std::int64_t>()->value_name("N")->default_value(16),
        "the summaries' NAME.early is over the first N steps after the prompt, NAME.late over the rest")(
        "trusted", "read traces in this process even when this machine did not write them");
    declare_backend(visible);
    hidden.add_options()("trace", options::value<Strings>(), "");
    positional.add("trace", -1);
  }

  int run(const Invocation& call) const override {
    const auto& values = call.values;
    require(call, *this, "trace", "a trace file");
    require(call, *this, "policy", "--policy P");
    require(call, *this, "budget", "--budget N");
    require(call, *this, "out", "--out R.h5");

    ReplayRequest request;
    for (const auto& text : values["policy"].as<Strings>())
      request.policies.push_back(parse_policy(
          values.count("granularity") != 0 ? with_granularity(text, values["granularity"].as<std::string>()) : text));
    if (values.count("constraints") != 0)
      for (const PolicySpec& spec : std::vector<PolicySpec>(request.policies))
        for (PolicySpec& form : constrained_forms(spec)) request.policies.push_back(std::move(form));
    for (const auto& text : listed(values, "budget")) request.budgets.push_back(Budget::parse(text));
    if (values.count("metrics") != 0) {
      request.all_metrics = false;
      for (const auto& name : split(values["metrics"].as<std::string>(), ','))
        if (name != "none") request.metrics.push_back(&find_metric(name));
    }
    request.equal_bytes = values.count("equal-bytes") != 0;
    request.scores = values.count("scores") != 0;
    request.summary_only = values.count("summary-only") != 0;
    if (request.summary_only && request.scores)
      throw UsageError("kvreplay replay", "--summary-only leaves the scores out that --scores asks for", "give one");
    request.evidence_labels = listed(values, "evidence");
    for (const auto& text : listed(values, "restore"))
      request.edits.push_back(TokenEdit::parse(TokenEdit::Kind::restore, text));
    for (const auto& text : listed(values, "drop")) request.edits.push_back(TokenEdit::parse(TokenEdit::Kind::drop, text));
    if (values.count("worth") != 0) {
      request.worth = values["worth"].as<std::int64_t>();
      if (request.worth < 1) throw Error("--worth", "must be at least 1");
    }
    request.stability = values.count("stability") != 0;
    request.score_spans = listed(values, "score");
    request.judge_spans = listed(values, "judge");
    if (values.count("prompt-length") != 0) {
      if (!request.score_spans.empty())
        throw UsageError("kvreplay replay", "--prompt-length and --score both say where the eviction happens", "give one");
      request.prompt_length = values["prompt-length"].as<std::int64_t>();
      if (request.prompt_length < 1) throw Error("--prompt-length", "must be at least 1");
    }
    request.early_steps = values["early-steps"].as<std::int64_t>();
    if (request.early_steps < 1) throw Error("--early-steps", "must be at least 1");

    const auto owned = chosen_backends(call);
    std::vector<Backend*> backends;
    for (const auto& backend : owned) backends.push_back(backend.get());
    const Trust trust = values.count("trusted") != 0 ? Trust::trusted : Trust::automatic;
    const std::string out = values["out"].as<std::string>();
    refuse_overwriting(out, values["trace"].as<Strings>());
    ResultsWriter results(out);
    ReplayOutcome outcome{out, {}, {}};
    for (const auto& path : values["trace"].as<Strings>()) {
      const auto trace = open_trace(path, trust);
      if (!trace->complete())
        call.job.warn(path + " is a capture that was cut off: reading the " + std::to_string(trace->num_tokens()) +
                      " tokens that it committed");
      replay_one(*trace, request, backends, results, call.job, outcome);
    }
    results.finish();
    const std::string text = call.json ? replay_json(outcome) : replay_tables(outcome);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }

 private:
  static void replay_one(const Trace& trace, ReplayRequest request, const std::vector<Backend*>& backends,
                         ResultsWriter& results, Job& job, ReplayOutcome& outcome) {
    std::vector<RankedToken> worth;
    request.on_worth = [&](int run, const TokenWorth& token) { worth.push_back({trace.path(), "", 0, run, 1, token, ""}); };
    for (RunInfo& run : replay(trace, request, backends, results, job)) outcome.runs.push_back(std::move(run));
    if (worth.empty()) return;
    // Rows came in the order in which backends finished them, the tokens of a row the best first.
    const auto row = [](const RankedToken& t) { return std::tuple(t.run, t.worth.layer, t.worth.head); };
    std::stable_sort(worth.begin(), worth.end(), [&](const auto& a, const auto& b) { return row(a) < row(b); });
    for (std::size_t i = 1; i < worth.size(); ++i)
      if (row(worth[i]) == row(worth[i - 1])) worth[i].place = worth[i - 1].place + 1;
    const auto texts = trace.token_texts();
    for (RankedToken& token : worth) {
      const RunInfo& run = outcome.runs[static_cast<std::size_t>(token.run)];
      token.policy = policy_label(run.policy);
      token.budget = run.budget;
      if (!texts.empty()) token.text = texts[static_cast<std::size_t>(token.worth.token)];
      outcome.worth.push_back(std::move(token));
    }
  }
};

}  // namespace

const Command& replay_command() {
  static const ReplayCommand command;
  return command;
}

}  // namespace kvreplay::cli
