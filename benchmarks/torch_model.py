"""The model of `train_step.py` as one would write it in PyTorch: the same layers, optimiser and clipping."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        q, k, v = (
            project(x).view(B, T, self.heads, -1).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm MLP."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        x = x + self.attention(norm(x), cos, sin)
        return x + self.down(functional.gelu(self.up(norm(x)), approximate="tanh"))


class Transformer(nn.Module):
    """Tokens in, logits out."""

    def __init__(self, c):
        super().__init__()
        self.embedding = nn.Embedding(c.vocab, c.width)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.hidden_width) for _ in range(c.depth))
        self.head = nn.Linear(c.width, c.vocab, bias=False)
        K = c.width // c.heads
        angle = np.arange(c.context)[:, None] * 10000.0 ** (-np.arange(0, K, 2) / K)
        self.register_buffer("cos", torch.tensor(np.cos(angle), dtype=torch.float32), persistent=False)
        self.register_buffer("sin", torch.tensor(np.sin(angle), dtype=torch.float32), persistent=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos.to(x.dtype), self.sin.to(x.dtype))
        return self.head(norm(x))


def norm(x):
    """RMSNorm without a scale."""
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6)


def rotate(x, cos, sin):
    """Turns pairs of features."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def load(model, params):
    """Gives it the weights of ours."""

    def put(linear, matrix):
        linear.weight.data = torch.tensor(np.asarray(matrix).T.copy(), device=DEVICE)

    model.embedding.weight.data = torch.tensor(np.asarray(params["embedding"]), device=DEVICE)
    put(model.head, params["head"])
    for number, block in enumerate(model.blocks):
        ours = params["blocks"][number]
        for name in ("query", "key", "value", "out"):
            put(getattr(block.attention, name), ours["attention"][name])
        put(block.up, ours["mlp"]["up"])
        put(block.down, ours["mlp"]["down"])


def build(run, dtype):
    """The model of a run, and a function that trains it on a batch and returns the loss."""
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    model = Transformer(run.model).to(DEVICE)
    rule = torch.optim.AdamW(model.parameters(), lr=run.training.lr, betas=(0.9, 0.98), fused=True)
    half = torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16")

    def loss_of(batch):
        with half:
            logits = model(batch[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    forward = loss_of if DEVICE == "cpu" else torch.compile(loss_of)

    def train_step(batch):
        loss = forward(batch)
        rule.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), run.training.clip)
        rule.step()
        return loss.detach()

    return model, train_step
