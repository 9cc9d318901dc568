"""A trainer of one's own, in plain numpy: a small network guesses the next token from the two before it.

All that nextscale asks of it stands in `main`: it reads {config}, writes metrics.jsonl and result.json to {dir}, goes
on from what it has saved there, and on SIGTERM saves and exits with 75.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

import numpy as np

VOCAB = 32


def source(seed):
    """Probabilities of a token by the two before it."""
    one, other = np.random.default_rng(seed).normal(size=(2, VOCAB, VOCAB))
    logits = 1.5 * (one[:, None] + other[None])
    return np.cumsum(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=-1)


def batch(chain, tokens, *seed):
    """The two before, and the token, as columns."""
    draws = np.random.default_rng(seed)
    before = draws.integers(VOCAB, size=(tokens, 2))
    after = (chain[before[:, 0], before[:, 1]] < draws.random((tokens, 1))).sum(-1).clip(max=VOCAB - 1)
    return before, after


def loss_and_gradients(weights, before, after):
    """Mean loss in nats, and its gradients."""
    embedding, first, second = weights
    x = embedding[before].reshape(len(before), -1)
    hidden = np.tanh(x @ first)
    logits = hidden @ second
    logits -= logits.max(-1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(-1, keepdims=True)
    rows = np.arange(len(after))
    loss = -np.log(p[rows, after]).mean()
    p[rows, after] -= 1
    d_logits = p / len(after)
    d_hidden = (d_logits @ second.T) * (1 - hidden**2)
    d_embedding = np.zeros_like(embedding)
    np.add.at(d_embedding, before.ravel(), (d_hidden @ first.T).reshape(-1, embedding.shape[1]))
    return float(loss), [d_embedding, x.T @ d_hidden, hidden.T @ d_logits]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = json.loads(options.config.read_text())
    state, stopping = options.out / "state.npz", []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(True))

    d, chain, draws = run["model"]["d"], source(run["data"]["seed"]), np.random.default_rng(run["seed"])
    shapes = (VOCAB, d), (2 * d, 2 * d), (2 * d, VOCAB)
    weights = [draws.normal(size=shape) / shape[0] ** 0.5 for shape in shapes]
    moments, step = [np.zeros((2, *shape)) for shape in shapes], 0
    if state.exists():
        saved = np.load(state)
        step = int(saved["step"])
        weights, moments = ([saved[f"{name}{i}"] for i in range(3)] for name in "wm")

    while step < run["steps"]:
        loss, gradients = loss_and_gradients(weights, *batch(chain, run["batch_tokens"], run["seed"], step))
        step += 1
        lr = run["training"]["lr"] * (1 - step / (run["steps"] + 1))
        for w, m, g in zip(weights, moments, gradients, strict=True):  # Adam
            m += 0.1 * (g - m[0]), 0.02 * (g**2 - m[1])
            w -= lr * (m[0] / (1 - 0.9**step)) / (np.sqrt(m[1] / (1 - 0.98**step)) + 1e-8)
        if step % 100 == 0 or step == run["steps"] or stopping:
            whole = {f"{name}{i}": a for name, arrays in (("w", weights), ("m", moments)) for i, a in enumerate(arrays)}
            np.savez(options.out / "new.npz", step=step, **whole)
            (options.out / "new.npz").replace(state)  # whole or not at all, whenever it is killed
            with (options.out / "metrics.jsonl").open("a") as metrics:
                metrics.write(json.dumps({"step": step, "loss": loss}) + "\n")
            if stopping:
                sys.exit(75)

    loss, _ = loss_and_gradients(weights, *batch(chain, run["evaluation"]["tokens"], 2**31))
    (options.out / "result.json").write_text(json.dumps({"loss": loss, "params": sum(w.size for w in weights)}))


if __name__ == "__main__":
    main()
