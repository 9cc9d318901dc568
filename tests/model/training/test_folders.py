"""Folders that runs may live in: what is saved there reads back, and where it would not that is said before."""

from pathlib import Path

import jax.numpy as jnp
import pytest
from etils import epath

from nextscale.model.__main__ import INPUT, main
from nextscale.model.errors import InputError
from nextscale.model.record import pattern_in
from nextscale.model.training.checkpoint import CheckpointPolicy, Checkpoints

REFUSED = ("lr=[0.1,0.2]", "a[b", "a]b", "a\\b", "a*b", "a?b")
TAKEN = ("lr=0.1,seed=1", "a b", "é", "a{b}", "a%20b", "a#b", "~a", "a:b")


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_reads_back(tmp_path, name):
    state = {"w": jnp.arange(4.0)}
    for read in (False, True):
        checkpoints = Checkpoints(epath.Path(tmp_path / name / "checkpoints"), CheckpointPolicy())
        if read:
            position, found = checkpoints.restore(state)
            assert position == 10 and (found["w"] == state["w"]).all()
        else:
            checkpoints.save(10, state)
        checkpoints.close()


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_is_refused(tmp_path, name, tiny_run, capsys):
    below = tmp_path / name / "out"
    with pytest.raises(InputError, match="would be read as a pattern"):
        Checkpoints(epath.Path(below), CheckpointPolicy())
    assert not (tmp_path / name).exists()
    config = tmp_path / "config.json"
    config.write_text(tiny_run().model_dump_json())
    assert main([str(config), "--out", str(below)]) == INPUT
    assert "would be read as a pattern" in capsys.readouterr().err


def test_a_link_is_as_good_as_where_it_leads(tmp_path):
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a[1]")
    assert pattern_in(tmp_path / "link") is not None
    (tmp_path / "plain").mkdir()
    (tmp_path / "b[1]").symlink_to(tmp_path / "plain")
    assert pattern_in(Path(tmp_path / "b[1]")) is None
