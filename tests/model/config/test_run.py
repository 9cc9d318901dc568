"""The `run_id`: it changes with what a run means, and with nothing else."""

import pytest
from pydantic import ValidationError

from nextscale.model.config.data import TextData
from nextscale.model.config.experts import expert_width
from nextscale.model.config.run import ModelFamily, RunConfig


def test_path_does_not_name_a_run_but_content_does(tiny_run):
    def with_data(**data):
        data = TextData(**{"source": "text", "path": "a", "vocab": 128, "fingerprint": "x"} | data)
        return tiny_run(data=data).run_id

    assert with_data(path="a") == with_data(path="b")
    assert with_data(fingerprint="x") != with_data(fingerprint="y")


def test_every_field_that_changes_the_numbers_changes_the_name(tiny_run):
    run = tiny_run()
    changed = [
        run.model_copy(update={"seed": 1}),
        run.model_copy(update={"training": run.training.model_copy(update={"lr": 0.021})}),
        run.model_copy(update={"model": run.model.model_copy(update={"mlp": "relu2"})}),
        run.model_copy(update={"data": run.data.model_copy(update={"seed": 1})}),
        run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"tokens": 513})}),
    ]
    assert len({run.run_id, *(other.run_id for other in changed)}) == 1 + len(changed)


def test_names_and_defaults_are_those_of_every_machine_and_version(tiny_run):
    """Defaults are left out of the name. Where one changes here, or a name does, raise SCHEMA_VERSION: a run made
    before would be taken for one of another meaning. A new field with a default is added below, and changes no name."""
    assert tiny_run().run_id == "7588221aac6f"
    assert tiny_run().model_dump() == {
        "data": {
            "source": "markov",
            "vocab": 16,
            "seed": 0,
            "zipf": 1.2,
            "first": 1.5,
            "second": 1.5,
            "unique_tokens": None,
        },
        "model": {
            "depth": 1,
            "heads": 2,
            "kv_heads": None,
            "head_width": None,
            "context": 8,
            "width": 8,
            "vocab": 16,
            "position": "rope",
            "mlp": "gelu",
            "mlp_gated": False,
            "mlp_ratio": 4.0,
            "tied": False,
            "norm_scale": False,
            "qk_norm": False,
            "logit_cap": None,
            "z_loss": 0.0,
            "experts": 1,
            "experts_per_token": 2,
            "expert_ratio": None,
            "shared_experts": 0,
            "dense_layers": 0,
            "router": "renormalised",
            "routed_scale": 1.0,
            "balance_loss": 0.01,
            "balance_rate": 0.0,
            "router_z_loss": 0.0,
        },
        "training": {
            "batch_tokens": 32,
            "steps": 40,
            "lr": 0.02,
            "optimizer": "adamw",
            "loss": None,
            "init": None,
            "schedule": "cosine",
            "warmup": 0.1,
            "warmup_tokens": None,
            "cooldown": 0.2,
            "cooldown_shape": "linear",
            "final_lr": 0.0,
            "beta1": 0.9,
            "beta2": 0.98,
            "eps": 1e-8,
            "momentum": 0.95,
            "weight_decay": 0.0,
            "clip": 1.0,
            "skip_spikes": None,
            "parametrization": "mup",
            "base_width": 32,
            "base_depth": 2,
            "profile": None,
            "base_head_width": None,
            "dtype": "float32",
            "param_dtype": "float32",
        },
        "evaluation": {"tokens": 512, "sets": {}, "points": 0, "tasks": (), "few_shot": None},
        "seed": 0,
        "parent": None,
        "code": None,
    }


def test_a_default_left_open_or_spelt_out_is_the_same_run(tiny_run):
    assert tiny_run(schedule="cosine").run_id == tiny_run().run_id != tiny_run(schedule="linear").run_id


def test_a_config_survives_json(tiny_run):
    run = tiny_run()
    assert RunConfig.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    "change, says",
    [
        ({"width": 9}, "multiple of 2"),
        ({"width": 6}, "multiple of 4"),
        ({"batch_tokens": 30}, "whole number of sequences"),
        ({"lr": -1}, "greater than 0"),
        ({"leraning_rate": 1}, "Extra inputs"),
        ({"schedule": "wsd", "warmup": 0.3, "cooldown": 0.8}, "overlap"),
        ({"schedule": "wsd", "warmup_tokens": 1100}, "leave no room .* lower one of them"),
        ({"warmup_tokens": 1312}, "leave no room in a run of 1280 tokens; lower them"),
        ({"optimizer": "sgd"}, "sgd trains with parametrization standard"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_run, change, says):
    with pytest.raises(ValidationError, match=says):
        tiny_run(**change)


def test_data_without_a_fingerprint_cannot_name_a_run(tiny_run):
    with pytest.raises(ValueError, match="fingerprint"):
        tiny_run(data=TextData(source="text", path="a", vocab=128)).run_id  # noqa: B018


def test_attention_only_models_have_no_hidden_layer():
    assert ModelFamily(mlp="none").at(16, 32).hidden_width == 0


class TestExperts:
    def test_one_expert_is_the_mlp_whatever_is_said_of_routing(self):
        dense, routed = (ModelFamily(**more).at(16, 32) for more in ({}, {"experts_per_token": 4, "balance_rate": 0.1}))
        assert dense == routed
        assert dense.semantic() == routed.semantic()
        assert "experts_per_token" not in dense.semantic()

    def test_what_a_token_passes_is_as_wide_as_one_mlp_unless_said(self):
        model = ModelFamily(experts=8, experts_per_token=3, shared_experts=1, mlp_ratio=4).at(16, 32)
        assert expert_width(model) == 16
        assert expert_width(model.model_copy(update={"expert_ratio": 0.5})) == 8

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"experts_per_token": 9}, "experts_per_token 9 is more than there are experts, 8"),
            ({"experts_per_token": 1}, "take router softmax for experts_per_token 1"),
            ({"mlp": "none"}, "experts are MLPs, and mlp is none"),
            ({"dense_layers": 2}, "dense_layers 2 leave none of 2 blocks for experts"),
            ({"expert_ratio": 0.01}, "raise expert_ratio"),
        ],
    )
    def test_what_does_not_fit_together_is_refused_in_words(self, options, message):
        with pytest.raises(ValidationError, match=message):
            ModelFamily(**{"depth": 2, "experts": 8} | options).at(16, 32)
