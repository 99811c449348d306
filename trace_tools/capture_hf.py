#!/usr/bin/env python3
"""Reads a text with a Hugging Face model and writes what its attention saw to a trace of kvreplay."""

import argparse
import hashlib
import json
import math
import os
import shlex
import signal
import sys
import time

DESCRIPTION = """\
Runs any causal model of Hugging Face transformers, on a GPU or the CPU, and writes keys, values and queries after RoPE,
log-sum-exps, head outputs, column sums of the attention, the loss of every token and W_o to a trace that `kvreplay
replay` reads: the file that `kvreplay capture` writes (data/trace-format.md).

  capture_hf.py --model models/llama-3.1-8b --prompt story.txt --generate 64 --out t.h5
      the whole prompt, all queries: 23 GB for 32,768 tokens of an 8-billion model
  capture_hf.py --model models/llama-3.1-8b --prompt story.txt --chat --queries window:64 --device cuda --out t.h5
      the queries of the prompt's end and of all generated tokens: what most policies need, a quarter of that
  capture_hf.py --model models/m --ids ids.txt --prompt-length 1000 --queries 0-15,window:32 --layers 0-3,12 --out t.h5
      given tokens after the prompt instead of generated ones, some queries, some layers
  capture_hf.py --model models/m --prompt story.txt --attention window:8 --dtype bf16 --out t.h5
      the rows of attention weights of the last 8 prompt tokens too: (8 + generated) x tokens a head

The attention is computed here, in float32 and a few rows at a time: [heads, tokens, tokens] is never held. The time grows
with tokens x tokens. Models must go through transformers' attention interface, as Llama, Mistral, Qwen, Gemma, Phi, OLMo,
GPT-2 and most since 2025 do; sliding windows and soft caps are the model's own. The size is told and the free space checked
before the model reads a token. While it runs, everything is in OUT.partial; what was cut off opens up to its last
committed token.
"""

WHICH = """\
Parts between commas: `all`; `window:W`, the last W tokens of the prompt and every later one; `generated`, those after the
prompt; positions as `7` or `0-15`, counted from 0; `file:PATH`, positions between white space."""

TRIED = 32  # tokens that a model reads with its own attention first
NEEDS = "Needs torch, transformers (4.48 or later), h5py and numpy."


class Refused(Exception):
    """What the user has to know, in one line: where: what; remedy."""


# ---------------------------------------------------------------------------------------------- the command line

def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="capture_hf.py", description=DESCRIPTION, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="WHICH tokens:\n" + WHICH + "\n\n" + NEEDS)
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="the model's directory, or its name on the hub")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="FILE", help="the text to read, UTF-8")
    source.add_argument("--text", metavar="S", help="the text itself")
    source.add_argument("--ids", metavar="FILE", help="token ids between white space: no BOS is added")
    add("--out", required=True, metavar="T.h5", help="the trace to write; an existing one is replaced at the end")
    add("--chat", action="store_true", help="put the text into the model's chat template as the user's message")
    add("--prompt-length", type=int, metavar="P",
        help="the first P tokens are the prompt, the others are given as if generated (default: all are the prompt)")
    add("--generate", type=int, default=0, metavar="N", help="let the model add up to N tokens, the likeliest each time")
    add("--queries", default="all", metavar="WHICH", help="whose queries to record (default: all)")
    add("--attention", default="none", metavar="WHICH", help="whose rows of attention weights to record (default: none)")
    add("--layers", metavar="A-B,C", help="capture these layers only, counted from 0 (default: all)")
    add("--dtype", default="f16", choices=("f16", "f32", "bf16"),
        help="of keys, values, queries and W_o in the file; attention and head outputs are float32 with f32, else float16")
    add("--no-column-sums", action="store_true", help="leave out what H2O and its kin need")
    add("--no-projection", action="store_true", help="leave out W_o, which scores and errors of a layer's output need")
    add("--spans", metavar="FILE",
        help='marked stretches: JSON, [{"start": 0, "end": 12, "label": "needle"}, ...] in token positions')
    add("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("--compute-dtype", default="auto", choices=("auto", "f16", "f32", "bf16"),
        help="of the model's weights and layers (default: f32 on the CPU, the model's own on a GPU)")
    add("--block", type=int, default=512, metavar="N", help="prompt tokens read, and committed, at a time (default: 512)")
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add("--json", action="store_true", help="print machine-readable JSON on standard output")
    options = parser.parse_args(arguments)
    if options.chat and options.ids:
        parser.error("--chat needs a text, and --ids gives none")
    for name, least in (("generate", 0), ("block", 1), ("prompt_length", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise Refused(f"--{name.replace('_', '-')}: must be at least {least}")
    options.command = " ".join(["capture_hf.py", *map(shlex.quote, arguments)])
    return options


def read_text(path, option):
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError:
        raise Refused(f"{path}: is not UTF-8") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; give {option} a file that can be read") from None


def read_numbers(path, option):
    numbers = []
    for word in read_text(path, option).split():
        if not word.lstrip("-").isascii() or not word.lstrip("-").isdigit():
            raise Refused(f'{path}: "{printable(word[:32])}" is not a whole number, as {option} takes them')
        numbers.append(int(word))
    if not numbers:
        raise Refused(f"{path}: holds no numbers")
    return numbers


def read_spans(path, tokens):
    try:
        entries = json.loads(read_text(path, "--spans"))
        spans = [(entry["start"], entry["end"], entry["label"]) for entry in entries]
        if not all(type(start) is type(end) is int and isinstance(label, str) for start, end, label in spans):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise Refused(f'{path}: spans are [{{"start": 0, "end": 12, "label": "needle"}}, ...] in token positions') from None
    for start, end, label in spans:
        if not 0 <= start < end <= tokens:
            raise Refused(f'--spans: "{printable(label)}" ({start} to {end}) is no stretch of the {tokens} tokens')
    return spans


def numbers_of(part, option, count, what):
    """"7" or "0-15" as a range below `count`."""
    first, dash, last = part.partition("-")
    last = last if dash else first
    if not all(word.isascii() and word.isdigit() for word in (first, last)) or int(first) > int(last):
        raise Refused(f'{option}: "{printable(part)}" is not understood; `capture_hf.py --help` has the forms')
    if int(last) >= count:
        raise Refused(f"{option}: {what} {last} does not exist; they are 0 to {count - 1}")
    return range(int(first), int(last) + 1)


def positions_of(text, option, prompt_length, tokens):
    """The positions that `text` selects, as WHICH says, ascending."""
    chosen = set()
    for part in text.split(","):
        name, _, value = part.partition(":")
        if part == "all":
            chosen.update(range(tokens))
        elif part == "generated":
            chosen.update(range(prompt_length, tokens))
        elif part == "none" and text == "none" and option == "--attention":
            pass
        elif name == "window" and value.isascii() and value.isdigit() and int(value) > 0:
            chosen.update(range(max(0, prompt_length - int(value)), tokens))
        elif name == "file" and value:
            for number in read_numbers(value, option):
                chosen.update(numbers_of(str(number), option, tokens, "position"))
        else:
            chosen.update(numbers_of(part, option, tokens, "position"))
    if not chosen and text != "none":
        raise Refused(f'{option}: "{printable(text)}" selects no tokens')
    return sorted(chosen)


def printable(text):
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def bytes_text(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024


class Progress:
    """A line on the error stream while it is a terminal."""

    def __init__(self, tokens):
        self.tokens, self.start, self.shown = tokens, time.monotonic(), 0.0
        self.active = sys.stderr.isatty()

    def advance(self, tokens):
        now = time.monotonic()
        if not self.active or now - self.shown < 0.2:
            return
        self.shown = now
        # Attention costs tokens x tokens, everything else tokens: between the two is right for neither and good for both.
        share = max(1e-6, 0.5 * tokens / self.tokens + 0.5 * (tokens / self.tokens) ** 2)
        left = (now - self.start) * (1 - share) / share
        clock = f"{left // 60:.0f}:{left % 60:02.0f}"
        sys.stderr.write(f"\rcapturing {tokens:,.0f} of {self.tokens:,} tokens, {clock} left \x1b[K")
        sys.stderr.flush()

    def end(self):
        if self.active and self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


# ---------------------------------------------------------------------------------------------- the text

def byte_level_alphabet():
    """How byte-level BPE vocabularies (GPT-2's and later) write bytes: printable Latin-1 as it is, the rest from U+0100."""
    printable_bytes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable_bytes]
    return {**{chr(byte): byte for byte in printable_bytes}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


class TokenTexts:
    """The bytes that each token stands for in a text; a special token's name for itself."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        state = json.loads(backend.to_str()) if backend is not None else {}
        self.byte_level = "ByteLevel" in json.dumps([state.get("decoder"), state.get("pre_tokenizer")])
        self.alphabet = byte_level_alphabet()
        self.added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}

    def __call__(self, id):
        if id in self.added:
            return self.added[id].encode()
        token = self.tokenizer.convert_ids_to_tokens(id)
        if token is None:
            return b""
        if self.byte_level:
            return bytes(self.alphabet[c] for c in token) if all(c in self.alphabet for c in token) else token.encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    def most(self, vocabulary):
        return max(len(self(id)) for id in range(vocabulary))


def load_tokenizer(options):
    from transformers import AutoTokenizer
    try:
        # Of a folder without such files transformers makes a tokenizer that knows nothing.
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
        if os.path.isdir(options.model) and not any(os.path.isfile(os.path.join(options.model, name)) for name in names):
            raise ValueError("none of " + ", ".join(names) + " is there")
        return AutoTokenizer.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
    except Exception as error:  # of every kind, by tokenizer
        if options.ids:
            return None  # it would only add the texts of the tokens
        raise Refused(f"{options.model}: has no tokenizer that can be read: {one_line(error)}; --ids needs none") from None


def encode(options, tokenizer):
    """The given ids, and how the text became them for the manifest."""
    if options.ids:
        return read_numbers(options.ids, "--ids"), "none"
    text = options.text if options.text is not None else read_text(options.prompt, "--prompt")
    if not options.chat:
        # "<|eot_id|>" in a text is its characters: whoever writes a text must not be able to end a turn.
        return list(tokenizer(text, split_special_tokens=True)["input_ids"]), "none"
    if not getattr(tokenizer, "chat_template", None):
        raise Refused("--chat: the model has no chat template; leave --chat out for a base model")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True)
    if hasattr(ids, "keys"):
        ids = ids["input_ids"]
    digest = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return list(ids), f"chat template of the tokenizer, SHA-256 {digest}"


# ---------------------------------------------------------------------------------------------- the attention

class Attention:
    """Takes the place of the model's attention. Computes it row by row in float32 and hands what a capture wants to `sink`.

    transformers calls it once a layer and block with query [1, Hq, n, d], key and value [1, Hk, m, d] after RoPE, those of
    the cache included.
    """

    def __init__(self, torch):
        self.torch = torch
        self.first = 0            # position of the block's first token
        self.sink = None          # a Capture; None while the model is looked at
        self.seen = {}            # what the first call of each layer showed

    def __call__(self, module, query, key, value, attention_mask=None, scaling=None, sliding_window=None, softcap=None,
                 **others):
        layer = getattr(module, "layer_idx", None)
        if scaling is None:
            scaling = query.shape[-1] ** -0.5
        if layer not in self.seen:
            self._look(layer, module, query, key, value, scaling, sliding_window, softcap, others)
        count, keys = query.shape[2], key.shape[2]
        if query.shape[0] != 1 or keys != self.first + count:
            raise Refused(f"layer {layer}: attends to {keys} keys, not {self.first + count}; its cache is of another kind")
        output = self.torch.empty(query.shape[1], count, query.shape[3], dtype=self.torch.float32, device=query.device)
        wanted = self.sink.begin(layer, query[0], key[0], value[0]) if self.sink else None
        self._attend(query[0], key[0], value[0], float(scaling), sliding_window or 0, softcap or 0.0, output, wanted)
        if wanted is not None:
            self.sink.end(layer, output)
        return output.to(query.dtype).transpose(0, 1).unsqueeze(0).contiguous(), None

    def _look(self, layer, module, query, key, value, scaling, window, softcap, others):
        if layer is None:
            raise Refused("the model: its attention does not say which layer it is of")
        for name, given in others.items():
            if given is not None and name in ("s_aux", "sinks", "position_bias", "alibi", "head_mask"):
                raise Refused(f"layer {layer}: attention has {name}, which a trace has no place for")
        if not getattr(module, "is_causal", True):
            raise Refused(f"layer {layer}: attention is not causal")
        if value.shape != key.shape or query.shape[3] != key.shape[3]:
            raise Refused(f"layer {layer}: values have another dimension than keys, which a trace has no place for")
        self.seen[layer] = {"module": module, "query_heads": query.shape[1], "kv_heads": key.shape[1],
                            "head_dim": query.shape[3], "scale": plain_scale(float(scaling)), "softcap": softcap,
                            "window": int(window or 0)}

    def _attend(self, query, key, value, scale, window, cap, output, wanted):
        torch = self.torch
        key, value = key.float(), value.float()
        (query_heads, count, dim), kv_heads = query.shape, key.shape[0]
        query = query.float().view(kv_heads, query_heads // kv_heads, count, dim)
        # Scores of a few rows at a time.
        floats = (1 << 28) if query.is_cuda else (1 << 22)
        rows = max(1, min(count, floats // (query_heads * key.shape[1])))
        for begin in range(0, count, rows):
            end = min(count, begin + rows)
            oldest = max(0, self.first + begin - window + 1) if window else 0
            newest = self.first + end
            block = query[:, :, begin:end].reshape(kv_heads, -1, dim)
            scores = torch.bmm(block, key[:, oldest:newest].transpose(1, 2)).mul_(scale)
            if cap:
                scores = scores.div_(cap).tanh_().mul_(cap)
            scores = scores.view(query_heads, end - begin, newest - oldest)
            position = torch.arange(self.first + begin, newest, device=query.device)[:, None]
            other = torch.arange(oldest, newest, device=query.device)[None, :]
            unseen = (other > position) | (position - other >= window) if window else other > position
            scores.masked_fill_(unseen, float("-inf"))
            sums = torch.logsumexp(scores, dim=2)
            weights = scores.sub_(sums[..., None]).exp_()
            product = torch.bmm(weights.view(kv_heads, -1, newest - oldest), value[:, oldest:newest])
            output[:, begin:end] = product.view(query_heads, end - begin, dim)
            if wanted is not None:
                wanted.rows(begin, end, oldest, sums, weights)


def plain_scale(scale):
    """1 / sqrt(n) of the n that is meant; d ** -0.5 may differ in the last place."""
    square = round(scale**-2)
    return 1 / math.sqrt(square) if square > 0 and abs(scale**-2 - square) < 1e-9 * square else scale


def output_projection(module, width, hidden_size):
    """W_o of an attention layer as [C, Hq * d], or None."""
    for name in ("o_proj", "out_proj", "dense", "c_proj", "wo"):
        weight = getattr(getattr(module, name, None), "weight", None)
        if weight is None or weight.ndim != 2 or not weight.is_floating_point():
            continue
        if type(getattr(module, name)).__name__ == "Conv1D":  # GPT-2 stores it the other way
            weight = weight.t()
        if tuple(weight.shape) == (hidden_size, width):
            return weight
    return None


# ---------------------------------------------------------------------------------------------- the capture

class Stored:
    """Tensors as the file holds them, on the host. What the type cannot hold ends the capture."""

    def __init__(self, torch, dtype):
        self.torch = torch
        self.type = {"f16": torch.float16, "f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self.beside = torch.float32 if dtype == "f32" else torch.float16

    def __call__(self, tensor, where, beside=False):
        torch = self.torch
        converted = tensor.detach().to(self.beside if beside else self.type)
        if not bool(torch.isfinite(converted).all()):
            if bool(torch.isfinite(tensor).all()):
                wider = "f32" if beside else "f32 or bf16"
                raise Refused(f"{where}: is too large for float16; capture with --dtype {wider}")
            raise Refused(f"{where}: holds numbers that are not finite; try another --compute-dtype")
        host = converted.contiguous().cpu()
        return host.view(torch.int16).numpy().view("<u2") if host.dtype == torch.bfloat16 else host.numpy()


class Capture:
    """Hands what the attention shows to the writer."""

    def __init__(self, torch, layout, writer, stored, progress):
        self.torch, self.layout, self.writer, self.stored, self.progress = torch, layout, writer, stored, progress
        self.first, self.count, self.sums = 0, 0, {}

    def block(self, first, count):
        """The next block of tokens; which of its rows are recorded."""
        self.first, self.count = first, count
        inside = lambda positions: positions[(positions >= first) & (positions < first + count)] - first
        self.query_rows, self.attention_rows = inside(self.layout.query_positions), inside(self.layout.attention_positions)

    def begin(self, layer, query, key, value):
        if layer not in self.layout.layers:
            return None
        self.layer = layer
        self._append("key", key[:, self.first:])
        self._append("value", value[:, self.first:])
        if len(self.query_rows):
            self._append("query", query[:, self.query_rows])
        self.sums_of_rows = []
        if self.layout.column_sums and layer not in self.sums:
            self.sums[layer] = self.torch.zeros(query.shape[0], self.layout.tokens, device=query.device)
        return self

    def _append(self, name, tensor, beside=False):
        where = f"layer {self.layer}: {name} of tokens {self.first} to {self.first + self.count - 1}"
        self.writer.append(self.layer, name, self.stored(tensor, where, beside))

    def rows(self, begin, end, oldest, sums, weights):
        """Rows begin to end of the block: their log-sum-exps and weights on the keys from `oldest` on."""
        chosen = [row - begin for row in self.query_rows if begin <= row < end]
        if chosen:
            self.sums_of_rows.append(sums[:, chosen])
        prompt = min(end, self.layout.prompt_length - self.first) - begin
        if prompt > 0 and self.layout.column_sums:
            self.sums[self.layer][:, oldest:oldest + weights.shape[2]] += weights[:, :prompt].sum(dim=1)
        chosen = [row - begin for row in self.attention_rows if begin <= row < end]
        if chosen:
            self._append("attention", self.torch.nn.functional.pad(weights[:, chosen], (oldest, 0)), beside=True)

    def end(self, layer, output):
        if len(self.query_rows):
            self.writer.append(layer, "log_sum_exp", self.torch.cat(self.sums_of_rows, dim=1).cpu().numpy())
            self._append("head_output", output[:, self.query_rows], beside=True)
        place = self.layout.layers.index(layer) + 1
        self.progress.advance(self.first + self.count * place / len(self.layout.layers))

    def prompt_done(self):
        for layer, sums in self.sums.items():
            self.writer.append(layer, "attention_column_sum", sums.cpu().numpy())
        self.sums = {}


class Reader:
    """The model with its cache: reads blocks of tokens and knows each token's loss."""

    def __init__(self, torch, model, attention):
        from transformers import DynamicCache
        self.torch, self.model, self.attention = torch, model, attention
        self.cache = DynamicCache()  # without the model's configuration: every layer keeps all its keys
        self.tokens, self.logits = 0, None

    def read(self, ids):
        """Runs the model on the next tokens. Returns the negative log-likelihood of each, NaN for the first of all."""
        torch = self.torch
        self.attention.first = self.tokens
        given = torch.tensor([ids], device=self.model.get_input_embeddings().weight.device)
        logits = self.model(input_ids=given, past_key_values=self.cache, use_cache=True).logits[0].float()
        before = logits[:-1] if self.logits is None else torch.cat([self.logits, logits[:-1]])
        targets = given[0, len(ids) - len(before):].to(before.device)
        losses = torch.nn.functional.cross_entropy(before, targets, reduction="none")
        self.tokens, self.logits = self.tokens + len(ids), logits[-1:].clone()
        return ([float("nan")] if len(before) < len(ids) else []) + losses.tolist()

    def best_token(self):
        return int(self.logits[0].argmax())


def load_model(torch, transformers, options):
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = options.device == "cpu"
    dtype = {"f16": torch.float16, "f32": torch.float32, "bf16": torch.bfloat16,
             "auto": torch.float32 if on_cpu else "auto"}[options.compute_dtype]
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    named = {"dtype" if version >= (4, 56) else "torch_dtype": dtype}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=options.trust_remote_code,
                                                                  attn_implementation="eager", **named)
        return model.to(options.device).eval()
    except Exception as error:  # of every kind, by model and device
        raise Refused(f"{options.model}: cannot be loaded: {one_line(error)}") from None


def one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__)[:300]


def install(model, attention, ids):
    """Makes the model use `attention`, once that has given what the model's own gives for a few tokens."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    ALL_ATTENTION_FUNCTIONS["kvreplay"] = attention
    configs = [model.config] + [module.config for module in model.modules() if hasattr(module, "config")]
    kind = model.config.model_type
    if any("chunked_attention" in (getattr(config, "layer_types", None) or ()) for config in configs):
        raise Refused(f"{kind}: attends within chunks of the text, which a trace has no place for")
    try:
        given = attention.torch.tensor([ids[:TRIED]], device=model.get_input_embeddings().weight.device)
        own = model(input_ids=given, use_cache=False).logits.float()
        for config in configs:
            config._attn_implementation = "kvreplay"
        difference = model(input_ids=given, use_cache=False).logits.float() - own
    except Refused:
        raise
    except Exception as error:  # of every kind, by model
        raise Refused(f"{kind}: cannot be run: {one_line(error)}") from None
    if not attention.seen:
        raise Refused(f"{kind}: does not go through transformers' attention interface; try a later transformers")
    exact = next(model.parameters()).dtype == attention.torch.float32
    if float(difference.norm()) > (1e-3 if exact else 0.1) * float(own.norm()):
        raise Refused(f"{kind}: its attention has more to it than what it hands to transformers' attention interface")


def common(seen, key, what):
    values = {layer[key] for layer in seen.values()}
    if len(values) > 1:
        raise Refused(f"the model: its layers have different {what}, which a trace has no place for")
    return values.pop()


def rope_layout(module):
    """How the model's own rotate_half pairs the elements of a head: "half", "interleaved" or unknown."""
    rotate = getattr(sys.modules.get(type(module).__module__), "rotate_half", None)
    if rotate is None:
        return None
    import torch
    turned = rotate(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
    return {(-3.0, -4.0, 1.0, 2.0): "half", (-2.0, 1.0, -4.0, 3.0): "interleaved"}.get(tuple(turned))


def describe_model(options, model, seen):
    """The attributes of /model."""
    path = os.path.join(options.model, "config.json")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    else:
        config = model.config.to_dict()
    config = {**config, **config.get("text_config", {})}
    name = os.path.basename(os.path.realpath(options.model)) if os.path.isdir(options.model) else options.model
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    attributes = {"name": name, "architecture": model.config.model_type, "num_layers": int(text.num_hidden_layers),
                  "num_query_heads": common(seen, "query_heads", "numbers of heads"),
                  "num_kv_heads": common(seen, "kv_heads", "numbers of KV heads"),
                  "head_dim": common(seen, "head_dim", "head dimensions"), "hidden_size": int(text.hidden_size),
                  "attention_scale": common(seen, "scale", "attention scales")}
    softcap = common(seen, "softcap", "soft caps")
    if softcap:
        attributes["logit_softcap"] = float(softcap)
    attributes.update(describe_rope(config, text, next(iter(seen.values()))["module"]))
    digest = weights_sha256(options.model)
    if digest:
        attributes["weights_sha256"] = digest
    return attributes


def describe_rope(config, text, module):
    """What turns keys by position, where a trace can say it: one rotation of whole heads in every layer."""
    layout = rope_layout(module)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct", 1)))
    if layout is None or share != 1 or any(isinstance(value, dict) for value in scaling.values()):
        return {}
    theta = scaling.get("rope_theta", config.get("rope_theta", getattr(text, "rope_theta", None) or 10000))
    attributes = {"rope_theta": float(theta), "rope_layout": layout}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        attributes["rope_scaling"] = json.dumps(scaling, sort_keys=True, separators=(",", ":"))
    return attributes


def weight_files(folder):
    if os.path.isfile(os.path.join(folder, "model.safetensors")):
        return ["model.safetensors"]
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.isfile(index):
        return []
    with open(index, encoding="utf-8") as file:
        return sorted(set(json.load(file)["weight_map"].values()))


def weights_sha256(folder):
    """Of all weight files, one after the other in the order of their names; None for a model from the hub."""
    names = weight_files(folder)
    return sha256_of(*(os.path.join(folder, name) for name in names)) if names else None


def sha256_of(*paths):
    digest = hashlib.sha256()
    for path in paths:
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def stop_ids(model):
    generation = getattr(model, "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    ids = ids if ids is not None else getattr(model.config, "eos_token_id", None)
    return [] if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]


def load(options):
    """Model and tokenizer (or None), and the attention that has taken the place of the model's."""
    import torch
    import transformers
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = load_tokenizer(options)
    given, template = encode(options, tokenizer)
    model = load_model(torch, transformers, options)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    for id in given:
        if not 0 <= id < vocabulary:
            raise Refused(f"token {id}: is outside the model's vocabulary of {vocabulary} tokens")
    attention = Attention(torch)
    install(model, attention, given)
    return model, tokenizer, attention, given, template


def chosen_layers(options, seen, num_layers):
    if not options.layers:
        return sorted(seen)
    chosen = {n for part in options.layers.split(",") for n in numbers_of(part, "--layers", num_layers, "layer")}
    if not chosen & set(seen):
        raise Refused(f"--layers: {options.layers} has no attention in this model")
    return sorted(chosen & set(seen))


def projections_of(options, layout, seen):
    """W_o of each captured layer that has one of the usual kind."""
    if options.no_projection:
        return {}
    width = layout.model["num_query_heads"] * layout.model["head_dim"]
    hidden = layout.model["hidden_size"]
    weights = {layer: output_projection(seen[layer]["module"], width, hidden) for layer in layout.layers}
    missing = [str(layer) for layer, weight in weights.items() if weight is None]
    if missing:
        warn(f"layers {', '.join(missing)}: no output projection was found; the trace has none")
    return {layer: weight for layer, weight in weights.items() if weight is not None}


def make_layout(options, model, tokenizer, texts, attention, given, template):
    import numpy
    from kvreplay_trace_writer import Layout
    prompt_length, tokens = options.prompt_length or len(given), len(given) + options.generate
    if prompt_length > len(given):
        raise Refused(f"--prompt-length: must be from 1 to {len(given)}, the number of given tokens")
    attributes = describe_model(options, model, attention.seen)
    layers = chosen_layers(options, attention.seen, attributes["num_layers"])

    def select(option):
        return numpy.array(positions_of(getattr(options, option), f"--{option}", prompt_length, tokens), dtype=int)

    layout = Layout(
        model=attributes, tokens=tokens, prompt_length=prompt_length, layers=layers, query_positions=select("queries"),
        attention_positions=select("attention"), dtype=options.dtype, column_sums=not options.no_column_sums,
        spans=read_spans(options.spans, tokens) if options.spans else [],
        sliding_window={layer: attention.seen[layer]["window"] for layer in layers})
    if texts is not None:
        layout.text_bytes = sum(len(texts(id)) for id in given)
        if options.generate:
            layout.text_bytes += options.generate * texts.most(model.get_input_embeddings().weight.shape[0])
    layout.manifest = make_manifest(options, model, tokenizer, attributes, given, template)
    layout.attributes = {"created_by": layout.manifest["program"], "command": options.command,
                         "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return layout


def make_manifest(options, model, tokenizer, attributes, given, template):
    import numpy
    import torch
    import transformers
    return {
        "model": {key: attributes.get(key, "") for key in ("name", "architecture", "weights_sha256")},
        "tokenizer": tokenizer and {"description": f"{type(tokenizer).__name__}, {len(tokenizer)} tokens",
                                    "sha256": sha256_of(os.path.join(options.model, "tokenizer.json"))},
        "prompt_template": template,
        "given_ids_sha256": hashlib.sha256(numpy.array(given, "<i4").tobytes()).hexdigest(),
        "end_of_text_ids": stop_ids(model),
        "truncation": "none",
        "generation": {"method": "greedy", "requested": options.generate},
        "dtype": {"f16": "float16", "f32": "float32", "bf16": "bfloat16"}[options.dtype],
        "compute_dtype": str(model.dtype).removeprefix("torch."),
        "attention_path": f"exact softmax of each row in float32, blocks of {options.block} queries, {model.device}",
        "queries": options.queries,
        "attention": options.attention,
        "seed": None,  # nothing is random
        "program": f"capture_hf.py, transformers {transformers.__version__}, torch {torch.__version__}",
        "command": options.command}


def warn(message):
    print(f"warning: {message}", file=sys.stderr)


def capture(options):
    from kvreplay_trace_writer import TraceWriter, predicted_size
    model, tokenizer, attention, given, template = load(options)
    texts = TokenTexts(tokenizer) if tokenizer is not None else None
    layout = make_layout(options, model, tokenizer, texts, attention, given, template)
    weights = projections_of(options, layout, attention.seen)
    layout.projections = set(weights)
    predicted = predicted_size(layout)
    if not options.json:
        print(f"{options.out}: {layout.tokens} tokens, {len(layout.layers)} layers, {bytes_text(predicted)}", flush=True)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and layout.tokens > longest:
        warn(f"the model was made for {longest} positions; this is {layout.tokens}")
    stored, progress = Stored(attention.torch, options.dtype), Progress(layout.tokens)
    projections = ((layer, stored(weight, f"layer {layer}: W_o")) for layer, weight in weights.items())
    writer = TraceWriter(options.out, layout, projections)
    try:
        attention.sink = Capture(attention.torch, layout, writer, stored, progress)
        result = read_everything(options, given, layout, Reader(attention.torch, model, attention), writer, texts)
        return {**result, "predicted_bytes": predicted}
    except BaseException as error:
        progress.end()
        writer.abandon()
        if isinstance(error, OSError) and writer.committed:
            safe = f"the {writer.committed} tokens committed before are in {writer.partial}"
            raise Refused(f"{one_line(error)}; {safe}") from None
        raise


def read_everything(options, given, layout, reader, writer, texts):
    """The given tokens block by block, then the model's own one by one."""
    sink, ends, prompt_length = reader.attention.sink, stop_ids(reader.model), layout.prompt_length

    def read(ids, commit=True):
        sink.block(reader.tokens, len(ids))
        losses = reader.read(ids)
        writer.append_tokens(ids, losses, texts and [texts(id) for id in ids])
        if reader.tokens == prompt_length:
            sink.prompt_done()
        if commit:
            writer.commit(reader.tokens)

    started = time.monotonic()
    for begin, end in ((0, prompt_length), (prompt_length, len(given))):
        for at in range(begin, end, options.block):
            read(given[at:min(end, at + options.block)])
    read_seconds, started, generated = time.monotonic() - started, time.monotonic(), []
    while len(generated) < options.generate and not (generated and generated[-1] in ends):
        generated.append(reader.best_token())
        read(generated[-1:], commit=reader.tokens % 16 == 15)  # each commit writes the last chunk of every dataset again
    sink.progress.end()
    writer.finish(reader.tokens)
    result = {"out": options.out, "tokens": reader.tokens, "prompt_length": prompt_length,
              "bytes": os.path.getsize(options.out), "prompt_seconds": read_seconds,
              "generation_seconds": time.monotonic() - started, "tokens_per_second": len(given) / max(1e-9, read_seconds),
              "generated_ids": generated, "stopped_early": len(generated) < options.generate}
    if texts is not None:
        special = set(texts.tokenizer.all_special_ids)
        plain = b"".join(texts(id) for id in generated if id not in special)
        result["generated_text"] = plain.decode("utf-8", "replace")
    return result


def summary(result, given):
    lines = [f"read {given} tokens in {result['prompt_seconds']:.1f} s ({result['tokens_per_second']:.0f} tokens/s)"]
    if result["generated_ids"]:
        lines[0] += f", generated {len(result['generated_ids'])} in {result['generation_seconds']:.1f} s"
        lines[0] += ", ended by the model" if result["stopped_early"] else ""
    lines.append(f"{result['out']}: {bytes_text(result['bytes'])}")
    if result["generated_ids"]:
        if "generated_text" in result:
            lines.append(f"generated: {printable(result['generated_text'])}")
        else:
            lines.append("generated ids: " + " ".join(map(str, result["generated_ids"])))
    return "\n".join(lines)


def main(arguments=None):
    try:
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        result = capture(options)
        if options.json:
            print(json.dumps(result, indent=2))
        else:
            print(summary(result, result["tokens"] - len(result["generated_ids"])))
        return 0
    except KeyboardInterrupt:
        print("capture_hf.py: cancelled", file=sys.stderr)
        return 130
    except ImportError as error:
        print(f"capture_hf.py: {one_line(error)}; it needs torch, transformers, h5py and numpy", file=sys.stderr)
    except (Refused, ValueError, OSError, RuntimeError) as error:
        message = str(error) if isinstance(error, Refused) else one_line(error)
        print(f"capture_hf.py: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
