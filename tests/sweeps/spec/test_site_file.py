"""Sites and pools: what is wrong with them is one line, and none of it changes what a run is."""

import json
from typing import get_args

import pytest

from nextscale.cluster.hardware.catalogue import CATALOGUE
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.config.identity import Config
from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.site_file import load_site, pools_of, price_notes

SPEC = """
name: small
data: {source: markov, vocab: 16}
model: {depth: 1, heads: 2, context: 8}
training: {batch_tokens: 32, lr: 0.02}
design: {kind: isoflop, flops: [1.0e8], widths: [[4, 8]]}
"""


@pytest.fixture
def spec(tmp_path):
    def build(*overrides):
        (tmp_path / "spec.yaml").write_text(SPEC)
        return load_spec(tmp_path / "spec.yaml", overrides)

    return build


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NEXTSCALE_SITE", raising=False)

    def build(text):
        file = tmp_path / "site.yaml"
        file.write_text(text)
        return load_site(file)

    return build


def test_pools_are_no_part_of_what_a_run_means(spec):
    forms = ("pools=auto", "pools={a: {accelerator: h100, chips: 8}}", "pools=[lab, cloud]")
    names = [[run.config.run_id for run in planned_runs(resolve_spec(spec(form)))] for form in forms]
    assert names[0] == names[1] == names[2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["auto", "[lab, cloud]", "{a: {accelerator: h100}}"])
def test_pools_in_any_form_are_written_as_they_are_read(spec, form):
    found = spec(f"pools={form}", "training.lr={rule: horizon, base: 0.02, floor: 0.008}")
    for how in ({}, {"exclude_defaults": True}, {"exclude_unset": True}):
        written = json.loads(found.model_dump_json(**how)).get("pools", "auto")
        assert spec(f"pools={json.dumps(written)}").pools == found.pools


def configs(kind=Config):
    for each in kind.__subclasses__():
        yield from (each, *configs(each))


def test_numbers_are_of_their_kind_by_default():
    """pydantic warns when it writes a default that is none of its field's kind, where the field is one of several."""
    for each in configs():
        for name, field in each.model_fields.items():
            if float in (field.annotation, *get_args(field.annotation)):
                assert type(field.default) is not int, f"{each.__name__}.{name}"


@pytest.mark.parametrize(
    "pools, told",
    [
        ("3", "pools: should be 'auto', not 3"),
        ("[]", "pools: list should have at least 1 item"),
        ("{a: {accelerator: h100, chip: 2}}", "pools.a.chip: unknown key; did you mean `chips`?"),
        ("{a: {}}", "pools.a.accelerator: is missing; add it"),
        ("{a: {accelerator: h100, chips_per_run: 2}}", "pools.a: chips_per_run 2.0 is more than the 1 chips of a host"),
    ],
)
def test_a_mistake_in_pools_is_told_with_its_key(spec, pools, told):
    with pytest.raises(SpecError) as caught:
        spec(f"pools={pools}")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_site_file_there_is_the_catalogue(site):
    assert load_site().catalogue() == CATALOGUE


def test_the_environment_names_a_site_file_that_must_be_there(site, monkeypatch, tmp_path):
    monkeypatch.setenv("NEXTSCALE_SITE", str(tmp_path / "gone.yaml"))
    with pytest.raises(SpecError, match=r"gone\.yaml: there is no such file"):
        load_site()


def test_a_site_extends_the_catalogue_and_says_where_a_figure_is_from(site):
    found = site(
        "accelerators:\n"
        "  h100: {usd_per_chip_hour: 2}\n"
        "  mine: {platform: cuda, peak_flops: 1e15, hbm_bytes: 192e9, ray_types: [MINE]}\n"
    ).catalogue("site.yaml")
    assert found["h100"].usd_per_chip_hour == 2
    assert found["h100"].priced == found["h100"].sources["usd_per_chip_hour"] == "site.yaml"
    assert found["h100"].peak_flops == CATALOGUE["h100"].peak_flops
    assert found["mine"].ray_types == ("MINE",)


@pytest.mark.parametrize(
    "text, told",
    [
        ("pools:\n  lab: {accelerator: h100, chip: 8}\n", ":2: pools.lab.chip: unknown key; did you mean `chips`?"),
        ("accelerators:\n  h100: {wats: 2}\n", ":2: accelerators.h100.wats: unknown key; did you mean `watts`?"),
        ("accelerators:\n  h100: {watts: -1}\n", ":2: accelerators.h100.watts: should be greater than 0"),
        ("accelerators:\n  mine: {peak_flops: 1e15}\n", ":2: accelerators.mine: is not in the catalogue, so it needs"),
        ("pool: {}\n", ":1: pool: unknown key; did you mean `pools`?"),
    ],
)
def test_a_mistake_in_a_site_file_is_one_line_with_its_place(site, text, told):
    with pytest.raises(SpecError) as caught:
        site(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spec_names_pools_of_the_site(site):
    lab = site("pools:\n  lab: {accelerator: tpu-v5e, hosts: 2, chips: 4, spot: true}\n")
    assert pools_of("auto", lab, CATALOGUE) is None
    found = pools_of(["lab"], lab, CATALOGUE)
    assert price_notes(["lab"], lab, CATALOGUE) == price_notes("auto", lab, CATALOGUE) == []
    assert found["lab"].usd_per_chip_hour == CATALOGUE["tpu-v5e"].usd_per_chip_hour_spot
    with pytest.raises(
        SpecError, match=r"^pools: the site file has no pool 'lap' \(it has lab\); add it there or here$"
    ):
        pools_of(["lap"], lab, CATALOGUE)
    with pytest.raises(SpecError, match="accelerator 'h10' is not in the catalogue"):
        pools_of({"own": Pool(accelerator="h10")}, lab, CATALOGUE)


def test_a_pool_is_of_what_the_catalogue_calls_so_in_whatever_case():
    pools = {"a": Pool(accelerator="TPU-V5E"), "b": Pool(accelerator="H100")}
    assert [pool.accelerator for pool in pools_of(pools, load_site(), CATALOGUE).values()] == ["tpu-v5e", "h100"]


def test_a_price_that_is_not_what_it_might_be_taken_for_is_noted(site):
    pools = {"a": Pool(accelerator="h100", spot=True), "b": Pool(accelerator="cpu"), "c": Pool(accelerator="l4")}
    notes = price_notes(pools, load_site(), CATALOGUE)
    assert [note.split(":")[0] for note in notes] == ["pool a", "pool b"]
    assert "none is listed for spot" in notes[0]
    assert "no price is known" in notes[1]


def test_a_plan_says_where_its_runs_would_go(site, tmp_path, capsys):
    from nextscale.sweeps.commands.app import app

    (tmp_path / "spec.yaml").write_text(SPEC)
    arguments = ["plan", str(tmp_path / "spec.yaml"), "--set", "pools={lab: {accelerator: h100, chips: 8}}"]
    app(args=[*arguments, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert {row["pool"] for row in told["runs"]} == {"lab"}
    assert all(row["usd"] > 0 and row["seconds"] > 0 for row in told["runs"])
    app(args=arguments, standalone_mode=False)
    assert "data=1,fsdp=1,tensor=1" in capsys.readouterr().out
    app(args=[*arguments[:2], "--json"], standalone_mode=False)
    assert {row["pool"] for row in json.loads(capsys.readouterr().out)["runs"]} == {"cpu"}, "of this machine"


def test_the_hardware_command_is_a_table_and_json(capsys):
    from nextscale.sweeps.commands.app import app

    app(args=["hardware", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in told["accelerators"]} == set(CATALOGUE)
    app(args=["hardware"], standalone_mode=False)
    assert "tpu-v5p" in capsys.readouterr().out
