"""Reads the files of kvreplay with h5py: traces and results, numpy arrays out. data/trace-format.md defines both.

    import kvreplay_files

    with kvreplay_files.open_trace("t.h5") as trace:
        trace.num_tokens, trace.prompt_length, trace.layers, trace.model["head_dim"]
        key = trace.read(0, "key")              # [KV heads, tokens, head_dim]
        trace.ids, trace.texts, trace.nll       # [tokens]; the last two are None where the trace has none

    for run in kvreplay_files.read_results("r.h5"):
        run["policy"], run["budget"], run["evicted_at"].shape, run["metrics"]["output_error"].mean()

A trace that was cut off (T.h5.partial) opens up to its last committed token. Arrays have the type of the file; bfloat16,
which numpy does not know, becomes float32. What is wrong with a file is a ValueError that names it. Needs h5py and numpy.
"""

import json

import h5py
import numpy

# Datasets of a layer, and which of their axes count tokens, recorded queries and rows of attention.
AXES = {"key": (None, "tokens", None), "value": (None, "tokens", None), "query": (None, "queries", None),
        "output_projection": (None, None), "output_gram": (None, None, None), "attention": (None, "attention", "tokens"),
        "log_sum_exp": (None, "queries"), "attention_column_sum": (None, "tokens"), "head_output": (None, "queries", None)}


def _open(path, wanted):
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            file = h5py.File(path, "r", swmr=True)  # a capture that was cut off, or is being written
        except OSError:
            raise ValueError(f"{path}: cannot be read as HDF5: {error}") from None
    found, version = _text(file.attrs.get("format", "")), int(file.attrs.get("version", 0))
    versions = (1, 2) if wanted == "kvreplay-results" else (1,)
    if found != wanted or version not in versions:
        file.close()
        wanted_versions = " or ".join(map(str, versions))
        raise ValueError(f'{path}: is "{found}" version {version}; wanted is "{wanted}" version {wanted_versions}')
    return file


def _text(value):
    """A string attribute, whichever of HDF5's two kinds it is."""
    if isinstance(value, numpy.ndarray):
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace").rstrip("\0") if isinstance(value, bytes) else str(value)


def _plain(value):
    """An attribute as Python's own number, string or list."""
    if isinstance(value, (str, bytes)) or getattr(value, "dtype", numpy.dtype(int)).kind in "SUO":
        return _text(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _attributes(node):
    return {name: _plain(value) for name, value in node.attrs.items()}


def _values(dataset, limits=()):
    """The dataset up to `limits` along its axes (None: all); stored bfloat16 as float32."""
    array = dataset[tuple(slice(0, limit) for limit in limits)] if limits else dataset[...]
    if _text(dataset.attrs.get("encoding", "")) == "bfloat16":
        array = (array.astype(numpy.uint32) << 16).view(numpy.float32)
    return array


class Trace:
    """An open trace; use it in a `with` statement. Small things are attributes, `read` reads a layer's tensor."""

    def __init__(self, path):
        self.path, self._file = path, _open(path, "kvreplay-trace")
        try:
            self._read_head()
        except KeyError as error:
            self._file.close()
            raise ValueError(f"{path}: lacks a part that every trace has: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def _read_head(self):
        file, tokens = self._file, self._file["tokens"]
        self.attributes = _attributes(file)          # created_by, created_utc, command, ...
        self.complete = self.attributes.get("complete") == 1
        self.model = _attributes(file["model"])      # num_layers, num_query_heads, num_kv_heads, head_dim, ...
        self.manifest = json.loads(self.attributes.pop("manifest", "null"))
        total, prompt = len(tokens["ids"]), int(tokens.attrs["prompt_length"])
        self.num_tokens = total if self.complete else min(total, int(file["committed_tokens"][0]))
        if self.num_tokens < 1:
            raise ValueError(f"{self.path}: was cut off before anything was committed")
        self.prompt_length = min(prompt, self.num_tokens)
        self._prompt_done = self.num_tokens >= prompt
        self.ids = tokens["ids"][: self.num_tokens]
        self.nll = tokens["nll"][: self.num_tokens] if "nll" in tokens else None
        self.query_positions = self._positions("positions")
        self.attention_positions = self._positions("attention_positions")  # None: no attention was recorded
        self.layers = sorted(int(name) for name in file["layers"])         # those that were captured
        self.spans = []                                                    # (first, one past the last, label)
        if "span_start" in tokens:
            spans = zip(tokens["span_start"][...].tolist(), tokens["span_end"][...].tolist(), tokens["span_label"][...])
            self.spans = [(start, min(end, self.num_tokens), _text(label)) for start, end, label in spans
                          if start < self.num_tokens]

    def _positions(self, name):
        if name not in self._file["queries"]:
            return None
        positions = self._file["queries"][name][...]
        return positions[: numpy.searchsorted(positions, self.num_tokens)]

    @property
    def texts(self):
        """The tokens' own bytes, one entry a token; None where the trace has none."""
        tokens = self._file["tokens"]
        if "text_offsets" not in tokens:
            return None
        offsets = tokens["text_offsets"][: self.num_tokens + 1].tolist()
        text = tokens["text"][: offsets[-1]].tobytes()
        return [text[begin:end] for begin, end in zip(offsets, offsets[1:])]

    def sliding_window(self, layer):
        """How many keys a query of this layer sees; 0: all before it."""
        return int(self._layer(layer).attrs.get("sliding_window", 0))

    def datasets(self, layer):
        """The names that `read` has for this layer."""
        names = [name for name in AXES if name in self._layer(layer)]
        return names if self._prompt_done else [name for name in names if name != "attention_column_sum"]

    def read(self, layer, name):
        """A tensor of a layer, with the axes that data/trace-format.md gives."""
        if name not in self.datasets(layer):
            raise ValueError(f"{self.path}: layer {layer} has no {name}; it has {', '.join(self.datasets(layer))}")
        counts = {"tokens": self.num_tokens, "queries": len(self.query_positions), None: None}
        if self.attention_positions is not None:
            counts["attention"] = len(self.attention_positions)
        return _values(self._layer(layer)[name], [counts[axis] for axis in AXES[name]])

    def _layer(self, layer):
        if layer not in self.layers:
            raise ValueError(f"{self.path}: layer {layer} was not captured; those that were: {self.layers}")
        return self._file[f"layers/{layer:03d}"]

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_trace(path):
    return Trace(path)


def read_results(path):
    """A list with a dict for each run, in the order of the file.

    It has the run's attributes (policy, budget, cache_bytes, ...; `parameters` and `notes` parsed), `name`, `evicted_at`
    [L, H, T] (None in runs with summaries only), `scores` [L, H, P] or None, `metrics` (arrays by name) and `summary` (means by name).
    """
    runs = []
    with _open(path, "kvreplay-results") as file:
        for name in sorted(file["runs"] if "runs" in file else ()):
            group = file["runs"][name]
            run = {**_attributes(group), "name": name, "evicted_at": None, "scores": None}
            for parsed in ("parameters", "notes"):
                if parsed in run:
                    run[parsed] = json.loads(run[parsed])
            if "evicted_at" in group:
                run["evicted_at"] = _values(group["evicted_at"])
            if "scores" in group:
                run["scores"] = _values(group["scores"])
            run["metrics"] = {metric: _values(values) for metric, values in group.get("metrics", {}).items()}
            run["summary"] = _attributes(group["summary"]) if "summary" in group else {}
            runs.append(run)
    return runs
