"""`nextscale forecast`: what it answers to compute, losses, sizes, dollars and hours, as JSON and in words."""

import json

import numpy as np
import pytest

FAST = ("--resamples", "100")
ON = ("--on", "h100x64", "--utilisation", ".4")


class TestCommand:
    @pytest.mark.slow
    def test_everything_at_once(self, called, csv, tmp_path):
        figure = tmp_path / "budget.svg"
        many = ("--flops", "1e22", "--loss", "2.05", "--usd", "1e4", "--device-hours", "1e3", "--days", "3")
        code, out, err = called(
            "forecast", csv, *FAST, *ON, *many, "--params", "3e9", "--pue", "1.1", "--bytes-per-token", "4.2",
            "--data-available", "1e10", "--plot", figure, "--json",
        )  # fmt: skip
        told = json.loads(out)
        assert (code, err) == (0, "")
        kinds = ["flops", "usd", "device_hours", "days", "loss", "params"]
        assert [next(iter(target["asked"])) for target in told["targets"]] == kinds
        hours = told["targets"][2]
        assert (hours["device_hours"], hours["usd"]) == (1e3, pytest.approx(6880))
        assert hours["flops"] == pytest.approx(1e3 * 3600 * 989.4e12 * 0.4)
        assert hours["kwh"] == pytest.approx(1e3 * 0.7 * 1.1)
        assert told["targets"][3]["device_hours"] == pytest.approx(3 * 24 * 64)
        bits = told["targets"][0]
        assert bits["bits_per_byte"] == pytest.approx(bits["loss"] / np.log(2) / 4.2)
        assert told["cluster"]["utilisation_basis"] == "as stated"
        assert figure.read_text().lstrip().startswith("<?xml")

    def test_in_words(self, called, csv):
        code, out, _ = called("forecast", csv, *FAST, *ON, "--usd", "1e4", "--loss", "2.05", "--params", "3e9",
                              "--tokens", "1e11", "--data-available", "1e10")  # fmt: skip
        assert code == 0
        for words in (
            "What that takes on h100x64",
            "$10k",
            "3B parameters on 100B tokens",
            "as stated",
            "2026-11-23",
            "of the chips alone: no PUE was stated",
            "no bits per byte",
            "published: Muennighoff et al. 2023",
            "repeats cost",
            "backtests of such a reach missed by",
        ):
            assert words in out, words

    def test_a_utilisation_is_measured_where_runs_were_timed(self, called, csv, simulated):
        table = simulated().assign(accelerator="a100", utilisation=0.31)
        table.to_csv(csv, index=False)
        _, out, _ = called("forecast", csv, *FAST, "--flops", "1e22", "--on", "a100x8", "--json")
        _, other, _ = called("forecast", csv, *FAST, "--flops", "1e22", "--on", "h100x8", "--json")
        assert json.loads(out)["cluster"]["utilisation"] == pytest.approx(0.31)
        assert "as measured over 25 runs" in json.loads(out)["cluster"]["utilisation_basis"]
        assert json.loads(other)["cluster"]["utilisation_basis"].startswith("assumed")

    def test_a_site_has_its_own_chips(self, called, csv, tmp_path):
        site = tmp_path / "site.yaml"
        site.write_text("accelerators: {own: {platform: cuda, peak_flops: 1.0e+15, hbm_bytes: 8.0e+10, watts: 500}}")
        asked = ("--device-hours", "100", "--on", "ownx4", "--utilisation", ".5", "--site", site)
        _, out, _ = called("forecast", csv, *FAST, *asked, "--json")
        (target,) = json.loads(out)["targets"]
        assert (target["flops"], target["usd"], target["kwh"]) == (pytest.approx(1.8e20), None, pytest.approx(50))

    @pytest.mark.parametrize(
        "arguments, says",
        [
            ((), "say of what, with --flops or --loss"),
            (("--usd", "1e6"), "--usd: say of what hardware, with --on"),
            (("--days", "3"), "--days: say of what hardware, with --on"),
            (("--device-hours", "3"), "--device-hours: say of what hardware"),
            (("--usd", "1e6", "--on", "h100y8"), "'h100y8' is not in the catalogue; take one of tpu-v4"),
            (("--usd", "1e6", *ON, "--price", "0"), "it costs nothing, so dollars buy no certain compute"),
            (("--usd", "1e6", *ON, "--spot"), "no spot price is listed for h100"),
            (("--flops", "1e22", "--utilisation", ".4"), "--utilisation: is that of the hardware; name it with --on"),
            (("--flops", "1e22", "--price", "2"), "--price: is that of the hardware"),
            (("--flops", "1e22", "--spot"), "--spot: is of the hardware"),
            (("--params", "1e9", "--params", "2e9", "--tokens", "1e11"), "--params is given 2 times and --tokens 1"),
            (("--params", "3e9", "--law", "saturating"), "is a law in C, and says nothing of params"),
            (("--flops", "1e22", "--law", "saturating", "--data-available", "1e9"), "says nothing of tokens"),
            (("--flops", "1e22", "--data-available", "10"), "so little that the law does not say what size"),
            (("--params", "3e9", "--register"), "--register: say of what compute, with --flops"),
            (("--usd", "nan", *ON), "--usd nan: is no number"),
        ],
    )  # fmt: skip
    def test_mistakes(self, called, csv, arguments, says):
        code, _, err = called("forecast", csv, *FAST, *arguments)
        assert code == 2
        assert says in " ".join(err.split())

    def test_what_dollars_buy_is_registered(self, called, csv):
        code, out, _ = called("forecast", csv, *FAST, *ON, "--usd", "1e4", "--loss", "2.05", "--register", "--json")
        told = json.loads(out)
        assert code == 0
        (entry,) = told["registered"]
        assert entry["targets"][0]["flops"] == told["targets"][0]["flops"]
