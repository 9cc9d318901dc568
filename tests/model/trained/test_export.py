"""What is exported is the same function: by the libraries that load it."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.model.config.data import MarkovData, TextData
from nextscale.model.data.text import STDLIB
from nextscale.model.errors import InputError
from nextscale.model.trained.architectures import architecture_of
from nextscale.model.trained.export import export
from nextscale.model.trained.text import Bytes, codec_of

FAMILIES = {
    "LlamaForCausalLM": {"mlp": "swiglu"},
    "Qwen3ForCausalLM": {"mlp": "swiglu", "qk_norm": True},
    "VaultGemmaForCausalLM": {"mlp": "swiglu", "logit_cap": 2.0},
    "ArceeForCausalLM": {"mlp": "relu2"},
    "ApertusForCausalLM": {"mlp": "gelu", "qk_norm": True},
}
EXPERTS = [
    ("MixtralForCausalLM", {"routed_scale": 1.7, "experts_per_token": 3}),
    ("MixtralForCausalLM", {"expert_ratio": 0.5, "kv_heads": 2, "head_width": 10, "tied": True}),
    ("Qwen3MoeForCausalLM", {"qk_norm": True, "router": "softmax", "dense_layers": 1, "norm_scale": True}),
    ("Qwen3MoeForCausalLM", {"qk_norm": True, "routed_scale": 2.5}),
    ("Glm4MoeForCausalLM", {"router": "sigmoid", "shared_experts": 2, "balance_rate": 0.001, "dense_layers": 1}),
    ("Glm4MoeForCausalLM", {"router": "sigmoid", "shared_experts": 1, "qk_norm": True, "experts_per_token": 1}),
]
DETAILS = [
    {},
    {"tied": True, "norm_scale": True, "position": "none"},
    {"kv_heads": 2, "head_width": 10, "mlp_ratio": 1.3, "norm_scale": True},
]
COMPLETEP = {"parametrization": "completep", "base_width": 8, "base_depth": 1, "base_head_width": 2}


@pytest.fixture
def transformers():
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'nextscale[examples]'")
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'nextscale[examples]'")


def logits_of(transformers, folder, tokens):
    import torch

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return type(model).__name__, model(torch.tensor(tokens)).logits.numpy()


def check_logits(transformers, trained, folder, architecture):
    told = export(trained, folder)
    tokens = np.random.default_rng(1).integers(0, 40, size=(3, 16))
    name, theirs = logits_of(transformers, folder, tokens)
    ours = np.asarray(trained.logits(tokens))
    assert told["architecture"] == name == architecture
    assert ours.std() > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("details", DETAILS)
@pytest.mark.parametrize("architecture", FAMILIES)
def test_transformers_computes_the_same_logits(transformers, untrained, tmp_path, architecture, details):
    trained = untrained(**FAMILIES[architecture], **details, training=COMPLETEP)
    assert trained.config.network.residual_multiplier != 1 != trained.config.network.scores_multiplier
    check_logits(transformers, trained, tmp_path / "out", architecture)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "details"), EXPERTS)
def test_experts_go_out_with_their_router(transformers, untrained, tmp_path, architecture, details):
    trained = untrained(**{"mlp": "swiglu", "experts": 4, **details}, training=COMPLETEP)
    check_logits(transformers, trained, tmp_path / "out", architecture)


@pytest.mark.slow
def test_a_tied_head_stays_tied(transformers, untrained, tmp_path):
    trained = untrained(mlp="swiglu", tied=True)
    told = export(trained, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert sum(weight.numel() for weight in model.parameters()) == told["parameters"]


REFUSED = {
    "position: alibi": {"position": "alibi"},
    "mlp: none": {"mlp": "none"},
    "logit_cap: .* beside mlp gelu": {"logit_cap": 3.0},
    "logit_cap: .* beside qk_norm": {"mlp": "swiglu", "qk_norm": True, "logit_cap": 3.0},
    r"head_width: .*\(24\)": {"mlp": "swiglu", "heads": 5, "head_width": 4},
    "mlp: gelu": {"experts": 4},
    "balance_rate: .* router renormalised": {"mlp": "swiglu", "experts": 4, "balance_rate": 0.01},
    "shared_experts: .* router renormalised": {"mlp": "swiglu", "experts": 4, "shared_experts": 1},
    "router: softmax": {"mlp": "swiglu", "experts": 4, "router": "softmax"},
    "dense_layers": {"mlp": "swiglu", "experts": 4, "dense_layers": 1},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_no_architecture_computes_is_refused_by_its_name(untrained, tmp_path, said):
    with pytest.raises(InputError, match=rf"^model\.{said}") as raised:
        export(untrained(**REFUSED[said]), tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_weight_or_an_option_without_a_place_is_no_silent_loss(untrained, tmp_path):
    trained = untrained(mlp="swiglu")
    trained.params["blocks"][1]["mlp"]["bias"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match=r"no place for the weights blocks\.1\.mlp\.bias"):
        export(trained, tmp_path / "out")

    class Other(type(trained.config.network)):
        leaps: int = 0

    with pytest.raises(InputError, match=r"model\.leaps: is exported into no architecture"):
        architecture_of(Other(**trained.config.network.model_dump(), leaps=1))


def test_the_weights_are_those_of_the_model(untrained, tmp_path):
    """Without multipliers and with all scales, they are the same numbers."""
    from safetensors.numpy import load_file

    trained = untrained(mlp="swiglu", norm_scale=True)
    told = export(trained, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    ours = sorted(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(trained.params))
    np.testing.assert_allclose(sorted(float(np.abs(w).sum()) for w in weights.values()), ours, rtol=1e-5)
    assert told == {"architecture": "LlamaForCausalLM", "parameters": sum(w.size for w in weights.values())} | {
        "tokenizer": False
    }
    with pytest.raises(InputError, match="not an empty folder"):
        export(trained, tmp_path / "out")


class TestText:
    @given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])), seven_bit=st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_bytes_there_and_back(self, text, seven_bit):
        codec = Bytes(seven_bit)
        tokens = codec.encode(text)
        assert codec.decode(tokens) == text
        assert max(tokens, default=0) < (128 if seven_bit else 256)
        exported = made[seven_bit]
        if "\ufdd0" not in text:
            assert exported.encode(text).ids == tokens
            if not seven_bit or not {"\x0e", "\x10"} & {*text}:
                assert exported.decode(tokens, skip_special_tokens=False) == text

    def test_a_text_cut_short_is_read(self):
        assert Bytes(True).decode([65, 14]) == "A"
        assert Bytes(False).decode([65, 0xC3]) == "A\ufffd"

    @pytest.mark.parametrize("vocab", [128, 256])
    def test_it_is_how_the_data_was_read(self, tmp_path, vocab):
        from nextscale.model.data import sources, text

        content = "Größe → АБВ, \x0e\x10 \x00 ende\n" * 9
        (tmp_path / "a.txt").write_text(content)
        data = sources.resolve(TextData(source="text", path=str(tmp_path / "a.txt"), vocab=vocab))
        assert codec_of(data).encode(content) == text.tokens(data)[0].tolist()

    def test_what_is_not_text_has_no_tokenizer(self):
        assert codec_of(MarkovData(source="markov")) is None


made = {seven_bit: Bytes(seven_bit).tokenizer() for seven_bit in (False, True)}


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [128, 256])
def test_transformers_reads_bytes_as_the_run_did(transformers, untrained, tmp_path, vocab):
    data = TextData(source="text", path=STDLIB, vocab=vocab, fingerprint="0" * 16)
    export(untrained(mlp="swiglu", data=data), tmp_path / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "def größe(x): # → АБВ ÎÐ\n\treturn  x\r\n\x00 Ā <|endoftext|>"
    tokens = loaded(text)["input_ids"]
    assert tokens == codec_of(data).encode(text)
    assert loaded.decode(tokens) == text
    assert len(loaded) == vocab
    assert loaded.eos_token_id == codec_of(data).end


@pytest.mark.slow
def test_transformers_reads_a_tokenizer_as_the_run_did(transformers, untrained, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from nextscale.model.data import sources

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "the cat sat on the mat, the rat on the cat.\n" * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    trained.train_from_iterator([text], trainer)
    trained.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(text)
    named = {"path": str(tmp_path / "text.txt"), "tokenizer": str(tmp_path / "tokenizer.json")}
    data = sources.resolve(TextData(source="text", vocab=320, **named))
    export(untrained(mlp="swiglu", data=data), tmp_path / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    codec = codec_of(data)
    assert loaded(text)["input_ids"] == codec.encode(text)
    assert len(codec.encode(text)) < len(text) / 2
    assert loaded.eos_token_id == codec.end == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (320, 0)

    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match="is not the tokenizer that the run was trained on"):
        codec_of(data)
