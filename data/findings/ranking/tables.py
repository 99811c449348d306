"""The tables of README.md from results.csv and runs.json: means over prompts, bootstrap intervals over prompts, ranks."""

import csv
import json
import os
import re

import numpy

import figure

BY_LAYER = ("snapkv", "restkv")
# From SnapKV to ReST-KV: what scores, how the window's queries are weighted, how neighbours are pooled.
BETWEEN = {
    "snapkv": ("attention", "mean", "max of 7"),
    "compose:indicator=attention,temporal=ema,pooling=max,kernel=7": ("attention", "ema", "max of 7"),
    "compose:indicator=attention,temporal=mean,pooling=adaptive": ("attention", "mean", "adaptive"),
    "compose:indicator=attention,temporal=ema,pooling=adaptive": ("attention", "ema", "adaptive"),
    "restkv:temporal=mean,pooling=max,kernel=7": ("reconstruction", "mean", "max of 7"),
    "restkv:pooling=max,kernel=7": ("reconstruction", "ema", "max of 7"),
    "restkv:temporal=mean": ("reconstruction", "mean", "adaptive"),
    "restkv": ("reconstruction", "ema", "adaptive"),
}
# What kvpress builds on a scorer, and what it builds it on.
BASES = (("adakv@kvpress", "snapkv@kvpress"), ("criticalkv", "snapkv@kvpress"), ("critical_adakv", "adakv@kvpress"), ("chunkkv", "snapkv@kvpress"))
# Run beside the policies of the rankings, at equal bytes.
BESIDE = (*BETWEEN, "snapkv@kvpress", "adakv@kvpress")
RESAMPLES = 10000
NAMES = {"bytes": "equal bytes", "tokens": "per query head, equal tokens", "per_head_bytes": "per query head, equal bytes",
         "same_per_head": "the default variant per query head, equal tokens"}


class Results:
    """results.csv: measures by form, budget and policy, one value a prompt."""

    def __init__(self, folder):
        with open(os.path.join(folder, "runs.json"), encoding="utf-8") as file:
            self.about = json.load(file)
        with open(os.path.join(folder, "results.csv"), encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            self.prompts = next(rows)[4:]
            self.values = {tuple(row[:4]): numpy.array([float(value) if value else numpy.nan for value in row[4:]]) for row in rows}
        kinds = {prompt["name"]: prompt["kind"] for prompt in self.about["prompts"]}
        self.kinds = numpy.array([kinds[prompt] for prompt in self.prompts])
        self.budgets = self.about["budgets"]
        # The same prompts are drawn for every policy and budget: differences are paired.
        self.draws = numpy.random.default_rng(0).integers(0, len(self.prompts), (RESAMPLES, len(self.prompts)))

    def of(self, form, budget, policy, measure="output_error"):
        """One value a prompt, or None where the policy has no run on one of them."""
        values = self.values.get((form, budget, policy, measure))
        return None if values is None or numpy.isnan(values).any() else values

    def mean(self, form, budget, policy, measure):
        """The mean over the prompts that have this measure (a needle, say), or None."""
        values = self.values.get((form, budget, policy, measure))
        return None if values is None or numpy.isnan(values).all() else float(numpy.nanmean(values))

    def interval(self, values):
        return numpy.percentile(values[self.draws].mean(axis=1), (2.5, 97.5))

    def granularity(self, form, policy):
        return self.about["forms"][form][policy]["granularity"]

    def policies(self, form, budget):
        """Those that ran on every prompt, from the lowest mean output error; bounds found in hindsight last."""
        names = [policy for policy in self.about["forms"].get(form, ()) if self.of(form, budget, policy) is not None]
        return sorted(names, key=lambda policy: (is_bound(policy), self.of(form, budget, policy).mean()))

    def ranks(self, form, budget):
        """{policy: (rank, lowest, highest)} of those that have a run in both rankings; the last two hold 95 % of the bootstrap's
        ranks."""
        both = set(self.policies("bytes", budget)) & set(self.policies("tokens", budget))
        names = [policy for policy in self.policies(form, budget) if policy in both and not is_bound(policy)]
        if not names:
            return {}
        means = numpy.stack([self.of(form, budget, policy)[self.draws].mean(axis=1) for policy in names])
        drawn = means.argsort(axis=0).argsort(axis=0) + 1
        low, high = numpy.percentile(drawn, (2.5, 97.5), axis=1, method="nearest")
        return {name: (rank + 1, int(low[rank]), int(high[rank])) for rank, name in enumerate(names)}


def is_bound(policy):
    return policy.startswith("oracle_")


def table(head, rows):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def number(value):
    return "–" if value is None else f"{value:.3f}"


def share(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def with_interval(results, values):
    low, high = results.interval(values)
    return f"{values.mean():.4f} ({low:.3f}–{high:.3f})"


def signed_interval(results, values):
    low, high = results.interval(values)
    return f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})".replace("-", "−")


def rank_cell(ranks, policy):
    if policy not in ranks:
        return "bound" if is_bound(policy) else "–"
    rank, low, high = ranks[policy]
    return f"{rank}" if low == high else f"{rank} ({low}–{high})"


def written(results, form, policy):
    """How the form of a policy is written, without files that it was given."""
    text = results.about["forms"][form][policy]["string"]
    text = re.sub(r"(table|filters)=[^,]*,?", "", text).rstrip(",:")
    return f"`{text}`" + (" †" if form == "tokens" and results.granularity(form, policy) != "query_head" else "")


def change(equal, heads, policy):
    if policy not in equal or policy not in heads:
        return "–"
    moved = equal[policy][0] - heads[policy][0]
    return "=" if moved == 0 else f"{'↑' if moved > 0 else '↓'} {abs(moved)}"


def rankings(results, budget):
    """The two rankings beside each other, in the order of the first."""
    equal, heads = results.ranks("bytes", budget), results.ranks("tokens", budget)
    names = results.policies("bytes", budget)
    names += [policy for policy in results.policies("tokens", budget) if policy not in names]
    rows = []
    for policy in names:
        one, two = results.of("bytes", budget, policy), results.of("tokens", budget, policy)
        full = results.mean("bytes", budget, "snapkv", "cache_bytes")
        stored = results.mean("tokens", budget, policy, "cache_bytes")
        rows.append([f"`{policy}`", rank_cell(equal, policy), "–" if one is None else with_interval(results, one),
                     number(results.mean("bytes", budget, policy, "evicted_mass")), share(results.mean("bytes", budget, policy, "evidence_recall")),
                     rank_cell(heads, policy), "–" if two is None else with_interval(results, two),
                     number(results.mean("tokens", budget, policy, "evicted_mass")),
                     "–" if stored is None or not full else f"{stored / full:.2f}", written(results, "tokens", policy), change(equal, heads, policy)])
    return table(["policy", "rank", "output error", "evicted mass", "needle kept", "rank per query head", "output error", "evicted mass", "bytes ×",
                  "form", "change"], rows)


def agreement(results):
    """How alike the two rankings are at each budget."""
    rows = []
    for budget in results.budgets:
        equal, heads = results.ranks("bytes", budget), results.ranks("tokens", budget)
        names = list(equal)  # in the order of their ranks
        if len(names) < 2:
            continue
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
        turned = sum(heads[a][0] > heads[b][0] for a, b in pairs)
        moves = sorted(((equal[name][0] - heads[name][0], name) for name in names), key=lambda move: -abs(move[0]))
        most = [f"`{name}` {'↑' if by > 0 else '↓'} {abs(by)}" for by, name in moves if abs(by) >= 2]
        rows.append([budget, str(len(names)), f"{turned} of {len(pairs)}", f"{1 - 2 * turned / len(pairs):.2f}", ", ".join(most) or "–"])
    return table(["budget", "policies", "pairs turned round", "Kendall's τ", "moves of two ranks or more, from equal bytes to per query head"], rows)


def against(results, other, form):
    """Every policy against one, prompt by prompt."""
    rows = []
    for policy in results.policies(form, results.budgets[1]):
        cells = [f"`{policy}`"]
        for budget in results.budgets:
            one, two = results.of(form, budget, policy), results.of(form, budget, other)
            cells += ["–", "–"] if one is None or two is None or policy == other else [
                signed_interval(results, one - two), f"{int((one < two).sum())} of {len(one)}"]
        rows.append(cells)
    return table(["policy", *(text for budget in results.budgets for text in (f"difference at {budget}", "lower in"))], rows)


def restkv_and_snapkv(results):
    """ReST-KV minus SnapKV: over all prompts, by kind, by part of the generation, by layer."""
    rows = []
    for form in ("bytes", "same_per_head", "tokens"):
        for budget in results.budgets:
            row = [NAMES[form], budget]
            for measure in ("output_error", "output_error.early", "output_error.late", "evicted_mass"):
                one, two = results.of(form, budget, "restkv", measure), results.of(form, budget, "snapkv", measure)
                row.append("–" if one is None or two is None else signed_interval(results, one - two))
            one, two = results.of(form, budget, "restkv"), results.of(form, budget, "snapkv")
            for kind in dict.fromkeys(results.kinds):
                here = results.kinds == kind
                row.append("–" if one is None or two is None else
                           f"{(one - two)[here].mean():+.4f}, {int((one < two)[here].sum())} of {here.sum()}".replace("-", "−"))
            rows.append(row)
    return table(["", "budget", "output error", "first 16 steps", "the rest", "evicted mass", *dict.fromkeys(results.kinds)], rows)


def by_layer(results):
    layers = sorted({key[3] for key in results.values if ".layer" in key[3]}, key=lambda measure: int(measure.split("layer")[1]))
    rows = []
    for form in ("bytes", "tokens"):
        for budget in results.budgets:
            row = [NAMES[form], budget]
            for measure in layers:
                one, two = results.of(form, budget, "restkv", measure), results.of(form, budget, "snapkv", measure)
                row.append("–" if one is None or two is None else f"{two.mean():.3f} {(one - two).mean():+.3f}".replace("-", "−"))
            rows.append(row)
    return table(["", "budget", *(f"layer {measure.split('layer')[1]}" for measure in layers)], rows)


def what_per_query_head_costs(results):
    """Policies that have both: the default variant, the same per query head, and the published form at both prices."""
    rows = []
    for budget in results.budgets:
        for policy in results.policies("bytes", budget):
            if policy in results.about["forms"].get("per_head_bytes", ()):
                values = [results.of(form, budget, policy) for form in ("bytes", "same_per_head", "tokens", "per_head_bytes")]
                rows.append([budget, f"`{policy}`", *("–" if v is None else f"{v.mean():.4f}" for v in values), written(results, "tokens", policy)])
    return table(["budget", "policy", "default, equal bytes", "default per query head, equal tokens", "form per query head, equal tokens",
                  "form per query head, equal bytes", "form"], rows)


def between(results):
    """Every step from SnapKV to ReST-KV at equal bytes, with the difference to SnapKV."""
    rows = []
    for policy, parts in BETWEEN.items():
        row = [*parts]
        for budget in results.budgets:
            one, two = results.of("beside_bytes", budget, policy), results.of("beside_bytes", budget, "snapkv")
            row += ["–", "–"] if one is None else [f"{one.mean():.4f}", "" if policy == "snapkv" else signed_interval(results, one - two)]
        rows.append([*row, f"`{policy}`"])
    return table(["score", "queries", "pooling", *(text for budget in results.budgets for text in (f"error at {budget}", "minus SnapKV's")),
                  "written"], rows)


def bases(results):
    rows = []
    for policy, base in BASES:
        row = [f"`{policy}`", f"`{base}`"]
        for budget in results.budgets:
            one, two = (next((v for v in (results.of(form, budget, name) for form in ("beside_bytes", "bytes")) if v is not None), None)
                        for name in (policy, base))
            row += ["–", "–", "–"] if one is None or two is None else [f"{two.mean():.4f}", signed_interval(results, one - two),
                                                                         f"{int((one < two).sum())} of {len(one)}"]
        rows.append(row)
    return table(["policy", "base", *(text for budget in results.budgets for text in (f"base at {budget}", "difference", "lower in"))], rows)


def left_out(results):
    return table(["policy", "why"], [[f"`{policy}`", reason] for policy, reason in results.about["left_out"].items()])


def summary(results):
    about = results.about
    asked = [prompt for prompt in about["prompts"] if prompt["answer"]]
    kinds = ", ".join(f"{int((results.kinds == kind).sum())} {kind}" for kind in dict.fromkeys(results.kinds))
    return (f"{about['program']}, {about['date']}: {len(results.prompts)} prompts ({kinds}) of 2,048 tokens, {about['generated']} tokens generated, "
            f"{len(about['forms']['bytes'])} policies. With the full cache the model answers {sum(p['answered'] for p in asked)} of the {len(asked)} "
            "that ask something.")


def all_tables(folder):
    results = Results(folder)
    found = {"summary": summary(results)}
    found.update({f"rankings {budget}": rankings(results, budget) for budget in results.budgets})
    found["agreement"] = agreement(results)
    found.update({f"against {other}": against(results, other, "bytes") for other in ("snapkv", "restkv")})
    found["restkv and snapkv"], found["by layer"] = restkv_and_snapkv(results), by_layer(results)
    found["between"], found["bases"] = between(results), bases(results)
    found["per query head"], found["left out"] = what_per_query_head_costs(results), left_out(results)
    return found


def values_in_text(results, text):
    """The page with its numbers replaced: 0.123<!--FORM BUDGET POLICY--> is a mean output error (`, MEASURE`: of another measure), and
    with `minus POLICY` a mean difference."""
    def value(match):
        form, budget, policy, other, measure = match.groups()[1:]
        values = results.of(form, budget, policy, measure or "output_error")
        if values is None:
            raise ValueError(f"README.md: {match.group(0)}: there is no such result")
        words = f"{values.mean():.3f}" if other is None else f"{(values - results.of(form, budget, other)).mean():+.3f}".replace("-", "−")
        return words + match.group(1)
    return re.sub(r"[−+]?[\d.]+(<!--(\w+) (\S+%) (\S+?)(?: minus (\S+?))?(?:, (\w+))?-->)", value, text)


def filled_in(text, found):
    """The page with its tables replaced: what stands between <!-- NAME --> and <!-- end -->."""
    for name, content in found.items():
        text = re.sub(rf"(?s)(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", lambda m, content=content: m.group(1) + content + "\n" + m.group(2), text)
    return text


def drawing(folder):
    results = Results(folder)
    return figure.slope_chart(results, results.budgets[1])


def write(folder):
    """README.md of the folder, or, where there is none, tables.md; and ranking.svg."""
    page, found = os.path.join(folder, "README.md"), all_tables(folder)
    if os.path.exists(page):
        with open(page, encoding="utf-8") as file:
            text = values_in_text(Results(folder), filled_in(file.read(), found))
    else:
        page, text = os.path.join(folder, "tables.md"), "\n\n".join(f"## {name}\n\n{content}" for name, content in found.items()) + "\n"
    with open(page, "w", encoding="utf-8") as file:
        file.write(text)
    with open(os.path.join(folder, "ranking.svg"), "w", encoding="utf-8") as file:
        file.write(drawing(folder))
    print(page)
