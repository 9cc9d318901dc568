"""What compute costs: each direction is the other turned round, and both agree with what others have published."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nextscale.cluster.hardware.catalogue import CATALOGUE
from nextscale.model.accounting import flops_per_token, non_embedding_parameters, parameter_groups, parameters
from nextscale.model.config.run import ModelConfig
from nextscale.sweeps.budget.cluster import BUYS, MEASURES, Cluster, cluster_of, measured_utilisation
from nextscale.sweeps.errors import SpecError

GEMMA = {
    "2B": ModelConfig(
        depth=18, width=2048, heads=8, kv_heads=1, head_width=256, mlp="swiglu", mlp_ratio=8, vocab=256_128,
        context=8192, tied=True, norm_scale=True,
    ),
    "7B": ModelConfig(
        depth=28, width=3072, heads=16, kv_heads=16, head_width=256, mlp="swiglu", mlp_ratio=8, vocab=256_128,
        context=8192, tied=True, norm_scale=True,
    ),
}  # fmt: skip
"""Gemma Team 2024 (arXiv 2403.08295), table 1. Its feedforward dimensions, 32768 and 49152, are of both halves of the
GeGLU together, which has the three matrices of a SwiGLU."""


def table(**columns):
    return pd.DataFrame({"accelerator": "h100", "utilisation": 0.3, "flops": 1e18, "params": 1e8} | columns)


class TestCluster:
    @pytest.mark.parametrize("measure", BUYS)
    @pytest.mark.parametrize("flops", [1.0, 3.7e12, 6e23, 1e27])
    def test_what_it_costs_buys_it_back(self, measure, flops):
        cluster = cluster_of("h100x513", utilisation=0.37, price=2.39)
        assert cluster_of("H100X513", utilisation=0.37, price=2.39) == cluster
        assert BUYS[measure](cluster, MEASURES[measure](cluster, flops)) == pytest.approx(flops, rel=1e-14)

    def test_the_arithmetic(self):
        """A chip at its peak for an hour, and a hundred of them at a half for a day."""
        one = cluster_of("tpu-v4", utilisation=1.0, price=3.0, pue=1.5)
        for name, value in {"device_hours": 1, "days": 1 / 24, "usd": 3, "kwh": 0.192 * 1.5}.items():
            assert one.costs(275e12 * 3600)[name] == pytest.approx(value)
        hundred = cluster_of("tpu-v4x100", utilisation=0.5)
        assert hundred.days(100 * 0.5 * 275e12 * 86400) == pytest.approx(1)
        assert hundred.usd(275e12 * 3600) == pytest.approx(2 * CATALOGUE["tpu-v4"].usd_per_chip_hour)

    @pytest.mark.parametrize("interval", [None, [1e22, 1e22]])
    def test_what_given_compute_costs_is_as_certain(self, interval):
        costs = cluster_of("h100x8", utilisation=0.4).costs(1e22, interval)
        assert all(costs[f"{name}_interval"] is None for name in MEASURES)

    def test_what_compute_costs_is_as_unsure_as_the_compute(self):
        costs = cluster_of("h100x8", utilisation=0.4).costs(1e22, [5e21, 1e23])
        for name in MEASURES:
            assert costs[f"{name}_interval"] == pytest.approx([costs[name] / 2, costs[name] * 10])
        endless = cluster_of("h100x8", utilisation=0.4).costs(1e22, [5e21, float("inf")])
        assert endless["usd_interval"] == [pytest.approx(endless["usd"] / 2), None]

    def test_list_prices_bear_their_date(self):
        told = " ".join(cluster_of("h100x8", utilisation=0.4).assumptions())
        assert "$6.88 per chip-hour" in told
        assert "2026-11-23" in told

    def test_spot_is_cheaper(self):
        spot, listed = (cluster_of("tpu-v6ex8", utilisation=0.4, spot=s) for s in (True, False))
        assert spot.usd(1e21) < 0.5 * listed.usd(1e21)
        assert spot.priced.startswith("spot")

    def test_what_nobody_publishes_is_no_number(self):
        cluster = cluster_of("tpu-v5ex256", utilisation=0.4)
        assert cluster.kwh(1e22) is None
        assert "no power is known" in " ".join(cluster.assumptions())
        unpriced = dataclasses.replace(cluster, usd_per_chip_hour=None)
        assert unpriced.costs(1e22)["usd"] is None
        assert "no price is known" in " ".join(unpriced.assumptions())

    @pytest.mark.parametrize(
        "arguments, says",
        [
            ({"text": "h101x8"}, "'h101' is not in the catalogue; take one of tpu-v4"),
            ({"text": "h100x0"}, "h100x512"),
            ({"text": "h100x"}, "'h100x' is not in the catalogue"),
            ({"text": "x8"}, "'x8' is not in the catalogue"),
            ({"text": ""}, "'' is not in the catalogue"),
            ({"text": "h100x8", "utilisation": 0.0}, "should lie above 0"),
            ({"text": "h100x8", "utilisation": 1.2}, "should lie above 0 and be 1 at most, not 1.2"),
            ({"text": "h100x8", "price": -1.0}, "0 or more, not -1"),
            ({"text": "h100x8", "price": float("nan")}, "0 or more, not nan"),
            ({"text": "h100x8", "pue": 0.5}, "should be 1 or more"),
            ({"text": "h100x8", "spot": True}, "no spot price is listed for h100"),
            ({"text": "cpux2"}, "its peak is not known"),
        ],
    )
    def test_mistakes(self, arguments, says):
        with pytest.raises(SpecError, match=says):
            cluster_of(**arguments)

    @pytest.mark.parametrize("price, says", [(0.0, "it costs nothing"), (None, "no price is known")])
    def test_dollars_buy_nothing_certain_without_a_price(self, price, says):
        cluster = dataclasses.replace(cluster_of("h100x8", utilisation=0.4), usd_per_chip_hour=price)
        with pytest.raises(SpecError, match=says):
            cluster.flops_for_usd(100)

    def test_names_with_an_x_in_them(self):
        cards = {"rtx4090": dataclasses.replace(CATALOGUE["l4"], name="rtx4090")}
        named = [
            cluster_of(text, accelerators=cards, utilisation=0.3) for text in ("rtx4090", "rtx4090x8", "rtx4090×8")
        ]
        assert [(c.accelerator.name, c.chips) for c in named] == [("rtx4090", 1), ("rtx4090", 8), ("rtx4090", 8)]


class TestUtilisation:
    def test_stated_before_measured_before_assumed(self):
        runs = table(run_id=["a"])
        stated = cluster_of("h100x8", runs=runs, utilisation=0.5)
        measured, assumed = cluster_of("h100x8", runs=runs), cluster_of("tpu-v5ex8", runs=runs)
        assert [c.utilisation for c in (stated, measured, assumed)] == [0.5, pytest.approx(0.3), 0.4]
        assert [c.basis.split()[-1 if c is stated else 0].strip(",") for c in (stated, assumed)] == [
            "stated",
            "assumed",
        ]
        assert "as measured over 1 runs" in measured.basis

    def test_it_is_of_all_flops_over_all_time(self):
        runs = table(flops=[1e18, 3e18], utilisation=[0.1, 0.3], params=[1e7, 1e8])
        told = measured_utilisation(runs, CATALOGUE["h100"])
        assert told.share == pytest.approx(4e18 / (1e18 / 0.1 + 3e18 / 0.3))
        assert (told.runs, told.params) == (2, 1e8)

    def test_what_restarts_cost_counts_as_time(self):
        """A run of an hour's FLOPs at the peak that took two, and one that took four."""
        hour = CATALOGUE["h100"].peak_flops * 3600
        runs = table(flops_kept=[hour, hour], device_hours=[2.0, 4.0])
        assert measured_utilisation(runs, CATALOGUE["h100"]).share == pytest.approx(2 / 6)

    def test_its_range_is_that_of_the_middle_of_the_compute(self):
        """Of a hundred runs alike but for how well they used the chip, and one of hardly any compute that did not."""
        shares = np.linspace(0.2, 0.4, 101)
        runs = table(flops=[1e18] * 101 + [1e10], utilisation=[*shares, 1e-3])
        told = measured_utilisation(runs, CATALOGUE["h100"])
        assert told.ends == (pytest.approx(0.21, abs=0.003), pytest.approx(0.39, abs=0.003))
        assert told.ends[0] < told.share < told.ends[1]
        assert cluster_of("h100x8", runs=runs).utilisation_range == told.ends
        assert cluster_of("h100x8", runs=runs, utilisation=0.3).utilisation_range is None
        low, high = cluster_of("h100x8").utilisation_range
        assert low < cluster_of("h100x8").utilisation < high

    def test_runs_elsewhere_or_without_a_time_say_nothing(self):
        assert measured_utilisation(table(accelerator=["a100"]), CATALOGUE["h100"]) is None
        assert measured_utilisation(table(utilisation=[None, float("nan"), 0.0, 1.3]), CATALOGUE["h100"]) is None
        assert measured_utilisation(pd.DataFrame({"flops": [1.0]}), CATALOGUE["h100"]) is None

    def test_of_much_larger_models_it_is_in_doubt(self):
        cluster = cluster_of("h100x8", runs=table(run_id=["a"]))
        assert cluster.warnings(9e8) == []
        assert "may well reach another" in cluster.warnings(2e9)[0]

    def test_small_models_reach_less_than_is_assumed(self):
        assert "reaches less" in cluster_of("h100x8").warnings(1e6)[0]
        assert cluster_of("h100x8").warnings(1e9) == []
        assert cluster_of("h100x8", utilisation=0.4).warnings(1e6) == []


class TestPublicRecord:
    """Utilisations are as others state them, or follow from what they state; nothing here is tuned."""

    @pytest.mark.parametrize(
        "name, embedding, rest", [("2B", 524_550_144, 1_981_884_416), ("7B", 786_825_216, 7_751_248_896)]
    )
    def test_the_sizes_of_gemma_to_the_parameter(self, name, embedding, rest):
        """Gemma Team 2024, table 2."""
        model = GEMMA[name]
        assert parameter_groups(model)["embedding"] == embedding
        assert non_embedding_parameters(model) == rest

    @pytest.mark.parametrize(
        "name, tokens, chips, days, usd", [("2B", 3e12, 512, 10.0, 147e3), ("7B", 6e12, 4096, 8.44, 995e3)]
    )
    def test_gemma_on_its_pods(self, name, tokens, chips, days, usd):
        """3T and 6T tokens on 2 and 16 pods of 256 v5e chips (Gemma Team 2024, sec. 2 and 3), at the 58 % of both that
        MaxText states for a pod (AI-Hypercomputer/maxtext, end_to_end/tpu/gemma/Run_Gemma.md). By hand, with 6ND and
        6 L H Q T for the keys that are seen: days and dollars (at $1.2 a chip-hour) within 1 %."""
        model, cluster = GEMMA[name], cluster_of(f"tpu-v5ex{chips}", utilisation=0.58)
        flops = flops_per_token(model) * tokens
        by_hand = 6 * parameters(model) + 6 * model.depth * model.query_width * model.context
        assert flops == pytest.approx(by_hand * tokens, rel=1e-3)
        assert cluster.days(flops) == pytest.approx(days, rel=0.01)
        assert cluster.usd(flops) == pytest.approx(usd, rel=0.01)

    def test_gemma_2b_takes_the_five_to_seven_days_that_google_names(self):
        """ "on 512 TPUv5es, and assuming an optimized setup, it could take around 5-7 days" (Google, in the discussion
        "Pretraining Time Cost?" of huggingface.co/google/gemma-2b-it). Of the 2T tokens that Google's "Performance deep
        dive of Gemma on Google Cloud" (April 2024) names; the paper's later version names 3T."""
        assert 5 < cluster_of("tpu-v5ex512", utilisation=0.58).days(flops_per_token(GEMMA["2B"]) * 2e12) < 7

    def test_llama_65b_took_21_days_and_449_mwh(self):
        """Touvron et al. 2023 (arXiv 2302.13971): 65.2B parameters, 1.4T tokens, 2048 A100s at 380 tokens per second
        each: "approximately 21 days" (sec. 2.4); 1 022 362 GPU-hours and 449 MWh at 400 W and a PUE of 1.1 (table 15).
        Days within 2 %; GPU-hours, which hold restarts too, within 2 %; energy of those hours within 1 %."""
        flops = 6 * 65.2e9 * 1.4e12
        utilisation = 380 * 6 * 65.2e9 / CATALOGUE["a100"].peak_flops
        cluster = cluster_of("a100x2048", utilisation=utilisation, pue=1.1)
        assert cluster.days(flops) == pytest.approx(21, rel=0.02)
        assert cluster.device_hours(flops) == pytest.approx(1_022_362, rel=0.02)
        assert 1_022_362 * cluster.kwh_per_device_hour == pytest.approx(449e3, rel=0.01)
        assert cluster.kwh(flops) == pytest.approx(449e3, rel=0.02)


def test_a_cluster_is_of_something():
    with pytest.raises(SpecError, match="1 or more, not 0"):
        Cluster(accelerator=CATALOGUE["h100"], chips=0, utilisation=0.4)
