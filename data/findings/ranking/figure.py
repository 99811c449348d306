"""ranking.svg: the ranks at equal bytes on the left, per query head at equal tokens on the right, a line a policy."""

WIDTH, ROW, TOP = 720, 22, 58
LEFT, RIGHT = 250, 470
COLOURS = {"snapkv": "#0072b2", "restkv": "#d55e00"}


def text(x, y, words, anchor="start", colour="#222", size=13, weight="normal"):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{colour}">{words}</text>'


def slope_chart(results, budget):
    left, right = results.ranks("bytes", budget), results.ranks("tokens", budget)
    height = TOP + ROW * max(len(left), len(right)) + 30
    y = lambda rank: TOP + ROW * (rank - 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             text(WIDTH / 2, 18, f"Mean output error, budget {budget} of the prompt, {len(results.prompts)} prompts", "middle", weight="bold"),
             text(LEFT, 38, "equal bytes", "end"), text(RIGHT, 38, "per query head, equal tokens")]
    for policy, (rank, _, _) in left.items():
        colour = COLOURS.get(policy, "#222")
        error = results.of("bytes", budget, policy).mean()
        parts.append(text(LEFT, y(rank) + 4, f"{policy}  {error:.3f}  {rank}", "end", colour))
        if policy in right:
            strong = policy in COLOURS or abs(right[policy][0] - rank) >= 3
            parts.append(f'<line x1="{LEFT + 8}" y1="{y(rank)}" x2="{RIGHT - 8}" y2="{y(right[policy][0])}" '
                         f'stroke="{colour if strong else "#999"}" stroke-width="{2 if strong else 1}"/>')
    for policy, (rank, _, _) in right.items():
        mark = "" if results.granularity("tokens", policy) == "query_head" else " †"
        error = results.of("tokens", budget, policy).mean()
        parts.append(text(RIGHT, y(rank) + 4, f"{rank}  {error:.3f}  {policy}{mark}", colour=COLOURS.get(policy, "#222")))
    parts.append(text(WIDTH - 12, height - 12, "† no form of its own per query head: as at equal bytes", "end", "#555", 11))
    return "\n".join([*parts, "</svg>", ""])
