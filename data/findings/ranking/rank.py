"""Captures the prompts, replays every policy in its forms, writes results.csv, runs.json and the tables of README.md."""

import argparse
import concurrent.futures
import csv
import datetime
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "../../.."))
sys.path.insert(0, os.path.join(ROOT, "trace_tools"))
sys.path.insert(0, HERE)
import kvreplay_files  # noqa: E402
import tables  # noqa: E402

MODEL = os.path.join(ROOT, "data/models/reader-8m")
PROMPTS = os.path.join(HERE, "prompts")
GENERATED = 32
SHARES = ("5%", "10%", "25%")
METRICS = ("output_error", "evicted_mass", "evidence_recall")

# What policies measure beforehand comes from these prompts, none of which is ranked on. As HeadKV's authors count: the steps
# of the answer (a space and five digits).
OTHER_PROMPTS = {"headkv": ("heads", "table", ("needle-1k", "needle-2k", "needle-4k", "keys16-4k")),
                 "qfilter": ("filters", "filters", ("needle-1k", "needle-2k", "keys16-4k", "prose-4k"))}
ANSWER_TOKENS = 6

# Where a policy has several forms, the one per query head: what was released with ReST-KV, else what this project defines.
PER_QUERY_HEAD = ("released", "derived")
LEFT_OUT = {
    "full": "evicts nothing",
    "compose": "a free choice of parts, no policy of its own",
    "oracle_output": "its search takes half a minute a prompt: `--policies` can name it",
}


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="data/findings/ranking/run.sh", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("program", nargs="?", help="kvreplay (default: the one in build/release/bin or build/dev/bin, the newer one)")
    add("--prompts", metavar="A,B", help="these prompts only, by name: needle-1, ... (default: all 24)")
    add("--policies", metavar="A,B", help="these policies only, by name (default: all that can run)")
    add("--work", default=os.path.join(ROOT, "build/ranking"), metavar="DIR",
        help="for traces (50 MB a prompt; those that are there are used again) and results (default: build/ranking)")
    add("--out", default=HERE, metavar="DIR", help="where results.csv and the tables go (default: beside this script)")
    add("--jobs", type=int, default=os.cpu_count(), metavar="N", help="prompts at a time (default: one per processor)")
    add("--tables", action="store_true", help="only write the tables anew, from results.csv")
    return parser.parse_args(arguments)


class Program:
    """kvreplay; a run that fails ends everything, with what it said."""

    def __init__(self, path):
        built = [os.path.join(ROOT, "build", preset, "bin/kvreplay") for preset in ("release", "dev")]
        found = [candidate for candidate in ([path] if path else built) if os.path.isfile(candidate)]
        if not found:
            sys.exit(f"{path or 'build/release/bin/kvreplay'}: there is no such program; build it, or name one")
        self.path = max(found, key=os.path.getmtime)

    def __call__(self, *arguments, may_fail=False):
        done = subprocess.run([self.path, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0 and not may_fail:
            sys.exit(f"{' '.join([self.path, *arguments])}\n{done.stderr.strip()}")
        return done

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json").stdout)


def capture(program, folder, name, text, spans, generate, *options):
    trace = os.path.join(folder, f"{name}.h5")
    if not os.path.exists(trace):
        print(f"capture {name}", flush=True)
        program("capture", "--model", MODEL, "--prompt", text, "--spans", spans, "--generate", str(generate), "--queries", "all",
                *options, "--out", trace)
    return trace


def what_it_needs(program, policy, work):
    """{parameter: file} of what one of the product's own commands derives for a policy from other prompts."""
    if policy not in OTHER_PROMPTS:
        return {}
    command, parameter, names = OTHER_PROMPTS[policy]
    folder, prompts = os.path.join(work, "other-prompts"), os.path.join(ROOT, "data/prompts")
    os.makedirs(folder, exist_ok=True)
    traces = [capture(program, folder, name, f"{prompts}/{name}.txt", f"{prompts}/{name}.spans.json", ANSWER_TOKENS) for name in names]
    path = os.path.join(work, f"{command}.json")
    program(command, *traces, "--out", path)
    return {parameter: path}


def spec(policy, variant="", **values):
    written = ",".join(f"{key}={value}" for key, value in values.items())
    return policy + (f"@{variant}" if variant else "") + (f":{written}" if written else "")


def forms_of(policy, files):
    """{form: policy string} of a policy as `policies --json` describes it."""
    name, variants = policy["name"], [variant["name"] for variant in policy["variants"]]
    choice = next((p for p in policy["parameters"] if p["key"] == "granularity"), None)
    forms = {"bytes": spec(name, **files)}
    per_head = next((variant for variant in PER_QUERY_HEAD if variant in variants[1:]), None)
    if choice and variants[0] in choice["defaults"]:
        forms["same_per_head"] = spec(name, **files, granularity="query_head")
    forms["tokens"] = spec(name, per_head, **files) if per_head else forms.get("same_per_head", forms["bytes"])
    return forms


class Trial:
    """Tries policies on one trace, so that one that refuses does not end the rest."""

    def __init__(self, program, trace, work):
        self.program, self.trace, self.work = program, trace, work

    def __call__(self, string):
        """(what kvreplay makes of the string, None) or (None, why it does not run)."""
        results = os.path.join(self.work, "trial.h5")
        done = self.program("replay", self.trace, "--policy", string, "--budget", SHARES[-1], "--metrics", "none", "--out", results, may_fail=True)
        if done.returncode != 0:
            return None, done.stderr.strip().splitlines()[-1].replace("kvreplay: ", "", 1).replace(self.work + "/", "")
        run = kvreplay_files.read_results(results)[0]
        return {"string": string, "resolved": run["policy"], "granularity": run["granularity"]}, None


def what_runs(program, trace, work, wanted):
    """({form: {policy: what Trial says}}, {policy: why it is left out})."""
    runs, left_out, tried = {}, {}, Trial(program, trace, work)
    for policy in program.json("policies"):
        name = policy["name"]
        if (wanted and name not in wanted) or (name in LEFT_OUT and not wanted):
            left_out.update({} if wanted else {name: LEFT_OUT[name]})
            continue
        for form, string in forms_of(policy, what_it_needs(program, name, work)).items():
            run, refusal = tried(string)
            if refusal:
                left_out[name] = refusal
                break
            runs.setdefault(form, {})[name] = run
            if form == "tokens" and run["granularity"] == "query_head":
                runs.setdefault("per_head_bytes", {})[name] = run
    unknown = sorted(set(wanted) - {name for names in runs.values() for name in names} - set(left_out))
    if unknown:
        sys.exit(f"--policies: {', '.join(unknown)} is not known; `kvreplay policies` lists them")
    if not wanted or {"snapkv", "restkv"} <= set(wanted):
        for string in tables.BESIDE:
            runs.setdefault("beside_bytes", {})[string] = tried(string)[0] or sys.exit(f"{string}: {tried(string)[1]}")
    return runs, left_out


def measured(results):
    """[(run, {measure: value})] of a results file; means over layers, heads and steps as kvreplay has them."""
    found = []
    for run in kvreplay_files.read_results(results):
        values = {metric: run["summary"].get(metric) for metric in ("output_error", "output_error.early", "output_error.late", "evicted_mass")}
        if "evidence_recall" in run["metrics"]:
            values["evidence_recall"] = run["summary"].get("evidence_recall")
        values["cache_bytes"] = run["cache_bytes"]
        values["first_token_kept"] = (run["evicted_at"][:, :, 0] == -1).mean()
        if run["preset"] in tables.BY_LAYER:
            values.update({f"output_error.layer{layer}": error for layer, error in enumerate(run["metrics"]["output_error"].mean(axis=1))})
        found.append((run, {measure: value for measure, value in values.items() if value is not None}))
    return found


def replay(program, trace, strings, measures, equal_bytes, results):
    """Replays, unless the same program has done just this: a ranking that was cut off goes on."""
    command = ["replay", trace, *(word for string in strings for word in ("--policy", string)), "--budget", ",".join(SHARES),
               "--metrics", ",".join(measures), "--threads", "1", "--out", results, *(["--equal-bytes"] if equal_bytes else [])]
    done, made_by = results + ".json", {"command": command, "program": os.path.getmtime(program.path), "trace": os.path.getmtime(trace)}
    if os.path.exists(done) and os.path.exists(results):
        with open(done, encoding="utf-8") as file:
            if json.load(file) == made_by:
                return
    program(*command)
    with open(done, "w", encoding="utf-8") as file:
        json.dump(made_by, file)


def replay_prompt(program, runs, prompt, trace, measures, work):
    """{(form, budget, policy): {measure: value}} of one prompt."""
    found, exact = {}, {}  # how many budgets a policy meets with as many tokens as the budget names
    for form, policies in runs.items():
        # A policy with one form, whose equal bytes are just its equal tokens, has been run.
        again = [name for name, run in policies.items() if form == "tokens" and exact.get(name) == len(SHARES)
                 and run["string"] == runs["bytes"][name]["string"]]
        found.update({(form, budget, name): found["bytes", budget, name] for name in again for budget in SHARES})
        names = {run["resolved"]: name for name, run in policies.items() if name not in again}
        if names:
            results = os.path.join(work, f"{prompt}.{form}.h5")
            replay(program, trace, [policies[name]["string"] for name in names.values()], measures, form.endswith("bytes"), results)
            for run, values in measured(results):
                name = names[run["policy"]]
                found[form, run["budget_text"], name] = values
                if form == "bytes" and run["budget"] == run["equal_bytes_tokens"]:
                    exact[name] = exact.get(name, 0) + 1
    print(f"replayed {prompt}", flush=True)
    return found


def replay_all(program, runs, traces, with_needle, work, jobs):
    """{(form, budget, policy, measure): {prompt: value}}, `jobs` prompts at a time."""
    values = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        measures = {prompt: [m for m in METRICS if prompt in with_needle or m != "evidence_recall"] for prompt in traces}
        tasks = {prompt: pool.submit(replay_prompt, program, runs, prompt, trace, measures[prompt], work) for prompt, trace in traces.items()}
        try:
            for prompt, task in tasks.items():
                for (form, budget, policy), found in task.result().items():
                    for measure, value in found.items():
                        values.setdefault((form, budget, policy, measure), {})[prompt] = value
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return values


def write_results(out, values, prompts):
    with open(os.path.join(out, "results.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["form", "budget", "policy", "measure", *prompts])
        for key, row in values.items():
            form = "{:.0f}" if key[3] == "cache_bytes" else "{:.4g}"
            writer.writerow([*key, *(form.format(row[prompt]) if prompt in row else "" for prompt in prompts)])


def answered(trace, answer):
    with kvreplay_files.open_trace(trace) as opened:
        return b"".join(opened.texts[opened.prompt_length:]).decode("utf-8", "replace").strip().startswith(answer)


def main():
    options = parse_arguments(sys.argv[1:])
    out = os.path.abspath(options.out)
    if not options.tables:
        program, work = Program(options.program), os.path.abspath(options.work)
        os.makedirs(work, exist_ok=True)
        os.makedirs(out, exist_ok=True)
        with open(os.path.join(PROMPTS, "prompts.json"), encoding="utf-8") as file:
            prompts = [p for p in json.load(file) if not options.prompts or p["name"] in options.prompts.split(",")]
        if not prompts:
            sys.exit(f"--prompts: {options.prompts}: data/findings/ranking/prompts has no such prompt")
        traces = {p["name"]: capture(program, work, p["name"], f"{PROMPTS}/{p['name']}.txt", f"{PROMPTS}/{p['name']}.spans.json", GENERATED, "--repeat-pass")
                  for p in prompts}
        for prompt in prompts:
            if prompt["answer"] and not answered(traces[prompt["name"]], prompt["answer"]):
                print(f"{prompt['name']}: the full cache does not give the answer {prompt['answer']}", file=sys.stderr)
        runs, left_out = what_runs(program, next(iter(traces.values())), work, options.policies.split(",") if options.policies else ())
        write_results(out, replay_all(program, runs, traces, [p["name"] for p in prompts if p["answer"]], work, options.jobs), list(traces))
        without_folder = lambda text: re.sub(r"=[^,=]*/", "=", text)
        ran = {form: {name: {key: without_folder(value) for key, value in run.items()} for name, run in names.items()} for form, names in runs.items()}
        about = {"program": program("--version").stdout.strip(), "date": datetime.date.today().isoformat(),
                 "prompts": prompts, "generated": GENERATED, "budgets": SHARES, "forms": ran, "left_out": left_out}
        with open(os.path.join(out, "runs.json"), "w", encoding="utf-8") as file:
            file.write(json.dumps(about, indent=1) + "\n")
    tables.write(out)


if __name__ == "__main__":
    main()
