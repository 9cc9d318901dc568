"""The catalogue says what it knows and who says so, and asks neither jax nor ray."""

import subprocess
import sys

import pytest

from nextscale.cluster.hardware.catalogue import (
    CATALOGUE,
    FIGURES,
    by_device_kind,
    by_ray_type,
    core_flops,
    lookup,
    with_measured_cpu,
)
from nextscale.model.errors import InputError


@pytest.mark.parametrize("accelerator", CATALOGUE.values(), ids=CATALOGUE)
def test_every_figure_has_its_source_and_every_price_its_date(accelerator):
    stated = {name for name in FIGURES if getattr(accelerator, name) is not None}
    if accelerator.name == "cpu":
        stated.remove("chips_per_host")
    assert stated <= set(accelerator.sources)
    assert (accelerator.usd_per_chip_hour is None) == (accelerator.priced is None)
    if accelerator.usd_per_chip_hour_spot is not None:
        assert accelerator.usd_per_chip_hour_spot < accelerator.usd_per_chip_hour
        assert "usd_per_chip_hour_spot" in accelerator.sources


def test_an_unknown_name_is_one_line_that_lists_the_known():
    with pytest.raises(
        InputError, match=r"^accelerator 'h10' is not in the catalogue; take one of tpu-v4, .*, cpu, or"
    ):
        lookup("h10")


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_name_is_known_in_whatever_case(name):
    assert lookup(name.upper()) is lookup(name.title()) is lookup(name) is CATALOGUE[name]


def test_the_case_tells_two_of_a_site_apart():
    ours = CATALOGUE | {"H100": CATALOGUE["h200"]}
    assert (lookup("H100", ours), lookup("h100", ours)) == (CATALOGUE["h200"], CATALOGUE["h100"])


@pytest.mark.parametrize(
    "kind, name",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
        ("cpu", "cpu"),
        ("NVIDIA H100 PCIe", None),
    ],
)
def test_what_jax_calls_a_device(kind, name):
    assert by_device_kind(kind) == (CATALOGUE[name] if name else None)


@pytest.mark.parametrize(
    "label, name",
    [
        ("H100", "h100"),
        ("accelerator_type:H200", "h200"),
        ("accelerator_type:TPU-V5LITEPOD", "tpu-v5e"),
        ("TPU-V4", "tpu-v4"),
        ("TPU-v6e-16-head", "tpu-v6e"),
        ("v5p-8", "tpu-v5p"),
        ("A100", "a100-40gb"),
        ("V100", None),
    ],
)
def test_what_ray_calls_an_accelerator(label, name):
    assert by_ray_type(label) == (CATALOGUE[name] if name else None)


def test_ray_still_calls_them_so():
    from ray.util.accelerators import accelerators

    known = {value for name, value in vars(accelerators).items() if name.isupper()}
    ours = {label for each in CATALOGUE.values() for label in each.ray_types}
    assert ours - known <= {"CPU", "TPU-V5E"}


def test_the_peak_of_a_core_is_measured_once_and_only_where_nothing_is_said():
    cpu = with_measured_cpu()["cpu"]
    assert cpu.peak_flops == core_flops() > 1e9
    assert with_measured_cpu({"cpu": cpu}) == {"cpu": cpu}
    assert "measured" in cpu.sources["peak_flops"]


def test_neither_jax_nor_ray_is_imported():
    code = "import sys, nextscale.cluster.hardware.placement; print({'jax', 'ray'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
