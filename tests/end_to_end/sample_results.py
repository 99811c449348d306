"""A small trace and the results of several policies on it, written with h5py from nothing but the format page.

The numbers are made up, but hang together: errors fall with the budget, the bound is lowest, what is evicted is counted
right. By hand, to look at a report: /usr/bin/python3 tests/end_to_end/sample_results.py FOLDER
"""

import hashlib
import json
import os
import sys

import h5py
import numpy as np

LAYERS, QUERY_HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 8, 2, 4, 16
POLICIES = [  # policy string, how much worse than the bound, granularity
    ("full", 0.0, "kv_head"),
    ("random@paper:seed=0", 6.0, "kv_head"),
    ("streaming_llm@paper:sinks=4", 4.5, "layer"),
    ("h2o@paper:group=mean", 2.6, "kv_head"),
    ("snapkv@paper:window=32,kernel=7,pooling=max", 1.9, "kv_head"),
    ("restkv@paper:window=32,kernel=5,alpha=0.3", 1.4, "kv_head"),
    ("restkv@released:window=32,kernel=5,alpha=0.3", 1.5, "query_head"),
    ("oracle_attention", 1.0, "kv_head"),
]
SENTENCES = ("The ship left the harbour before dawn.", " Nobody on the quay saw the lights go out.",
             "\nThe captain wrote one line in the log:", " wind from the east, all well.", "\n\nBy noon the coast was gone.")
HOSTILE = "<script>alert('x')</script>"


def words(count, rng):
    """Token texts of a prompt: a needle in the middle, a question at the end, and what a page must survive."""
    tokens = []
    while len(tokens) < count:
        sentence = SENTENCES[rng.integers(len(SENTENCES))]
        tokens += [piece if i == 0 else " " + piece for i, piece in enumerate(sentence.split(" "))]
    tokens = [token.encode() for token in tokens[:count]]
    tokens[2] = HOSTILE.encode()
    tokens[3] = b"</script><!--"
    tokens[5], tokens[6] = "é".encode()[:1], "é".encode()[1:]  # a character in two tokens
    tokens[7] = b"\xff"
    tokens[8] = b"\x1b[31m"
    return tokens


def write_trace(path, prompt=300, steps=12, seed=1):
    rng = np.random.default_rng(seed)
    total = prompt + steps
    texts = words(total, rng)
    needle = prompt // 2
    for i, piece in enumerate([b" The", b" secret", b" number", b" is", b" 74", b"21", b"."]):
        texts[needle + i] = piece
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update({"format": "kvreplay-trace", "version": 1, "complete": 1, "created_by": "sample",
                           "created_utc": "2026-01-01T00:00:00Z", "command": "sample"})
        file.attrs["manifest"] = json.dumps({"tokenizer": HOSTILE, "dtype": "f32"})
        model = file.create_group("model")
        model.attrs.update({"name": "sample <model>", "architecture": "LlamaForCausalLM", "num_layers": LAYERS,
                            "num_query_heads": QUERY_HEADS, "num_kv_heads": KV_HEADS, "head_dim": HEAD_DIM,
                            "hidden_size": HIDDEN, "attention_scale": 0.5})
        tokens = file.create_group("tokens")
        tokens.attrs["prompt_length"] = prompt
        tokens["ids"] = rng.integers(0, 100, total).astype(np.int32)
        tokens["text"] = np.frombuffer(b"".join(texts), np.uint8)
        tokens["text_offsets"] = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        tokens["span_start"] = np.array([needle, prompt - 9], np.int32)
        tokens["span_end"] = np.array([needle + 7, prompt], np.int32)
        tokens["span_label"] = np.array([b"needle", b"question"], h5py.string_dtype("utf-8", 16))
        file["queries/positions"] = np.arange(total, dtype=np.int32)
        for layer in range(LAYERS):
            group = file.create_group(f"layers/{layer:03d}")
            group["key"] = rng.standard_normal((KV_HEADS, total, HEAD_DIM)).astype(np.float32)
            group["value"] = rng.standard_normal((KV_HEADS, total, HEAD_DIM)).astype(np.float32)
            group["query"] = rng.standard_normal((QUERY_HEADS, total, HEAD_DIM)).astype(np.float32)
    return {"prompt": prompt, "steps": steps, "needle": needle, "layers": LAYERS}


def evicted_at(policy, granularity, budget, shape, rng):
    """[L, H, T]: sinks and the newest stay, and the rest by a score that likes the needle the better the policy."""
    prompt, total = shape["prompt"], shape["prompt"] + shape["steps"]
    heads = {"layer": 1, "kv_head": KV_HEADS, "query_head": QUERY_HEADS}[granularity]
    evicted = np.full((shape["layers"], heads, total), -1, np.int32)
    if policy.startswith("full") or budget >= prompt:
        return evicted
    for layer in range(shape["layers"]):
        for head in range(heads):
            score = rng.random(prompt)
            if policy.startswith("streaming"):
                score = np.arange(prompt) / prompt
                score[:4] = 9
            elif not policy.startswith("random"):
                score = 0.5 * score + 0.5 * np.repeat(rng.random(prompt // 6 + 1), 6)[:prompt]
                score[shape["needle"]:shape["needle"] + 7] += 0.4
                score[:4] = 9
                score[-32:] += 1 if budget >= 32 else 0
            evicted[layer, head, np.argsort(-score, kind="stable")[budget:]] = 0
    if policy.startswith("streaming"):  # one more each step
        for step in range(1, shape["steps"]):
            alive = np.flatnonzero(evicted[0, 0] == -1)
            evicted[:, :, alive[4]] = step
    return evicted


def write_results(path, trace_path, shape, budgets, policies=None, seed=2):
    rng = np.random.default_rng(seed)
    prompt, steps, layers = shape["prompt"], shape["steps"], shape["layers"]
    with open(trace_path, "rb") as trace:
        trace_hash = hashlib.sha256(trace.read()).hexdigest()
    number = 0
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update({"format": "kvreplay-results", "version": 1})
        hard_layer = 1 + 0.6 * np.sin(np.arange(layers) * 1.3)
        hard_head = np.exp(rng.normal(0, 0.5, (layers, QUERY_HEADS)))
        for policy, factor, granularity in policies or POLICIES:
            for budget in budgets:
                evicted = evicted_at(policy, granularity, budget, shape, rng)
                run = file.create_group(f"runs/{number:05d}")
                number += 1
                kept = int((evicted[:, :, :prompt] != 0).sum()) * (KV_HEADS if granularity == "layer" else 1)
                run.attrs.update({
                    "policy": policy, "preset": policy.split("@")[0].split(":")[0], "parameters": "{}", "budget": budget,
                    "cache_bytes": kept * 2 * HEAD_DIM * 4, "full_cache_bytes": layers * KV_HEADS * prompt * 2 * HEAD_DIM * 4,
                    "peak_cache_bytes": kept * 2 * HEAD_DIM * 4, "position_mode": "original", "granularity": granularity,
                    "kept_sha256": hashlib.sha256(evicted.astype("<i4").tobytes()).hexdigest(),
                    "trace": str(trace_path), "trace_sha256": trace_hash, "backend": "cpu", "created_by": "sample",
                    "seconds": 0.25, "peak_bytes": 1 << 20})
                if not (evicted >= 0).any():
                    run.attrs["notes"] = json.dumps(["nothing was evicted: the budget holds the whole prompt"]
                                                    if budget >= prompt else ["nothing was evicted"])
                run["evicted_at"] = evicted
                size = factor * 0.9 * (1 - budget / prompt) * (8 / budget) ** 0.8 if budget < prompt else 0.0
                error = size * hard_layer[:, None] * np.exp(rng.normal(0, 0.2, (layers, steps)))
                mass = np.clip(size * 0.5 * hard_head[:, :, None] * np.exp(rng.normal(0, 0.2, (layers, QUERY_HEADS, steps))), 0, 1)
                wide = {"output_error": (error, ["layer", "step"]), "evicted_mass": (mass, ["layer", "query_head", "step"]),
                        "head_output_error": (mass * 1.4, ["layer", "query_head", "step"]),
                        "oracle_overlap": (np.clip(1 - mass, 0, 1), ["layer", "query_head", "step"])}
                names = ["sinks", "early", "middle", "late", "recent", "generated"]
                before = rng.dirichlet([4, 1, 1, 1, 4, 2], (layers, QUERY_HEADS, steps))
                kept_regions = np.where(size > 0, [1, 0.2, 0.2, 0.2, 1, 1], 1) * before
                after = kept_regions / kept_regions.sum(-1, keepdims=True)
                regions = ["layer", "query_head", "step", "region"]
                wide["region_mass_before"], wide["region_mass_after"] = (before, regions), (after, regions)
                for name, (values, axes) in wide.items():
                    dataset = run.create_dataset(f"metrics/{name}", data=values.astype(np.float32))
                    dataset.attrs["axes"] = axes
                    if "region" in axes:
                        dataset.attrs["regions"] = names
                run.create_group("summary")
    return number


def write_sample(folder, prompt=300, budgets=(15, 30, 75, 150), seed=1):
    """trace.h5 and results.h5 in `folder`; returns their paths and the number of runs."""
    trace, results = os.path.join(folder, "trace.h5"), os.path.join(folder, "results.h5")
    shape = write_trace(trace, prompt=prompt, seed=seed)
    return trace, results, write_results(results, trace, shape, budgets, seed=seed + 1)


if __name__ == "__main__":
    write_sample(sys.argv[1], prompt=int(sys.argv[2]) if len(sys.argv) > 2 else 2000, budgets=(40, 100, 200, 500, 1000))
