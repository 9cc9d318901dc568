"""Counts: of the actual weights, of what XLA counts, and of the papers' own tables."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.model.accounting import (
    active_parameters,
    flops_per_token,
    forward_flops_per_token,
    non_embedding_parameters,
    parameter_groups,
    parameters,
)
from nextscale.model.config.run import ModelConfig, Network
from nextscale.model.network.experts import MixtureOfExperts
from nextscale.model.network.kernels import query_blocks
from nextscale.model.network.loss import cross_entropy
from nextscale.model.network.transformer import Transformer

POSITIONS, MLPS = ("rope", "alibi", "none"), ("gelu", "relu2", "swiglu", "none")
FAMILIES = [
    {"position": position, "mlp": mlp, "tied": tied, "norm_scale": tied}
    for (position, mlp), tied in zip(itertools.product(POSITIONS, MLPS), itertools.cycle([False, True]), strict=False)
]


OPTIONS = [
    {"heads": 2, "kv_heads": 1},
    {"heads": 2, "kv_heads": 1, "head_width": 96, "mlp": "swiglu", "tied": True},
    {"qk_norm": True, "logit_cap": 30.0},
]


def model_config(**options):
    return Network(**{"depth": 2, "heads": 2, "context": 12, "width": 16, "vocab": 32} | options)


MODELS = st.builds(
    lambda groups, shared, half_head, mlp, experts, **options: Network(
        heads=groups * shared,
        kv_heads=groups,
        width=groups * shared * 2 * half_head,
        mlp=mlp,
        experts=1 if mlp == "none" else experts,
        **options,
    ),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    half_head=st.integers(1, 4),
    head_width=st.none() | st.sampled_from([2, 6]),
    depth=st.integers(1, 3),
    context=st.integers(2, 9),
    vocab=st.integers(2, 40),
    position=st.sampled_from(POSITIONS),
    mlp=st.sampled_from(MLPS),
    mlp_ratio=st.sampled_from([0.7, 8 / 3, 4.0]),
    tied=st.booleans(),
    norm_scale=st.booleans(),
    qk_norm=st.booleans(),
    logit_cap=st.none() | st.just(30.0),
    experts=st.sampled_from([1, 1, 4, 6]),
    experts_per_token=st.integers(2, 4),
    expert_ratio=st.none() | st.just(0.7),
    shared_experts=st.integers(0, 2),
    balance_rate=st.sampled_from([0.0, 0.001]),
)


@given(MODELS)
@settings(max_examples=40, deadline=None)
def test_counted_parameters_are_the_actual_ones(model):
    module = nnx.eval_shape(lambda: Transformer(model, rngs=nnx.Rngs(0)))
    actual = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))
    assert parameters(model) == actual
    idle = 0
    for block in module.blocks:
        if isinstance(block.mlp, MixtureOfExperts):
            own = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(block.mlp.experts)))
            idle += own // model.experts * (model.experts - model.experts_per_token)
    assert active_parameters(model) == actual - idle
    table = module.embedding.size + (0 if module.head is None else module.head.size)
    assert non_embedding_parameters(model) == actual - table
    assert sum(parameter_groups(model).values()) == actual


def executed_forward_flops(config):
    """Of one sequence: `palm` less the keys that no block of queries is scored against."""
    T = config.context
    keys = sum((end - start) * end for start, end in query_blocks(T)) / T
    scores = 4 * config.depth * config.query_width
    return T * (forward_flops_per_token(config, "palm") - scores * (T - keys))


def xla_flops(function, config, *state):
    tokens = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
    return jax.jit(function).lower(*state, tokens).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("family", [*FAMILIES, *OPTIONS], ids=str)
def test_flops_agree_with_xla(family):
    """XLA also counts norms, softmax and activations: up to 1.5 % here, where scores are a quarter of the products or
    more. Nothing it counts may be missing from ours."""
    config = model_config(**{"width": 128, "heads": 1, "context": 512} | family)
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    found = xla_flops(lambda s, t: nnx.merge(graph, s)(t), config, state)
    assert 1 <= found / executed_forward_flops(config) < 1.02


@pytest.mark.parametrize(
    "family", [{"position": "alibi", "mlp": "relu2"}, pytest.param(OPTIONS[1], marks=pytest.mark.slow)], ids=str
)
def test_a_training_step_is_three_forward_passes_to_xla(family):
    config = model_config(**{"width": 128, "heads": 1, "context": 512} | family)
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    loss = jax.value_and_grad(lambda s, t: cross_entropy(nnx.merge(graph, s)(t), t).mean())
    found = xla_flops(loss, config, state)
    assert 1 <= found / (3 * executed_forward_flops(config)) < 1.02
    assert flops_per_token(config) == 3 * forward_flops_per_token(config)


def test_exact_flops_count_each_visible_key_once():
    config = model_config(depth=1, width=16, context=12)
    visible = sum(range(1, 13)) / 12
    extra = forward_flops_per_token(config, "palm") - forward_flops_per_token(config, "exact")
    assert extra == 4 * 16 * (12 - visible)


def test_conventions_differ_by_what_they_leave_out():
    model = model_config(heads=4, kv_heads=2, mlp="swiglu", tied=True)
    flops = {name: forward_flops_per_token(model, name) for name in ("exact", "palm", "chinchilla", "kaplan", "6nd")}
    head, keys = 2 * 32 * 16, 4 * 2 * 16
    assert flops["exact"] - flops["kaplan"] == head + keys / 2
    assert flops["palm"] - flops["kaplan"] == head + keys * 12 / 2
    assert flops["chinchilla"] - flops["palm"] == head + 3 * 2 * 4 * 12
    assert flops["palm"] - flops["6nd"] == keys * 12


CHINCHILLA = """
    44 512 64 8 8
    57 576 64 9 9
    74 640 64 10 10
    90 640 64 10 13
    106 640 64 10 16
    117 768 64 12 12
    140 768 64 12 15
    163 768 64 12 18
    175 896 64 14 14
    196 896 64 14 16
    217 896 64 14 18
    251 1024 64 16 16
    278 1024 64 16 18
    306 1024 64 16 20
    425 1280 128 10 18
    489 1280 128 10 21
    509 1408 128 11 18
    552 1280 128 10 24
    587 1408 128 11 21
    632 1536 128 12 19
    664 1408 128 11 24
    724 1536 128 12 22
    816 1536 128 12 25
    893 1792 128 14 20
    1018 1792 128 14 23
    1143 1792 128 14 26
    1266 2048 128 16 22
    1424 2176 128 17 22
    1429 2048 128 16 25
    1593 2048 128 16 28
    1609 2176 128 17 25
    1731 2304 128 18 24
    1794 2176 128 17 28
    2007 2304 128 18 28
    2283 2304 128 18 32
    2298 2560 128 20 26
    2639 2560 128 20 30
    2980 2560 128 20 34
    3530 2688 128 22 36
    3802 2816 128 22 36
    4084 2944 128 22 36
    4516 3072 128 24 36
    6796 3584 128 28 40
    9293 4096 128 32 42
    11452 4352 128 32 47
    12295 4608 128 36 44
    12569 4608 128 32 47
    13735 4864 128 32 47
    14940 4992 128 32 49
    16183 5120 128 40 47
"""
"""Hoffmann et al. 2022, table A9: millions of parameters, width, head width, heads, depth; the MLP is 4 widths."""


def chinchilla(width, head_width, heads, depth):
    options = {"width": width, "head_width": head_width, "heads": heads, "depth": depth}
    return ModelConfig(**options, vocab=32_000, context=2048, tied=True, mlp="gelu")


def chinchilla_parameters(model):
    """Ours, and what no option here has: the positions of Transformer-XL (Dai et al. 2019) that Gopher and Chinchilla
    use, a matrix and two biases a block, and a bias of each other matrix. So counted, all 50 round to the table."""
    position = model.width * model.query_width + 2 * model.query_width
    biases = 3 * model.query_width + model.width + model.hidden_width + model.width
    return parameters(model) + model.depth * (position + biases)


@pytest.mark.parametrize("row", CHINCHILLA.strip().splitlines(), ids=str.strip)
def test_parameters_of_every_chinchilla_model(row):
    millions, *shape = map(int, row.split())
    assert round(chinchilla_parameters(chinchilla(*shape)) / 1e6) == millions


@pytest.mark.parametrize(
    "shape, ratio",
    [
        ((640, 64, 10, 10), 1.03),
        ((1024, 64, 16, 20), 1.10),
        ((1280, 128, 10, 24), 1.08),
        ((1792, 128, 14, 26), 1.04),
        ((2048, 128, 16, 28), 1.03),
        ((3584, 128, 28, 40), 0.99),
    ],
)
def test_chinchilla_flops_over_6nd(shape, ratio):
    """Hoffmann et al. 2022, table A4. Its ratios are those of the blocks alone: with the two products of the embedding
    that the text of their appendix F adds, the first would be 1.58."""
    model = chinchilla(*shape)
    blocks = flops_per_token(model, "chinchilla") - 3 * 2 * 2 * model.vocab * model.width
    assert round(blocks / (6 * chinchilla_parameters(model)), 2) == ratio


@pytest.mark.parametrize(
    "billions, depth, heads, width", [(8.63, 32, 16, 4096), (62.50, 64, 32, 8192), (540.35, 118, 48, 18432)]
)
def test_palm(billions, depth, heads, width):
    """Chowdhery et al. 2022, table 1, and for the largest the share of the peak that app. B counts: 238.3k tokens/s on
    6144 chips of 275 TFLOP/s are 46.2 %."""
    options = {"heads": heads, "kv_heads": 1, "head_width": 256, "mlp": "swiglu", "tied": True}
    model = ModelConfig(**options, depth=depth, width=width, vocab=256_000, context=2048)
    assert parameters(model) / 1e9 == pytest.approx(billions, abs=0.01)
    if billions > 500:
        assert 238.3e3 * flops_per_token(model, "palm") / (6144 * 275e12) == pytest.approx(0.462, abs=5e-4)


def test_gpt_3():
    """Brown et al. 2020, table 2.1 and table D.1: 175.0 billion parameters, 3.14e23 FLOPs for 300 billion tokens."""
    model = ModelConfig(depth=96, heads=96, width=12288, vocab=50257, context=2048, tied=True)
    assert parameters(model) == pytest.approx(174.6e9, rel=5e-4)
    assert flops_per_token(model, "6nd") * 300e9 == pytest.approx(3.14e23, rel=2e-3)
    assert flops_per_token(model, "kaplan") == pytest.approx(6 * non_embedding_parameters(model), rel=0.02)


def test_llama_3():
    """Grattafiori et al. 2024, table 3: 8B. Its published weights are 8 030 261 248 numbers."""
    options = {"heads": 32, "kv_heads": 8, "mlp": "swiglu", "mlp_ratio": 3.5, "norm_scale": True}
    model = ModelConfig(**options, depth=32, width=4096, vocab=128_256, context=8192)
    assert parameters(model) == 8_030_261_248


MIXTURES = {
    # Jiang et al. 2024, sec. 2.1 and the published weights, 46 702 792 704 numbers.
    "Mixtral 8x7B": (
        {"width": 4096, "depth": 32, "heads": 32, "kv_heads": 8, "vocab": 32_000, "context": 32_768}
        | {"experts": 8, "experts_per_token": 2, "expert_ratio": 14336 / 4096},
        ("46.7", "12.9"),
    ),
    # Muennighoff et al. 2024 (arXiv 2409.02060), table 10 and abstract.
    "OLMoE-1B-7B": (
        {"width": 2048, "depth": 16, "heads": 16, "vocab": 50_304, "context": 4096, "qk_norm": True}
        | {"experts": 64, "experts_per_token": 8, "expert_ratio": 0.5, "router": "softmax"},
        ("6.9", "1.3"),
    ),
    # Yang et al. 2025 (arXiv 2505.09388), table 2; 3.35 is printed as 3.3, cut and not rounded.
    "Qwen3-30B-A3B": (
        {"width": 2048, "depth": 48, "heads": 32, "kv_heads": 4, "head_width": 128, "vocab": 151_936, "qk_norm": True}
        | {"context": 32_768, "experts": 128, "experts_per_token": 8, "expert_ratio": 768 / 2048},
        ("30.5", "3.3"),
    ),
}
"""Of each its options, and billions of all and of active parameters as its authors print them."""


@pytest.mark.parametrize("name", MIXTURES)
def test_all_and_active_parameters_of_published_mixtures_of_experts(name):
    options, printed = MIXTURES[name]
    model = ModelConfig(mlp="swiglu", norm_scale=True, **options)
    cut = (lambda count: int(count / 1e8) / 10) if name.startswith("Qwen") else (lambda count: round(count / 1e9, 1))
    assert tuple(str(cut(count(model))) for count in (parameters, active_parameters)) == printed
    if name.startswith("Mixtral"):
        assert parameters(model) == 46_702_792_704


def test_deepseek_v3_with_the_weights_of_its_own_attention():
    """DeepSeek-AI 2024 (arXiv 2412.19437), sec. 4.2: 671B parameters, 37B of them active. Its latent attention (sec.
    2.1.1) is none that a model here can have: its weights are counted here, by the widths that they print."""
    D, H, head, query, latent, turned, depth = 7168, 128, 128, 1536, 512, 64, 61
    attention = D * query + query * H * (head + turned) + D * (latent + turned) + latent * H * 2 * head + H * head * D
    options = {"width": D, "depth": depth, "heads": H, "vocab": 129_280, "context": 4096, "mlp": "swiglu"}
    options |= {"mlp_ratio": 18432 / D, "expert_ratio": 2048 / D, "experts": 256, "experts_per_token": 8}
    model = ModelConfig(**options, shared_experts=1, dense_layers=3, router="sigmoid", norm_scale=True)
    ours = parameter_groups(model)["attention"]
    assert round((parameters(model) - ours + depth * attention) / 1e9) == 671
    active = active_parameters(model) - ours + depth * attention
    # 37.6 with the embedding, of which a token looks up one row, and 36.6 without.
    assert round((active - model.vocab * D) / 1e9) == 37


def test_a_mixture_of_equal_active_size_costs_its_router_more_than_one_mlp():
    dense, mixed = (model_config(experts=experts) for experts in (1, 8))
    router = 6 * dense.depth * dense.width * 8
    assert flops_per_token(mixed) - flops_per_token(dense) == router
    assert active_parameters(mixed) - parameters(dense) == router / 6
    assert flops_per_token(mixed, "6nd") == 6 * active_parameters(mixed)
