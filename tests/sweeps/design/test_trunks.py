"""Designs of trunks and branches: one long run per size, and a cooldown from it per length."""

import pytest

from nextscale.model.training.branch import same_until
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.plan import plan
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.rules import HorizonRule

WSD = {
    "linear": "wsd\n  warmup_tokens: 12800",
    "kind: isoflop": "kind: wsd",
    "[1.0e+9, 2e9, 4e9]": "1",
    "flops: 1\n": "tokens: [1.0e+5, 2e5, 4e5]\n",
    "[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "[8, 16]",
}


class TestWsd:
    def test_the_longest_run_of_a_width_is_the_trunk_of_the_others(self, spec_file):
        runs = [run for run in planned_runs(load_spec(spec_file(WSD))) if run.role == "fit"]
        assert len(runs) == 6
        for width in (8, 16):
            *branches, trunk = [run for run in runs if run.config.model.width == width]
            assert trunk.trunk is None and trunk.start is None
            assert trunk.own_flops == trunk.flops
            for run, tokens in zip(branches, (1e5, 2e5), strict=True):
                assert run.trunk == trunk.config
                assert run.tokens == pytest.approx(tokens, rel=1e-3)
                assert run.start.tokens == pytest.approx(0.8 * tokens, rel=1e-2)
                assert run.own_flops == pytest.approx(0.2 * run.flops, rel=1e-2)
                assert same_until(run.config, trunk.config, run.start.tokens)

    @pytest.mark.parametrize("ratio, share", [(2, 0.61), (2**0.5, 0.48)])
    def test_a_trunk_saves_what_is_promised(self, spec_file, ratio, share):
        """Five lengths, a fifth of each cooled: 0.8 of the longest once and 0.2 of each, over the whole of each."""
        lengths = [2e6 * ratio**i for i in range(5)]
        changes = WSD | {"[1.0e+5, 2e5, 4e5]": str(lengths), "1.2e10": "1e14"}
        runs = [run for run in planned_runs(load_spec(spec_file(changes))) if run.role == "fit"]
        found = sum(run.own_flops for run in runs) / sum(run.flops for run in runs)
        assert share <= found < share + 0.01

    def test_what_depends_on_the_length_is_that_of_the_trunk(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD)))
        rates = {run.config.training.lr for run in runs if run.role == "fit"}
        assert rates == {HorizonRule(rule="horizon", base=0.02, floor=0.008)(None, 3125, 128)}

    def test_every_seed_has_its_trunk(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD), ["design.seeds=[0, 1]"]))
        assert all(run.trunk is None or run.trunk.seed == run.config.seed for run in runs)
        assert len({run.trunk.run_id for run in runs if run.trunk is not None}) == 4

    def test_a_run_that_only_cools_down_has_no_trunk(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD | {"12800": "0"}), ["training.cooldown=1"]))
        assert all(run.trunk is None for run in runs)

    def test_the_plan_counts_what_is_trained(self, spec_file):
        runs = planned_runs(load_spec(spec_file(WSD)))
        found = plan(runs)
        assert found.total_flops == sum(run.own_flops for run in runs) < sum(run.flops for run in runs)
        assert [row["trunk"] for row in found.runs if row["role"] == "fit"].count(None) == 2
        assert not any("sizes at" in warning for warning in found.warnings)

    @pytest.mark.parametrize(
        "changes, says",
        [
            ({"\n  warmup_tokens: 12800": ""}, r":4: training\.warmup_tokens: is missing; .* 10000 tokens, say"),
            ({"wsd\n  w": "linear\n  w"}, r":6: training\.schedule: is wsd where design\.kind is; set it"),
            ({"12800": "90000"}, r":7: training\.warmup_tokens 90000 leave no room in a run of .* lower one"),
            ({"1.0e+5": "1.0e+3"}, r":11: design\.tokens\.0: .* for only 8 steps"),
            ({"2e5, 4e5": "4e5, 2e5"}, r":11: design\.tokens: must rise"),
            ({"1.2e10": "1e9"}, r":13: holdout\.flops: must lie above every run of design, the largest of"),
            ({"[8, 16]": "[9, 16]"}, r":12: design\.widths\.0: width 9 cannot be cut"),
        ],
    )
    def test_mistakes(self, spec_file, changes, says):
        with pytest.raises(SpecError, match=says):
            load_spec(spec_file(WSD | changes))
