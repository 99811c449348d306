"""Runs in the Python that has torch, for capture_hf_test.py: makes models, and captures without loading torch each time.

Reads one JSON request a line: {"make": NAME, "out": FOLDER, "seed": N} or {"capture": [arguments of capture_hf.py]}, the
latter with "sharpened": true for a Mistral whose attention does more than it says. Answers with one line each:
{"code": exit code, "out": standard output, "err": error stream}.
"""

import contextlib
import io
import json
import os
import sys
import traceback

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
sys.path[:0] = [os.path.join(ROOT, "trace_tools"), os.path.join(ROOT, "tests/fixtures")]


def answer(request):
    if request.get("make") == "gpt2":
        import transformers
        config = transformers.GPT2Config(vocab_size=80, n_positions=128, n_embd=40, n_layer=2, n_head=4)
        transformers.GPT2LMHeadModel(config).save_pretrained(os.path.join(request["out"], "gpt2"))
        return 0
    if "make" in request:
        import make_model_fixtures
        make_model_fixtures.save_model(request["make"], request["out"], request["seed"])
        return 0
    import capture_hf
    from transformers.models.mistral import modeling_mistral
    own = modeling_mistral.eager_attention_forward
    if request.get("sharpened"):
        modeling_mistral.eager_attention_forward = lambda module, query, *rest, **more: own(module, 2 * query, *rest, **more)
    try:
        return capture_hf.main(request["capture"])
    except SystemExit as end:
        return end.code
    finally:
        modeling_mistral.eager_attention_forward = own


def main():
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = answer(json.loads(line))
            except Exception:  # reported to the test, which fails
                traceback.print_exc()
                code = -1
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), flush=True)


if __name__ == "__main__":
    main()
