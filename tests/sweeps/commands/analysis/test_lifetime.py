"""The commands `inference`, `overtrain` and `family`: what they print is what the functions say."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.estimate.published import BESIROGLU
from nextscale.fit.optimum.lifetime import Prices, Served, lifetime
from nextscale.fit.optimum.overtrain import overtrained, smallest_sizes
from nextscale.fit.table.runs import as_runs
from nextscale.fit.trust.backtest import fit_backtested

QUICK = ("--resamples", "100")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    rng = np.random.default_rng(0)
    budgets = np.repeat([1e19, 6e19, 4e20], 5)
    params = np.sqrt(budgets / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 3)
    tokens = budgets / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(0.002 * rng.standard_normal(15))
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    pd.DataFrame({"params": params, "tokens": tokens, "flops": budgets, "loss": loss}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def found(runs):
    """What the commands are to fit to them."""
    return fit_backtested(as_runs(pd.read_csv(runs)), ("chinchilla",), resamples=100)[0]


def told(called, *arguments):
    code, out, err = called(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


class TestInference:
    def test_is_what_the_function_says(self, called, runs, found, tmp_path):
        answer = told(
            called, "inference", runs, "--loss", "2.3", "--served", "1e12", *QUICK, "--plot", tmp_path / "x.png"
        )
        row = lifetime(found, Served.of(1e12), losses=[2.3]).iloc[0]
        target = answer["targets"][0]
        assert answer["unit"] == "flops"
        for name in ("params", "tokens", "flops", "total", "saving", "optimal_params"):
            assert target[name] == pytest.approx(row[name], rel=1e-6)
            assert target[f"{name}_interval"] == pytest.approx([row[f"{name}_low"], row[f"{name}_high"]], rel=1e-6)
            assert target[f"{name}_interval"][0] <= target[name] <= target[f"{name}_interval"][1]
        assert (tmp_path / "x.png").stat().st_size > 1e4

    def test_dollars(self, called):
        hardware = ("--on", "h100x512", "--utilisation", "0.4", "--price", "2")
        serving = ("--served", "1e13", "--prompt-share", "0.25")
        by_chip = ("--prefill-utilisation", "0.5", "--decode-utilisation", "0.01", "--serve-price", "1")
        answer = told(called, "inference", "published:besiroglu", "--loss", "2", *serving, *hardware, *by_chip)
        serve = {name: Prices.per_flop(1, 989.4e12, share) for name, share in (("prefill", 0.5), ("decode", 0.01))}
        prices = Prices(train=Prices.per_flop(2, 989.4e12, 0.4), **serve)
        row = lifetime(BESIROGLU.fit, Served(prefill=2.5e12, decode=7.5e12), losses=[2.0], prices=prices).iloc[0]
        assert answer["unit"] == "usd"
        assert answer["targets"][0]["total"] == pytest.approx(row["total"], rel=1e-6)
        again = told(
            called, "inference", "published:besiroglu", "--usd", f"{row['total']:.9g}", *serving, *hardware, *by_chip
        )
        assert again["targets"][0]["loss"] == pytest.approx(2.0, rel=1e-4)

    def test_a_budget_that_is_given_has_no_interval(self, called, runs):
        code, out, err = called("inference", runs, "--flops", "1e23", "--served", "1e12", "--resamples", "100")
        assert code == 0, err
        assert "[1e23, 1e23]" not in out
        assert "1e23 │" in out

    def test_a_price_per_token(self, called):
        """Of the size that it is told of, a token costs that."""
        given = ("--served", "1e12", "--on", "h100", "--utilisation", "0.4", "--token-price", "0.5@70e9")
        target = told(called, "inference", "published:besiroglu", "--loss", "2", *given)["targets"][0]
        assert target["serving"] == pytest.approx(0.5e-6 * 1e12 * target["params"] / 70e9)

    def test_table(self, called):
        code, out, _ = called("inference", "published:de-vries", "--loss", "2.0453", "--served", "2e12")
        assert code == 0
        assert "6.97B" in out and "17.4%" in out
        assert "no interval" in out and "90%" not in out

    @pytest.mark.parametrize(
        "options, says",
        [
            (["--served", "1e12"], "say what for"),
            (["--served", "1e12", "--usd", "1e6"], "--usd: needs the hardware"),
            (["--served", "1e12", "--loss", "2", "--serve-price", "2"], "--serve-price: is a price"),
            (["--served", "1e12", "--loss", "2", "--on", "h100"], "--prefill-utilisation: state it"),
            (["--served", "1e12", "--loss", "2", "--on", "h100", "--token-price", "2"], "write it as USD@PARAMS"),
            (["--served", "1e12", "--flops", "1e24", "--on", "h100", "--token-price", "2@1e9"], "costs are dollars"),
            (["--served", "1e12", "--loss", "2", "--law", "chinchilla-tied"], "nothing is fitted"),
            (["--served", "1e12", "--loss", "2", "--law", "saturating"], "this command needs one in N and D"),
        ],
    )
    def test_what_cannot_be_meant(self, called, options, says):
        code, _, err = called("inference", "published:besiroglu", *options)
        assert code == 2
        assert says in err
        assert err.count("\n") == 1

    def test_constants_that_nobody_published(self, called):
        code, _, err = called("inference", "published:nobody", "--served", "1e12", "--loss", "2")
        assert code == 2
        assert "'nobody' is not one of besiroglu, hoffmann, de-vries, muennighoff" in err


class TestOvertrain:
    def test_is_what_the_functions_say(self, called, runs, found, tmp_path):
        given = ("--params", "3e8", "--tokens", "1e11", "--more", "0.25", *QUICK, "--plot", tmp_path / "x.svg")
        answer = told(called, "overtrain", runs, *given)
        row = overtrained(found, 3e8, tokens=1e11)
        for name in ("loss", "overhead", "optimal_params", "optimal_flops"):
            assert answer["model"][name] == pytest.approx(row[name], rel=1e-6)
            assert answer["model"][f"{name}_interval"] == pytest.approx([row[f"{name}_low"], row[f"{name}_high"]])
        lesser = smallest_sizes(found, row["loss"], [0.25]).iloc[0]
        assert answer["smaller"][0]["params"] == pytest.approx(lesser["params"], rel=1e-6)
        assert (tmp_path / "x.svg").stat().st_size > 1e4

    def test_dollars_beside(self, called):
        given = ("--params", "175e9", "--tokens", "300e9", "--on", "a100x1024", "--utilisation", "0.3", "--price", "2")
        model = told(called, "overtrain", "published:besiroglu", *given)["model"]
        assert model["usd"] == pytest.approx(3.15e23 / (312e12 * 0.3 * 3600) * 2)
        assert model["usd"] / model["optimal_usd"] == pytest.approx(1 + model["overhead"])

    @pytest.mark.slow
    def test_dollars_of_what_is_not_given_have_their_interval(self, called, runs):
        hardware = ("--on", "h100x8", "--utilisation", "0.4", "--price", "2", *QUICK)
        answer = told(called, "overtrain", runs, "--params", "3e8", "--loss", "2.5", *hardware)
        model = answer["model"]
        for one, before in ((model, ""), (model, "optimal_"), *((one, "") for one in answer["smaller"])):
            flops, usd = one[f"{before}flops_interval"], one[f"{before}usd_interval"]
            assert flops[0] < one[f"{before}flops"] < flops[1]
            assert np.array(usd) / one[f"{before}usd"] == pytest.approx(np.array(flops) / one[f"{before}flops"])
        given = told(called, "overtrain", runs, "--params", "3e8", "--tokens", "1e11", *hardware)["model"]
        assert given["usd_interval"] is None
        assert given["optimal_usd_interval"][0] < given["optimal_usd"] < given["optimal_usd_interval"][1]

    def test_a_loss_out_of_reach_is_said(self, called):
        assert (
            told(called, "overtrain", "published:besiroglu", "--params", "1e9", "--loss", "2.0")["model"]["tokens"]
            is None
        )

    def test_what_is_out_of_reach_is_no_number(self, called):
        code, out, _ = called("inference", "published:besiroglu", "--loss", "1.8", "--served", "1e12")
        assert code == 0
        assert "does not come down to it" in out
        assert not re.search("inf|nan", out.partition("note:")[0])

    @pytest.mark.parametrize("options", [[], ["--tokens", "1e12", "--loss", "2"]])
    def test_one_thing_says_how_long(self, called, options):
        code, _, err = called("overtrain", "published:besiroglu", "--params", "1e9", *options)
        assert code == 2
        assert "with one of --tokens, --flops and --loss" in err


class TestFamily:
    @pytest.mark.slow
    def test_shapes_are_those_of_a_sweeps_folder(self, called, swept):
        answer = told(called, "family", swept[1], "--flops", "1e10", "--split", "1,4", "--names", "a,b", *QUICK)
        for member, name, flops in zip(answer["members"], "ab", (2e9, 8e9), strict=True):
            assert member["name"] == name
            assert member["flops"] == pytest.approx(flops)
            assert (member["depth"], member["heads"], member["width"] % 2) == (1, 2, 0)
            assert member["loss_interval"][0] < member["loss"] < member["loss_interval"][1]

    def test_dollars_are_shared_out_to_the_last(self, called):
        given = ("--usd", "2e6", "--split", "0.1,0.3,0.6", "--on", "h100x512", "--utilisation", "0.4", "--slices", "8")
        answer = told(called, "family", "published:besiroglu", *given)
        assert [member["usd"] for member in answer["members"]] == pytest.approx([2e5, 6e5, 1.2e6])
        assert answer["total"]["usd"] == pytest.approx(2e6)
        assert sum(member["slices"] for member in answer["members"]) == 8

    def test_table(self, called):
        code, out, _ = called("family", "published:besiroglu", "--loss", "2.2,2.1,2.0", "--served", "1e13,1e12,1e11")
        assert code == 0
        assert re.search(r"small .*\n.* medium .*\n.* large ", out)
        assert "serving FLOPs" in out

    @pytest.mark.parametrize(
        "options, says",
        [
            (["--split", "1,2"], "say what it may cost"),
            (["--split", "1,x", "--flops", "1e24"], "write numbers with commas"),
            (["--split", "1,2", "--usd", "1e6"], "--usd: needs the hardware"),
            (["--split", "1,2", "--usd", "1e6", "--flops", "1e24"], "are two budgets"),
            (["--split", "1,2", "--flops", "1e24", "--slices", "4"], "--slices: are parts of the hardware"),
        ],
    )
    def test_what_cannot_be_meant(self, called, options, says):
        code, _, err = called("family", "published:besiroglu", *options)
        assert code == 2
        assert says in err
        assert err.count("\n") == 1
