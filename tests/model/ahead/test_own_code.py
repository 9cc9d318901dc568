"""Functions of one's own are held against what they are to be before a run is begun."""

import pytest

from nextscale.model.ahead import own_code
from nextscale.model.config.code import Code
from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError
from nextscale.model.external.code import resolve

OURS = """\
import optax

def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

def masked(logits, labels, mask):
    return mask * cross_entropy(logits, labels)
"""


@pytest.fixture
def runs_of(tmp_path):
    """`runs_of("ours:cross_entropy", ...)`: a run that lowers each, of one file."""
    (tmp_path / "ours.py").write_text(OURS)

    def make(*losses):
        runs = [
            RunConfig(
                data={"source": "markov", "vocab": 16},
                model={"depth": 1, "heads": 2, "context": 8, "width": 8, "vocab": 16},
                training={"batch_tokens": 16, "steps": 20, "lr": 0.01, "loss": loss},
            )
            for loss in losses
        ]
        return [run.model_copy(update={"code": resolve(Code(folder=str(tmp_path)), run.targets)}) for run in runs]

    return make


def test_what_is_well_is_traced_once_and_what_is_not_is_refused_in_a_line(runs_of, monkeypatch):
    asked = []

    class Asked(own_code.AskedProcess):
        def ask(self, question, what):
            asked.append(question["config"]["training"]["loss"])
            return super().ask(question, what)

    monkeypatch.setattr(own_code, "AskedProcess", Asked)
    runs = runs_of("ours:cross_entropy", "ours:masked")
    with pytest.raises(InputError, match=r"^training\.loss: ours:masked is called with logits and labels") as told:
        own_code.check_functions(runs)
    assert "\n" not in str(told.value)
    own_code.check_functions(runs[:1])
    assert asked == ["ours:cross_entropy", "ours:masked"]
