"""Families of models: what is shared out is shared out wholly, shapes can be built, and what each costs adds up."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nextscale.cluster.hardware.catalogue import lookup
from nextscale.fit.estimate.fit import fit
from nextscale.fit.estimate.published import BESIROGLU
from nextscale.fit.optimum.frontier import frontier
from nextscale.fit.optimum.overtrain import overtrained, overtrained_draws
from nextscale.model.accounting import flops_per_token, parameters
from nextscale.sweeps.budget.cluster import Cluster
from nextscale.sweeps.budget.model_family import Shapes, family, member_requests
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.show.lifetime_tables import family_tables
from nextscale.sweeps.spec.sweep_spec import SweepSpec


@pytest.fixture(scope="module")
def law():
    return BESIROGLU.fit


@pytest.fixture(scope="module")
def shapes():
    spec = SweepSpec(
        name="large",
        data={"source": "markov", "vocab": 256, "seed": 0},
        model={
            "depth": {"rule": "aspect", "ratio": 128},
            "heads": {"rule": "head_width", "width": 128},
            "context": 4096,
            "position": "rope",
        },
        training={"batch_tokens": 4_194_304, "lr": 3e-4},
        design={"kind": "isoflop", "flops": [1e19, 1e20], "sizes": 5},
    )
    return Shapes.of(spec, "total")


@pytest.fixture(scope="module")
def cluster():
    return Cluster(accelerator=lookup("h100"), chips=512, utilisation=0.4, usd_per_chip_hour=2.0)


class TestWishes:
    def test_shares_add_up(self):
        asked = member_requests(flops=1e24, split=[1, 3, 6])
        assert [wish.name for wish in asked] == ["small", "medium", "large"]
        assert [wish.flops for wish in asked] == pytest.approx([1e23, 3e23, 6e23])

    @pytest.mark.parametrize(
        "given, says",
        [
            ({"split": [1, 2]}, "say what it may cost"),
            ({"flops": 1e24}, "--split: say how"),
            ({"flops": 1e24, "split": [1, 0]}, "a share should be greater than 0"),
            ({"flops": 1e24, "losses": [2.0]}, "say what it may cost"),
            ({"losses": [2.0], "split": [1.0]}, "a --loss each has none"),
            ({"flops": 1e24, "split": [1, 2], "sizes": [1e9]}, "--sizes: has 1 values for a family of 2"),
        ],
    )
    def test_what_cannot_be_meant(self, given, says):
        with pytest.raises(SpecError, match=says):
            member_requests(**given)


class TestFamily:
    def test_each_is_the_best_of_its_share(self, law):
        told = family(law, member_requests(flops=1e23, split=[0.1, 0.9]))
        for member in told["members"]:
            best = frontier(law, [member["flops"]]).iloc[0]
            assert member["params"] == pytest.approx(best["params"], rel=1e-3)
            assert member["loss"] == pytest.approx(best["loss"], rel=1e-6)
            assert member["overhead"] == pytest.approx(0, abs=1e-6)
        assert told["total"]["flops"] == pytest.approx(1e23)

    def test_shapes_are_buildable_and_cost_what_they_cost(self, law, shapes):
        told = family(law, member_requests(flops=1e23, split=[0.05, 0.25, 0.7]), shapes=shapes)
        widths = [member["width"] for member in told["members"]]
        assert sorted(set(widths)) == widths
        for member in told["members"]:
            model = next(model for model in shapes.models if model.width == member["width"])
            assert (member["depth"], member["heads"]) == (model.depth, model.heads)
            assert member["params"] == parameters(model)
            assert member["tokens"] * flops_per_token(model) == pytest.approx(member["flops"])
            assert member["params"] == pytest.approx(member["best_params"], rel=0.1)
            assert 0 <= member["overhead"] < 0.01
        assert told["total"]["flops"] == pytest.approx(1e23)

    def test_what_it_costs_adds_up(self, law, cluster):
        asked = member_requests(flops=1e23, split=[0.1, 0.3, 0.6])
        in_turn, at_once = family(law, asked, cluster=cluster), family(law, asked, cluster=cluster, slices=16)
        for told in (in_turn, at_once):
            for name in ("device_hours", "usd", "kwh", "flops", "tokens"):
                assert told["total"][name] == pytest.approx(sum(member[name] for member in told["members"]))
            assert told["total"]["usd"] == pytest.approx(cluster.usd(1e23))
        assert in_turn["total"]["days"] == pytest.approx(cluster.days(1e23))
        assert [member["slices"] for member in at_once["members"]] == [2, 5, 9]
        assert sum(member["chips"] for member in at_once["members"]) == 512
        days = [member["days"] for member in at_once["members"]]
        assert at_once["total"]["days"] == max(days) < 1.1 * in_turn["total"]["days"]

    def test_a_loss_each_and_what_it_serves(self, law):
        told = family(law, member_requests(losses=[2.2, 2.05], served=[1e13, 1e11]))
        small, large = told["members"]
        plain = [overtrained(law, 1e9, loss=loss)["optimal_params"] for loss in (2.2, 2.05)]
        # What serves much is made much smaller than its optimum; what serves little hardly.
        assert small["params"] / plain[0] < 0.5 < 0.9 < large["params"] / plain[1] < 1
        for member, loss in zip(told["members"], (2.2, 2.05), strict=True):
            assert law.predict(member["params"], member["tokens"])[0] == pytest.approx(loss, rel=1e-9)
            assert member["serving_flops"] == pytest.approx(2 * member["params"] * member["served"])

    def test_a_budget_with_what_is_served_is_for_both(self, law):
        told = family(law, member_requests(flops=1e23, split=[0.4, 0.6], served=[1e12, 1e12]))
        assert told["total"]["flops"] + told["total"]["serving_flops"] == pytest.approx(1e23, rel=1e-6)

    def test_sizes_that_are_given_are_kept(self, law):
        told = family(law, member_requests(flops=1e24, split=[1, 1], sizes=[8e9, 70e9]))
        assert [member["params"] for member in told["members"]] == [8e9, 70e9]
        assert [member["flops"] for member in told["members"]] == pytest.approx([5e23, 5e23])
        assert told["members"][0]["overhead"] > told["members"][1]["overhead"]
        assert told["members"][0]["best_params"] is None
        assert any("tokens per parameter" in warning for warning in told["warnings"])

    def test_what_cannot_be(self, law, cluster, shapes):
        asked = member_requests(flops=1e23, split=[0.1, 0.3, 0.6])
        with pytest.raises(SpecError, match="fewer than the 3 models"):
            family(law, asked, cluster=cluster, slices=2)
        with pytest.raises(SpecError, match="does not divide the 512 chips"):
            family(law, asked, cluster=cluster, slices=7)
        with pytest.raises(SpecError, match=r"no size comes to a loss of 1\.8"):
            family(law, member_requests(losses=[1.8]))
        with pytest.raises(SpecError, match=r"serving takes .* all of its"):
            family(law, member_requests(flops=1e20, split=[1], served=[1e12], sizes=[1e9]))
        with pytest.raises(SpecError, match=r"the model nearest to 1e\+03 parameters"):
            family(law, member_requests(flops=1e23, split=[1], sizes=[1e3]), shapes=shapes)


@pytest.fixture(scope="module")
def resampled():
    """A law with intervals: of fifteen runs that scatter."""
    rng = np.random.default_rng(0)
    flops = np.repeat([1e19, 6e19, 4e20], 5)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 3)
    tokens = flops / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(0.002 * rng.standard_normal(15))
    return fit(pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss}), resamples=60)


class TestIntervals:
    COSTS = ("device_hours", "days", "usd", "kwh")

    @pytest.mark.parametrize("slices", [None, 16])
    def test_what_a_loss_costs_is_as_unsure_as_its_compute(self, resampled, cluster, slices):
        told = family(resampled, member_requests(losses=[2.4, 2.3, 2.25]), cluster=cluster, slices=slices)
        for one in (*told["members"], told["total"]):
            ends = np.array(one["flops_interval"]) / one["flops"]
            assert ends[0] < 1 < ends[1]
            for name in self.COSTS if one is not told["total"] else ("device_hours", "usd", "kwh"):
                assert np.array(one[f"{name}_interval"]) / one[name] == pytest.approx(ends), name
        low, high = told["total"]["days_interval"]
        assert low < told["total"]["days"] < high

    def test_a_total_is_of_each_resample(self, resampled, cluster):
        """Members share the law and its error, so ends of their intervals do not add up."""
        asked = member_requests(losses=[2.4, 2.2])
        told = family(resampled, asked, cluster=cluster, slices=4)
        flops = [
            overtrained_draws(resampled, member["params"], loss=wish.loss)["flops"][1:]
            for member, wish in zip(told["members"], asked, strict=True)
        ]
        parts = [dataclasses.replace(cluster, chips=member["chips"]) for member in told["members"]]
        days = [part.days(draws) for part, draws in zip(parts, flops, strict=True)]
        for name, draws in (("flops", np.sum(flops, axis=0)), ("days", np.max(days, axis=0))):
            ends = np.quantile(draws, [0.05, 0.95], method="nearest")
            assert told["total"][f"{name}_interval"] == pytest.approx(ends), name

    def test_what_is_given_costs_what_it_costs(self, resampled, cluster):
        told = family(resampled, member_requests(flops=1e22, split=[0.3, 0.7]), cluster=cluster, slices=4)
        for one in (*told["members"], told["total"]):
            assert one["flops_interval"] == [one["flops"]] * 2
            assert all(one[f"{name}_interval"] is None for name in self.COSTS)
        assert told["total"]["usd"] == pytest.approx(cluster.usd(1e22))
        (_, cost) = family_tables(told)
        assert "training FLOPs, as given" in cost.columns

    def test_a_family_without_resamples_has_none_and_says_so(self, law, cluster):
        told = family(law, member_requests(losses=[2.2, 2.1]), cluster=cluster, slices=4)
        assert told["total"]["usd_interval"] is None is told["total"]["days_interval"]
        assert any("there is no interval" in text for text in told["warnings"])
        (_, cost) = family_tables(told)
        assert "training FLOPs" in cost.columns


def test_no_number_without_its_interval(law):
    """Constants have none, and say so; runs do."""
    member = family(law, member_requests(flops=1e23, split=[1]))["members"][0]
    for name in ("tokens", "loss", "overhead", "best_params"):
        assert member[f"{name}_interval"] is None or np.ptp(member[f"{name}_interval"]) == 0
