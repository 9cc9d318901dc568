"""GPT-2-like models by transformers and PyTorch, as a trainer that nextscale sweeps: on the bytes of a text.

What is asked of a trainer stands in `main`: it reads {config}, writes metrics.jsonl and result.json to {dir}, goes on
from what it has saved there, and on SIGTERM saves and exits with 75.
"""

import argparse
import json
import math
import signal
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, EVERY = 256, 20


def read_text(path):
    """The bytes of a file, or of Python's own library: those to train on, and the last twentieth, held out."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py")) if path == "python-stdlib" else [Path(path)]
    content = np.frombuffer(b"\0".join(file.read_bytes() for file in files), np.uint8)
    return np.split(content, [len(content) * 19 // 20])


def batch(text, starts, context):
    """Sequences of context + 1 bytes."""
    rows = text[starts[:, None] + np.arange(context + 1)]
    return torch.tensor(rows, dtype=torch.long)


def loss_of(model, rows):
    logits = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = json.loads(options.config.read_text())
    state, stopping = options.out / "state.pt", []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(True))

    training, steps = run["training"], run["steps"]
    context = training["context"]
    train_text, held_out = read_text(run["data"]["path"])
    torch.manual_seed(run["seed"])
    shape = {name: run["model"][name] for name in ("n_layer", "n_embd", "n_head")}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_positions=context, initializer_range=training["init"], **shape, **off)
    )
    optimizer, step = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0), 0
    if state.exists():
        saved = torch.load(state)
        step = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    while step < steps:
        draws = np.random.default_rng([run["seed"], step])
        starts = draws.integers(len(train_text) - context, size=run["batch_tokens"] // context)
        # Warmed up over a twentieth of the steps, then down to a tenth along a cosine.
        warm, done = (step + 1) / max(steps // 20, 1), step / steps
        lr = training["lr"] * min(warm, 0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        loss = loss_of(model, batch(train_text, starts, context))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        step += 1
        if step % EVERY == 0 or step == steps or stopping:
            whole = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(whole, options.out / "new.pt")
            (options.out / "new.pt").replace(state)  # whole or not at all, whenever it is killed
            with (options.out / "metrics.jsonl").open("a") as metrics:
                metrics.write(json.dumps({"step": step, "loss": float(loss), "lr": lr}) + "\n")
            if stopping:
                sys.exit(75)

    rows = batch(held_out, np.arange(run["evaluation"]["tokens"] // context) * context, context)
    with torch.no_grad():
        loss = float(np.mean([float(loss_of(model, part)) for part in rows.split(16)]))
    params = sum(weight.numel() for weight in model.parameters())
    result = {"loss": loss, "bits_per_byte": loss / math.log(2), "params": params}
    (options.out / "result.json").write_text(json.dumps(result))
    model.save_pretrained(options.out / "model")


if __name__ == "__main__":
    main()
