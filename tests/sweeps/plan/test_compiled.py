"""`plan --compile`: each size once, what its compiler says beside the plan, or why not."""

import json

import pytest

from nextscale.sweeps.plan.compiled import compile_plan
from nextscale.sweeps.plan.plan import plan_sweep
from nextscale.sweeps.plan.spec_files import load_spec


def test_sizes_that_no_compiler_here_takes_are_told_why(spec_file, tmp_path):
    spec = load_spec(spec_file(), ['pools={"gpu": {"accelerator": "l4"}}'])
    plan = plan_sweep(spec, tmp_path, simulate=False)
    found = [*compile_plan(spec, plan, tmp_path)]
    assert len(found) == len({(run["params"], run["batch_tokens"]) for run in plan.runs}) < len(plan.runs)
    assert [size["params"] for size in found] == sorted(size["params"] for size in found)
    for size in found:
        assert size["why_not"].startswith("l4: programs for GPUs are compiled on them alone")
        assert (size["bytes"], size["pool"]) == (None, "gpu")


@pytest.mark.soak
@pytest.mark.slow
def test_what_the_compiler_says_stands_beside_the_plan(spec_file, tmp_path, called):
    _, out, _ = called("plan", spec_file(), "--out", tmp_path, "--compile", "--no-expect", "--json")
    for size in json.loads(out)["compiled"]:
        assert size["bytes"] == pytest.approx(size["planned_bytes"], rel=0.15)
        assert size["state_bytes"] >= 12 * size["params"]
