"""Runs in the Python that has torch, for capture_hf_test.py: makes models, and captures without loading torch each time.

Reads one JSON request a line: {"make": NAME, "out": FOLDER, "seed": N} or {"capture": [arguments of capture_hf.py]}. Answers
with one line each: {"code": exit code, "out": standard output, "err": error stream}.
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
    try:
        return capture_hf.main(request["capture"])
    except SystemExit as end:
        return end.code


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
