"""A trainer is named by its command and the contents of its sources, wherever they lie."""

import pytest

from nextscale.model.config.external import Trainer
from nextscale.model.errors import InputError
from nextscale.model.external.source import resolve


@pytest.fixture
def trainer(tmp_path):
    (tmp_path / "train.py").write_text("a")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "model.py").write_text("b")
    return lambda **given: Trainer(**{"command": ["sh", "train.py"], "folder": str(tmp_path)} | given)


def test_contents_count_and_names_do_not(trainer, tmp_path):
    whole = {"source": ["train.py", "lib"]}
    first = resolve(trainer(**whole)).fingerprint
    assert resolve(trainer(source=["lib", "./train.py"])).fingerprint == first
    (tmp_path / "train.py").rename(tmp_path / "other.py")
    assert resolve(trainer(source=["other.py", "lib"])).fingerprint == first
    (tmp_path / "lib" / "__pycache__").mkdir()
    (tmp_path / "lib" / "__pycache__" / "model.pyc").write_text("x")
    assert resolve(trainer(source=["other.py", "lib"])).fingerprint == first
    (tmp_path / "lib" / "model.py").write_text("c")
    assert resolve(trainer(source=["other.py", "lib"])).fingerprint != first


@pytest.mark.parametrize(
    "given, why",
    [
        ({"source": ["train.py", "gone.py"]}, r"trainer\.source\.1: .*gone\.py is not there"),
        ({"command": ["no-such-program"]}, r"trainer\.command\.0: there is no program no-such-program"),
        ({"command": ["train.py"]}, r"a file beside the spec is \./train\.py"),
        ({"command": ["./train.py"]}, r"train\.py is no program; make it one"),
        ({"command": ["./gone"]}, "gone is not there"),
        ({"command": ["sh", "{confg}"]}, r"\{confg\} is no place that is filled; did you mean \{config\}\?"),
        ({"source": ["train.py"], "fingerprint": "0" * 12}, "is not what it was"),
    ],
)
def test_what_is_not_there_is_one_clear_line(trainer, given, why):
    with pytest.raises(InputError, match=why):
        resolve(trainer(**given))


def test_braces_of_a_shell_are_left_alone(trainer):
    resolve(trainer(command=["sh", "-c", "awk '{print}' ${HOME} {config}"]))
