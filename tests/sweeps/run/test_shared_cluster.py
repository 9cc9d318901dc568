"""Two sweeps on one running Ray cluster."""

import re
import subprocess
import time

import pytest
from ray.cluster_utils import Cluster

from nextscale.model.record import read_rows
from tests.sweeps.run.conftest import LONGER

SHORT = {
    "name: tiny": "name: short\nforecast: {law: none}",
    "[1.0e+9, 2e9, 4e9]": "[1.0e+9]",
    "[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "[[4, 8, 12, 16]]",
    "holdout: {flops: 1.2e10, widths: [12, 16, 24]}\n": "",
}


@pytest.mark.slow
@pytest.mark.soak
def test_the_second_is_trained_beside_the_first(spec_file, command, tmp_path):
    specs = {
        "long": spec_file(LONGER | {"name: tiny": "name: long"}, "long.yaml"),
        "short": spec_file(SHORT, "short.yaml"),
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})

    def said(name):
        return " ".join((tmp_path / f"{name}.log").read_text().split())

    def begun(name):
        given = (*command, "run", specs[name], "--out", tmp_path / name, "--address", cluster.address)
        with (tmp_path / f"{name}.log").open("w") as log:
            sweep = subprocess.Popen([*map(str, given)], stdout=log, stderr=subprocess.STDOUT)
        while not list(tmp_path.glob(f"{name}/runs/*/record.json")):
            assert sweep.poll() is None, said(name)
            time.sleep(0.2)
        return sweep

    try:
        with begun("long") as first, begun("short") as second:
            assert first.poll() is None, "the second waited for the end of the first"
            assert (second.wait(600), first.wait(600)) == (0, 0), said("short") + said("long")
    finally:
        cluster.shutdown()
    assert re.search(r"sweep short .* shares this cluster", said("long"))
    for name in specs:
        for run in (tmp_path / name / "runs").iterdir():
            assert [row["status"] for row in read_rows(run / "attempts.jsonl")] == ["finished"]
