"""The memory that a run needs on each of its devices, by plain arithmetic: a plan is made before there is any device.

State, and beside it what is largest while a step is computed. Its terms are those of the program's large arrays; what
they come to is held against what XLA plans, on CPUs and, by the compiler of TPUs, for slices that are not here: see
`tests/cluster/hardware/test_memory.py` and `benchmarks/aot.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from nextscale.model.accounting import parameter_groups, steps_per_row
from nextscale.model.config.experts import expert_width, mixture_blocks
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig, RunConfig
from nextscale.model.network.kernels import Recompute, kernel_for, loss_parts, query_blocks, scans

_FLOAT32 = 4
_LANES = 128
"""What a TPU pads the last axis of an array to."""
_LOGITS_AT_ONCE, _NOT_SHARED = 0.3, 0.4
"""Of a part's logits, and of the room of the smaller of a block and the head: fitted to what libtpu 0.0.52 plans."""
_SCORES_DTYPES = {"float32": _FLOAT32, "bfloat16": _FLOAT32 + 2}
"""Bytes of a score: in float32, and in the dtype of the product with the values where that is another."""


class Split(NamedTuple):
    """How a run lies on its devices, as `nextscale.model.network.sharding.Layout`, and what is done to save memory."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    micro_batches: int = 1
    recompute: Recompute = "none"

    @property
    def layout(self) -> str:
        return f"data={self.data},fsdp={self.fsdp},tensor={self.tensor}"

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor


ONE_DEVICE = Split()


class _Weights(NamedTuple):
    """Bytes in float32 of what a device would hold if `fsdp` split nothing: of the blocks' matrices, of embedding and
    head, of all."""

    matrices: float
    head: float
    all: float

    @classmethod
    def of(cls, config: RunConfig, split: Split) -> _Weights:
        model = _ours(config)
        groups = parameter_groups(model)
        # A dimension that an axis does not divide is whole along it.
        vocab_ways = split.tensor if model.vocab % split.tensor == 0 else 1
        matrices = _FLOAT32 * sum(groups[name] for name in ("attention", "mlp", "router")) / split.tensor
        matrices += _FLOAT32 * groups["experts"] / (split.tensor if model.experts % split.tensor == 0 else 1)
        head = _FLOAT32 * (groups["embedding"] + groups["head"]) / vocab_ways
        return cls(matrices, head, matrices + head + _FLOAT32 * groups["norm"])


def bytes_needed(config: RunConfig, split: Split = ONE_DEVICE, platform: str = "cpu") -> float:
    """Bytes of each device that the steps of a run take: state (weights, and moments in float32), the batches of a
    call, and what is largest beside them."""
    if isinstance(config.model, ModuleModel):
        return _of_module(config, config.model, split)
    weights, optimizer = _Weights.of(config, split), config.training.optimizer
    own = weights.all / split.fsdp
    # An optimiser of one's own is taken to keep as much as AdamW.
    moments = {"muon": 2 * own - weights.matrices / split.fsdp, "sgd": own}.get(optimizer, 2 * own)
    rows = config.batch_sequences / (split.data * split.fsdp)
    batches = steps_per_row(config) * rows * (config.model.context + 1) * _FLOAT32
    summed = own if split.micro_batches > 1 else 0.0
    rows /= split.micro_batches
    of_step = (
        _on_cpu(config, split, weights, rows) if platform == "cpu" else _on_chip(config, split, weights, rows, platform)
    )
    # XLA makes the update of plain momentum in the gradient's own place.
    updated = own if optimizer == "sgd" else 2 * own
    kept = own / 2 if config.training.param_dtype == "bfloat16" else own
    return kept + moments + batches + max(of_step + summed, updated)


def _of_module(config: RunConfig, model: ModuleModel, split: Split) -> float:
    """The same of a module, whose arrays are not known here: state, gradient and update, and all that the gradient of a
    sequence keeps, as JAX states it before XLA makes less of it; the logits, twice. Too much rather than too little."""
    counts, rows = model.counted, config.batch_sequences / (split.data * split.fsdp)
    own = _FLOAT32 * counts.params / split.fsdp
    moments = own if config.training.optimizer == "sgd" else 2 * own
    batches = steps_per_row(config) * rows * (model.context + 1) * _FLOAT32
    rows /= split.micro_batches
    kept = rows * (counts.bytes_per_sequence + 2 * _FLOAT32 * model.context * model.vocab)
    # While a layer is computed its weights are whole on each device; all of them, as XLA may gather them at once.
    gathered = _FLOAT32 * counts.params if split.fsdp > 1 else 0.0
    return own + moments + batches + 2 * own + gathered + kept


def _on_chip(config: RunConfig, split: Split, weights: _Weights, rows: float, platform: str) -> float:
    """Bytes of a TPU or GPU beside the state, for so many sequences at once.

    Of the blocks all that is kept; of all weights a copy in the dtype of the products and the gradient. Then of one
    block what its gradient needs, and its weights, gathered, and their gradient; and the head, gathered, with its
    gradient in float32, and what is there at once of a part's logits. XLA lets these two share most of their room.
    """
    model, item = _ours(config), 2 if config.training.dtype == "bfloat16" else _FLOAT32
    N = rows * model.context
    scanned = scans(model.depth, split.recompute)
    kept, whole = (
        N * _kept(config, split.tensor, platform, recompute, scanned) for recompute in (split.recompute, "none")
    )
    vocab_ways = split.tensor if model.vocab % split.tensor == 0 else 1
    head = model.width * model.vocab / vocab_ways
    logits = N * model.vocab / vocab_ways
    part = logits / loss_parts(int(N), model.vocab // vocab_ways)
    gathered = 2 * weights.matrices / model.depth * item / _FLOAT32
    own = weights.all / split.fsdp
    copies = own * (2 if scanned else 1 + item / _FLOAT32) * item / _FLOAT32
    of_block, of_head = whole + gathered, head * (item + _FLOAT32) + _LOGITS_AT_ONCE * part * _FLOAT32
    return model.depth * kept + copies + max(of_block, of_head) + _NOT_SHARED * min(of_block, of_head)


def _kept(config: RunConfig, tensor: int, platform: str, recompute: Recompute, scanned: bool = True) -> float:
    """Bytes that one block keeps of a token for its gradient.

    Counted in the arrays that the compiler of TPUs carries from the blocks' forward to their backward pass. By default
    they are: of the width, the norms' inputs and outputs, in float32 and in the dtype of the products; of the heads,
    what the kernel reads and gives; of the MLP, what its products and its activation's derivative need. Of blocks that
    are not scanned XLA itself computes again what is cheap: products and what they read are kept.
    """
    model, item = _ours(config), 2 if config.training.dtype == "bfloat16" else _FLOAT32
    documents = config.document_end is not None
    kernel = kernel_for(model, config.training.dtype, model.context, platform, documents=documents)
    # Products of the blocks kernel are with the keys and values of every head; a flash kernel has them shared.
    keys = model.query_width if kernel == "blocks" else model.key_width
    head_width = model.query_width // model.heads
    padded = -(-head_width // _LANES) * _LANES / head_width if kernel == "splash" else 1.0
    of_softmax, hidden = model.heads * _FLOAT32 / tensor, _hidden_width(model)
    if recompute == "offload":
        return 0.0
    if recompute == "full":
        return item * model.width
    if recompute == "dots" or (not scanned and kernel != "blocks"):
        products = model.into_hidden * hidden
        if recompute != "dots" and model.mlp != "none":
            products += hidden
        mixed = 0.0 if kernel == "blocks" else model.query_width * padded
        parts = model.query_width + 2 * model.key_width + mixed + products
        return item * (2 * model.width + parts / tensor) + of_softmax
    norms = (3 * item + 4 * _FLOAT32) * model.width
    heads = item * (2 * model.query_width + 2 * keys) * padded
    if model.qk_norm:
        heads += (item + 2 * _FLOAT32) * (model.query_width + keys)
    mlp = item * {"gelu": 6, "relu2": 3, "swiglu": 6, "none": 0}.get(model.mlp, 6) * hidden + item * _sorted_width(
        model
    )
    if kernel == "blocks":
        of_softmax = _scores(config) / model.context * _SCORES_DTYPES[config.training.dtype] / tensor
    return norms + (heads + mlp) / tensor + of_softmax


def _on_cpu(config: RunConfig, split: Split, weights: _Weights, rows: float) -> float:
    """Bytes of a CPU device beside the state, for so many sequences at once: it multiplies bfloat16 as float32, and
    keeps what it gathers until the backward pass."""
    model, half = _ours(config), config.training.dtype == "bfloat16"
    N = rows * model.context
    scanned = scans(model.depth, split.recompute)
    # The matrices of scanned blocks are cast as they are copied into one array.
    cast = (weights.all - (weights.matrices if scanned else 0.0)) / 2 if half else 0.0
    block = _cpu_block(config, split.tensor) * rows
    # Of the block at hand the scores are there once more.
    turned = _scores(config) / split.tensor * rows * _FLOAT32 if half else 0.0
    if split.recompute == "none":
        kept = model.depth * block
    else:
        kept = block + model.depth * N * _kept(config, split.tensor, "cpu", split.recompute)
    stacked = weights.matrices if scanned else 0.0
    vocab_ways = split.tensor if model.vocab % split.tensor == 0 else 1
    parts = loss_parts(int(N), model.vocab // vocab_ways)
    logits = 2 * N / parts * model.vocab / vocab_ways * _FLOAT32
    head = model.width * model.vocab / vocab_ways * _FLOAT32 if parts > 1 or half else 0.0
    return weights.all + cast + kept + turned + stacked + logits + head


def _cpu_block(config: RunConfig, tensor: int) -> float:
    """Bytes that one block keeps of one sequence for the backward pass, on a CPU.

    In tensors of T tokens: of the width, the residual stream and the norm's output, twice; of the queries, they, keys
    and values as projected, turned and transposed, and the mixture of values; of the MLP, what each of its products
    and its activation's derivative need.
    """
    model = _ours(config)
    parts = 8 * model.query_width + 0.5 * model.width
    if model.qk_norm:
        parts += 4 * model.query_width
    one_mlp = _hidden_width(model, routed=False)
    parts += {"relu2": 2, "none": 0}.get(model.mlp, 2 * model.into_hidden + 1) * one_mlp
    parts += model.into_hidden * (_hidden_width(model) - one_mlp)
    scores = _scores(config) * _SCORES_DTYPES[config.training.dtype]
    streams = 3.5 * model.width + _sorted_width(model) + parts / tensor
    return model.context * _FLOAT32 * streams + scores / tensor


def _hidden_width(model: ModelConfig, *, routed: bool = True) -> float:
    """Width of the hidden layers that a token passes in a block, the mean over blocks; or but for those of experts that
    it is routed to, of which a CPU keeps the products before the activation alone."""
    mixtures = mixture_blocks(model)
    experts = model.shared_experts + (model.experts_per_token if routed else 0)
    return ((model.depth - mixtures) * model.hidden_width + mixtures * experts * expert_width(model)) / model.depth


def _sorted_width(model: ModelConfig) -> float:
    """Of a token, once for each of its experts, what goes into them and what they give, the mean over blocks."""
    return 2 * mixture_blocks(model) * model.experts_per_token * model.width / model.depth


def _scores(config: RunConfig) -> int:
    """How many scores of one sequence the blocks kernel computes in a block."""
    model = _ours(config)
    return model.heads * sum((end - start) * end for start, end in query_blocks(model.context))


def _ours(config: RunConfig) -> ModelConfig:
    assert isinstance(config.model, ModelConfig)
    return config.model
