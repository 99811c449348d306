"""Trains the model on one GPU: prose with planted statements and questions, in legs that can be resumed.

    python train.py --books BOOKS --out RUN --total-seconds 1080 --leg-seconds 540            # first leg
    python train.py --books BOOKS --out RUN --total-seconds 1080 --leg-seconds 540 --resume   # the next

The schedule runs by time, not by steps: whatever the GPU, the run ends when its time is up. RUN holds the checkpoint
(float32 and the optimizers' states), log.csv and, after every leg, the model in float16 as it ships.

    python train.py --books BOOKS --out RUN2 --total-seconds 110 --leg-seconds 110 --refine MODEL

refines a model on text worded differently: from its weights, with optimizers anew and a lower learning rate that falls
to nothing. (README.md says how the shipped model was made.)
"""

import argparse
import csv
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import model as reader
from books import BEGIN_OF_TEXT, encode_books, read_books
from data_generator import ANSWER, COPY, GIVEN, TrainingBatches
from muon import Muon

# (share of the time, sequence length, sequences a step): about 131,072 tokens a step
PHASES = [(0.28, 512, 256), (0.32, 2048, 64), (0.30, 8192, 16), (0.10, 8448, 16)]  # the last with room for what is generated
REFINING_PHASES = [(0.47, 2048, 64), (0.53, 8448, 16)]
REFINING_LR = 0.35         # of the rates below
WARM_UP_STEPS = 200
DECAY_FROM = 0.40          # share of the time after which the learning rate falls, in a line, to nothing
MATRIX_LR, OTHER_LR = 0.02, 3e-3
MATRIX_WEIGHT_DECAY, EMBEDDING_WEIGHT_DECAY = 0.05, 0.05
DROPOUT = 0.1              # on what attention and MLP add to the residual stream: the prose is read some forty times
COPY_WEIGHT = 0.3
LOG_EVERY, EVALUATE_EVERY = 50, 250
FIELDS = ["step", "seconds", "tokens", "length", "learning_rate", "prose_nll", "answer_nll", "answer_digits_right", "held_out_nll"]


class Batches(torch.utils.data.IterableDataset):
    def __init__(self, source):
        self.source = source

    def __iter__(self):
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        for tokens, roles in self.source.stream(worker.id if worker else 0):
            yield torch.from_numpy(tokens.astype(np.int32)), torch.from_numpy(roles)


def low_precision_logits(model, tokens):
    """Logits in bfloat16 on a GPU, in float32 elsewhere."""
    on_gpu = tokens.device.type == "cuda"
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu):
        return model.logits(model.hidden(tokens, torch.bfloat16 if on_gpu else torch.float32))


def loss_function(logits, target, role):
    """(loss, nats a token of prose, nats a token of answers, share of answer tokens right).

    logits [batch, length, vocabulary]; target and role [batch, length]: the next token, and what it counts for."""
    nll = F.cross_entropy(logits.float().flatten(0, 1), target.flatten().long(), reduction="none").view(target.shape)
    text, answer = (role != GIVEN).float(), (role == ANSWER).float()
    focus = answer + COPY_WEIGHT * (role == COPY).float()
    mean = lambda weight: (nll * weight).sum() / weight.sum().clamp(min=1)
    right = ((logits.argmax(-1) == target).float() * answer).sum() / answer.sum().clamp(min=1)
    return mean(text) + mean(focus), mean(text - answer).detach(), mean(answer).detach(), right


@torch.no_grad()
def held_out_nll(model, prose, length=2048, windows=16):
    """Nats a token over windows of held-out prose, each after a begin-of-text token."""
    model.eval()
    starts = np.linspace(0, len(prose) - length - 1, windows).astype(int)
    tokens = torch.stack([torch.from_numpy(np.concatenate([[BEGIN_OF_TEXT], prose[s:s + length]]).astype(np.int64)) for s in starts])
    tokens = tokens.to(next(model.parameters()).device)
    with torch.compiler.set_stance("force_eager"):
        logits = low_precision_logits(model, tokens[:, :-1])
    nll = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
    model.train()
    return nll.item()


def phase_at(progress, phases):
    for i, (share, _, _) in enumerate(phases):
        progress -= share
        if progress < 0:
            return i
    return len(phases) - 1


def learning_rate_factor(progress, step, refining):
    if refining:
        return REFINING_LR * (1 - progress) * min(1.0, (step + 1) / 50)
    decay = 1.0 if progress < DECAY_FROM else max(0.0, (1 - progress) / (1 - DECAY_FROM))
    return decay * min(1.0, (step + 1) / WARM_UP_STEPS)


def encoded_books(arguments, tokenizer, held_out):
    """Token ids of the books, encoded once and kept in the run's folder."""
    cache = Path(arguments.out) / ("held_out.npy" if held_out else "books.npy")
    if not cache.exists():
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        np.save(cache, encode_books(tokenizer, read_books(arguments.books, held_out)))
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return np.load(cache)


def train(arguments):
    began = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(arguments.attention == "cudnn")
    torch.backends.cuda.enable_flash_sdp(arguments.attention == "flash")
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    prose, held_out = encoded_books(arguments, tokenizer, False), encoded_books(arguments, tokenizer, True)
    print(f"{len(prose)} tokens of prose, {len(held_out)} held out, after {time.time() - began:.1f} s", flush=True)

    model = reader.Reader(dropout=arguments.dropout).to(device)
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [Muon(matrices, lr=MATRIX_LR, weight_decay=MATRIX_WEIGHT_DECAY),
                  torch.optim.AdamW([dict(params=[model.model.embed_tokens.weight], weight_decay=EMBEDDING_WEIGHT_DECAY),
                                     dict(params=gains, weight_decay=0.0)], lr=OTHER_LR, betas=(0.9, 0.95), fused=device == "cuda")]
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    step = tokens_seen = 0
    seconds_before = 0.0
    if arguments.resume:
        state = torch.load(out / "checkpoint.pt", map_location=device, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        step, tokens_seen, seconds_before = state["step"], state["tokens"], state["seconds"]
    elif arguments.refine:
        model.load_state_dict(reader.load(arguments.refine).state_dict())
    phases = REFINING_PHASES if arguments.refine else PHASES
    loss_of = loss_function
    if arguments.compile:  # one layer is compiled for all eight: minutes less than the whole model for every length
        loss_of = torch.compile(loss_function, dynamic=False)
        for layer in model.model.layers:
            layer.compile(dynamic=False)

    log = open(out / "log.csv", "a" if arguments.resume else "w", newline="")
    table = csv.DictWriter(log, FIELDS)
    if not arguments.resume:
        table.writeheader()
    phase, batches = None, None
    model.train()
    while True:
        in_leg = time.time() - began
        progress = (seconds_before + in_leg) / arguments.total_seconds
        if in_leg > arguments.leg_seconds - arguments.reserve or progress >= 1:
            break
        if phase_at(progress, phases) != phase:
            phase = phase_at(progress, phases)
            _, length, batch = phases[phase]
            batch = max(1, batch // arguments.shrink_batch)
            source = TrainingBatches(arguments.tokenizer, prose, batch, length, f"{arguments.seed}-{step}")
            batches = iter(torch.utils.data.DataLoader(Batches(source), batch_size=None, num_workers=arguments.workers,
                                                       pin_memory=device == "cuda", prefetch_factor=4 if arguments.workers else None))
        tokens, roles = (x.to(device, non_blocking=True) for x in next(batches))
        factor = learning_rate_factor(progress, step, bool(arguments.refine))
        for optimizer, rates in zip(optimizers, base_rates):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor
        logits = low_precision_logits(model, tokens[:, :-1])
        loss, prose_nll, answer_nll, right = loss_of(logits, tokens[:, 1:].contiguous(), roles[:, 1:].contiguous())
        del logits
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens_seen = step + 1, tokens_seen + batch * length
        if step % LOG_EVERY == 0 or step <= 2:
            evaluate = step % EVALUATE_EVERY == 0
            row = dict(step=step, seconds=round(seconds_before + time.time() - began, 1), tokens=tokens_seen, length=length,
                       learning_rate=f"{MATRIX_LR * factor:.3e}", prose_nll=f"{prose_nll.item():.4f}", answer_nll=f"{answer_nll.item():.4f}",
                       answer_digits_right=f"{right.item():.4f}", held_out_nll=f"{held_out_nll(model, held_out):.4f}" if evaluate else "")
            table.writerow(row)
            log.flush()
            if step <= 2 or evaluate or (step % 200 == 0):
                print(" ".join(str(value) for value in row.values()), flush=True)
            if not math.isfinite(prose_nll.item()):
                raise SystemExit("the loss is not finite")
    reader.save(model, out)
    torch.save(dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], step=step, tokens=tokens_seen,
                    seconds=seconds_before + time.time() - began), out / "checkpoint.pt")
    print(f"leg done: step {step}, {tokens_seen / 1e6:.0f} M tokens, {seconds_before + time.time() - began:.0f} s, "
          f"held-out {held_out_nll(model, held_out):.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True, help="folder of plain-text books")
    parser.add_argument("--tokenizer", default=str(Path(__file__).parent.parent / "tokenizer.json"))
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--total-seconds", type=float, default=1080, help="the whole run's time, which the schedule spans")
    parser.add_argument("--leg-seconds", type=float, default=1080, help="this leg's time, start and compilation included")
    parser.add_argument("--reserve", type=float, default=3, help="seconds kept at the leg's end for writing the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--refine", metavar="MODEL", help="begin with the weights of this folder")
    parser.add_argument("--dropout", type=float, default=DROPOUT)
    parser.add_argument("--attention", choices=["flash", "cudnn"], default="cudnn", help="kernel of the attention")
    parser.add_argument("--workers", type=int, default=14, help="processes that make sequences")
    parser.add_argument("--shrink-batch", type=int, default=1, help="divides the batch, to try the script on a small machine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    train(parser.parse_args())
