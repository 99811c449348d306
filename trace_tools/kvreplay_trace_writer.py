"""Writes a trace file of kvreplay (data/trace-format.md) block by block while it is being made, with h5py.

    writer = TraceWriter("t.h5", layout)
    for each block of tokens: for each layer: writer.append(layer, "key", rows); ...
                              writer.append_tokens(ids, nll, texts)
                              writer.commit(tokens_so_far)
    writer.finish(tokens)                                # T.h5.partial becomes T.h5

Like `kvreplay capture`: sizes are fixed before the first byte, whole chunks are written in single-writer mode, then flushed,
then counted in /committed_tokens; whatever is counted survives a kill. Needs h5py and numpy.
"""

import dataclasses
import json
import os
import shutil

import h5py
import numpy

STORED = {"f16": numpy.dtype("<f2"), "f32": numpy.dtype("<f4"), "bf16": numpy.dtype("<u2")}
ROWS = 256  # of a chunk


@dataclasses.dataclass
class Layout:
    """Everything about a trace but its tensors, fixed before the capture starts."""
    model: dict                     # attributes of /model: num_layers, num_query_heads, head_dim, hidden_size, ...
    tokens: int                     # at most; finish() cuts off what generation did not need
    prompt_length: int
    layers: list                    # captured, ascending
    query_positions: numpy.ndarray
    attention_positions: numpy.ndarray
    sliding_window: dict = dataclasses.field(default_factory=dict)  # layer: window, where there is one
    dtype: str = "f16"              # of key, value, query, W_o; attention and head outputs are f32 with f32, else f16
    projections: set = dataclasses.field(default_factory=set)       # layers whose W_o is written
    column_sums: bool = True
    text_bytes: int = -1            # of all tokens, at most; -1: the trace has no texts
    spans: list = dataclasses.field(default_factory=list)           # (first, one past the last, label)
    manifest: dict = dataclasses.field(default_factory=dict)
    attributes: dict = dataclasses.field(default_factory=dict)      # of the file: created_by, created_utc, command


class _Rows:
    """A dataset that grows along one axis. In memory it is [outer, rows, inner]; rows are gathered into whole chunks."""

    def __init__(self, node, shape, dtype, axis, rows_chunk=None, outer_chunk=1, encoding=""):
        self.node, self.shape, self.dtype, self.axis, self.encoding = node, shape, numpy.dtype(dtype), axis, encoding
        self.rows = shape[axis]
        chunks = max(1, -(-self.rows // ROWS))
        # Fewer rows where the last chunk, which is stored whole, would waste more than an eighth of the file.
        balanced = ROWS if self.rows >= 8 * ROWS else max(1, -(-self.rows // chunks))
        self.rows_chunk = min(rows_chunk or balanced, max(1, self.rows))
        self.chunk = list(shape)
        self.chunk[axis] = self.rows_chunk
        if axis == 1:
            self.chunk[0] = outer_chunk
        self.outer = shape[0] if axis == 1 else 1
        self.inner = int(numpy.prod(shape[axis + 1:]))
        self.appended, self.staging, self.staged, self.unflushed, self.dataset = 0, None, False, False, None

    def stored_bytes(self):
        per_chunk = int(numpy.prod(self.chunk)) * self.dtype.itemsize
        return per_chunk * int(numpy.prod([-(-n // c) for n, c in zip(self.shape, self.chunk)]))

    def create(self, file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_chunk(tuple(self.chunk))
        most = list(self.shape)
        most[self.axis] += 1  # one chunk without room to grow gets an index that single-writer mode does not support
        space = h5py.h5s.create_simple(tuple(self.shape), tuple(most))
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        h5py.h5d.create(file.id, self.node.encode(), h5py.h5t.py_create(self.dtype), space, properties, links)
        if self.encoding:
            file[self.node].attrs["encoding"] = self.encoding

    def append(self, values):
        values = values.reshape(self.outer, -1, self.inner)
        if self.appended + values.shape[1] > self.rows:
            raise ValueError(f"{self.node}: {self.appended + values.shape[1]} rows, and the layout has {self.rows}")
        done = 0
        while done < values.shape[1]:
            if self.staging is None:
                self.staging = numpy.zeros((self.outer, self.rows_chunk, self.inner), self.dtype)
            at = self.appended % self.rows_chunk
            count = min(values.shape[1] - done, self.rows_chunk - at)
            self.staging[:, at:at + count] = values[:, done:done + count]
            self.appended, done, self.staged = self.appended + count, done + count, True
            if self.appended % self.rows_chunk == 0:
                self._write()
                self.staging = None

    def _write(self):
        row = (self.appended - 1) // self.rows_chunk * self.rows_chunk
        step = self.chunk[0] if self.axis == 1 else 1
        for outer in range(0, self.outer, step):
            offset = [0] * len(self.shape)
            offset[self.axis] = row
            if self.axis == 1:
                offset[0] = outer
            self.dataset.id.write_direct_chunk(tuple(offset), self.staging[outer:outer + step].tobytes())
        self.staged, self.unflushed = False, True

    def flush(self):
        if self.staged:
            self._write()
        if self.unflushed:
            self.dataset.flush()
        self.unflushed = False


def _growing(layout):
    """The datasets that are written row by row."""
    m, tokens, stored = layout.model, layout.tokens, STORED[layout.dtype]
    exact = layout.dtype == "f32"
    encoding = "bfloat16" if layout.dtype == "bf16" else ""
    query_heads, kv_heads, dim = m["num_query_heads"], m["num_kv_heads"], m["head_dim"]
    queries, rows = len(layout.query_positions), len(layout.attention_positions)
    yield _Rows("tokens/ids", [tokens], "<i4", 0, min(tokens, 4096))
    yield _Rows("tokens/nll", [tokens], "<f4", 0, min(tokens, 4096))
    if layout.text_bytes >= 0:
        yield _Rows("tokens/text", [max(1, layout.text_bytes)], "u1", 0, 4096)
        yield _Rows("tokens/text_offsets", [tokens + 1], "<i8", 0, 4096)
    for layer in layout.layers:
        node = f"layers/{layer:03d}/"
        for name, heads, count in (("key", kv_heads, tokens), ("value", kv_heads, tokens), ("query", query_heads, queries)):
            yield _Rows(node + name, [heads, count, dim], stored, 1, encoding=encoding)
        yield _Rows(node + "head_output", [query_heads, queries, dim], "<f4" if exact else "<f2", 1)
        yield _Rows(node + "log_sum_exp", [query_heads, queries], "<f4", 1, outer_chunk=query_heads)
        if rows:
            wide = max(1, (1 << 20) // (tokens * (4 if exact else 2)))  # chunks of about 1 MiB
            yield _Rows(node + "attention", [query_heads, rows, tokens], "<f4" if exact else "<f2", 1, min(rows, wide, ROWS))
        if layout.column_sums:  # one chunk, so that it is there whole or not at all
            yield _Rows(node + "attention_column_sum", [query_heads, tokens], "<f4", 0, query_heads)


def _write_head(file, layout, growing):
    """All of the file but the tensors."""
    file.attrs.update({"format": "kvreplay-trace", "version": 1, "complete": 0, **layout.attributes})
    file.attrs["manifest"] = json.dumps(layout.manifest, ensure_ascii=False)
    file.create_group("model").attrs.update(layout.model)
    file.create_group("tokens").attrs["prompt_length"] = layout.prompt_length
    layers = file.create_group("layers")
    if len(layout.layers) < layout.model["num_layers"]:
        layers.attrs["captured"] = numpy.int32(layout.layers)
    for layer in layout.layers:
        group = layers.create_group(f"{layer:03d}")
        if layout.sliding_window.get(layer, 0) > 0:
            group.attrs["sliding_window"] = layout.sliding_window[layer]
    lists = {"queries/positions": numpy.int32(layout.query_positions)}
    if len(layout.attention_positions):
        lists["queries/attention_positions"] = numpy.int32(layout.attention_positions)
    if layout.spans:
        labels = [label.encode() for _, _, label in layout.spans]
        lists["tokens/span_start"] = numpy.int32([start for start, _, _ in layout.spans])
        lists["tokens/span_end"] = numpy.int32([end for _, end, _ in layout.spans])
        lists["tokens/span_label"] = numpy.array(labels, h5py.string_dtype("utf-8", max(1, *map(len, labels))))
    for node, values in lists.items():
        file.create_dataset(node, data=values, maxshape=(len(values) + 1,), chunks=(len(values),))
    for rows in growing:
        rows.create(file)
    file["committed_tokens"] = numpy.int64([0])


def predicted_size(layout):
    """Bytes of the finished file, right within about 2 %."""
    m, growing = layout.model, list(_growing(layout))
    with h5py.File("predicted size", "w", driver="core", backing_store=False, block_size=64, libver=("v110", "v110")) as file:
        _write_head(file, layout, growing)
        file.flush()
        size = file.id.get_filesize()
    projection = m["hidden_size"] * m["num_query_heads"] * m["head_dim"] * STORED[layout.dtype].itemsize
    return size + len(layout.projections) * projection + sum(rows.stored_bytes() for rows in growing)


class TraceWriter:
    def __init__(self, path, layout, projections=None):
        """`projections` gives (layer, W_o as stored) for each of layout.projections. Raises ValueError and OSError."""
        self.path, self.partial, self.layout, self.committed = path, path + ".partial", layout, 0
        self._check_place()
        self._growing = {rows.node: rows for rows in _growing(layout)}
        # The file format of HDF5 1.10, which all readers understand.
        self._file = h5py.File(self.partial, "w", libver=("v110", "v110"))
        try:
            _write_head(self._file, layout, self._growing.values())
            for layer, weights in projections or ():
                dataset = self._file.create_dataset(f"layers/{layer:03d}/output_projection", data=weights)
                if layout.dtype == "bf16":
                    dataset.attrs["encoding"] = "bfloat16"
            self._open_datasets()
            self._file.swmr_mode = True
        except BaseException:
            self.abandon()
            raise
        if layout.text_bytes >= 0:
            self._growing["tokens/text_offsets"].append(numpy.int64([0]))
        self._text = 0

    def _check_place(self):
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise ValueError(f"{self.path}: the folder does not exist")
        if os.path.isdir(self.path):
            raise ValueError(f"{self.path}: is a directory; give the name of a file")
        if os.path.exists(self.partial):
            raise ValueError(f"{self.partial}: is left over from a capture that was cut off; move it away or remove it")
        free, wanted = shutil.disk_usage(folder).free, predicted_size(self.layout)
        if free < wanted:
            raise ValueError(f"{self.path}: needs {wanted / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free")

    def _open_datasets(self):
        for rows in self._growing.values():
            access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
            access.set_chunk_cache(1, 0, 0.75)  # none: whole chunks go straight to the file
            rows.dataset = h5py.Dataset(h5py.h5d.open(self._file.id, rows.node.encode(), access))
        self._mark = self._file["committed_tokens"]

    def append(self, layer, name, rows):
        """Rows that follow those already there: [heads, n, columns], of log_sum_exp [heads, n]; numbers as stored.

        Rows of attention may be shorter than the sequence; the rest is 0. Column sums are given whole, once, when the prompt
        is done, before the commit that says so.
        """
        target = self._growing[f"layers/{layer:03d}/{name}"]
        if name == "attention":
            rows = numpy.pad(rows, ((0, 0), (0, 0), (0, self.layout.tokens - rows.shape[2])))
        target.append(rows)

    def append_tokens(self, ids, nll, texts=None):
        self._growing["tokens/ids"].append(numpy.int32(ids))
        self._growing["tokens/nll"].append(numpy.float32(nll))
        if self.layout.text_bytes >= 0:
            lengths = numpy.cumsum([len(text) for text in texts])
            self._growing["tokens/text"].append(numpy.frombuffer(b"".join(texts), numpy.uint8))
            self._growing["tokens/text_offsets"].append(self._text + lengths)
            self._text += int(lengths[-1])

    def commit(self, tokens):
        """All datasets hold everything of the first `tokens` tokens."""
        for rows in self._growing.values():
            rows.flush()
        self._mark[0] = tokens
        self._mark.flush()
        self.committed = tokens

    def finish(self, tokens):
        """The capture is done, with so many tokens in the end."""
        self.commit(tokens)
        self._close()
        # Datasets can only be made smaller outside single-writer mode.
        with h5py.File(self.partial, "r+", libver=("v110", "v110")) as file:
            self._shrink(file, tokens)
            file.attrs["complete"] = 1
        os.replace(self.partial, self.path)

    def _shrink(self, file, tokens):
        for rows in self._growing.values():
            shape = [rows.appended if axis == rows.axis else n for axis, n in enumerate(rows.shape)]
            if rows.node.endswith(("/attention", "/attention_column_sum")):
                shape[-1] = tokens
            if shape != rows.shape:
                file[rows.node].resize(shape)
        for positions in file["queries"].values():
            positions.resize((int(numpy.searchsorted(positions[...], tokens)),))
        spans = [(start, min(end, tokens), label) for start, end, label in self.layout.spans if start < tokens]
        if spans != self.layout.spans:
            for name, values in zip(("span_start", "span_end", "span_label"), zip(*spans) if spans else ((), (), ())):
                dataset = file["tokens"][name]
                dataset.resize((len(values),))
                if values:
                    dataset[...] = numpy.array([v.encode() if isinstance(v, str) else v for v in values], dataset.dtype)

    def _close(self):
        for rows in self._growing.values():
            rows.dataset = None
        self._mark = None
        self._file.close()

    def abandon(self):
        """Ends a capture that cannot go on. What was committed stays in PATH.partial; where nothing was, it is removed."""
        if self.committed == 0:
            self._close()
            os.remove(self.partial)
        elif self._file:
            # Closing would write what HDF5 still has in memory, and on a full disk leave parts that contradict each other.
            # What is in the file now is what a kill would have left: complete up to the mark. So HDF5 gets to write elsewhere.
            elsewhere = os.memfd_create("abandoned")
            os.dup2(elsewhere, self._file.id.get_vfd_handle())
            os.close(elsewhere)
            try:
                self._close()
            except (OSError, RuntimeError):
                pass  # nothing of it would have counted
