import pytest

TINY = """\
name: tiny
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training:
  batch_tokens: 128
  schedule: linear
  lr: {rule: horizon, base: 0.02, floor: 0.008}
design:
  kind: isoflop
  flops: [1.0e+9, 2e9, 4e9]
  widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]
holdout: {flops: 1.2e10, widths: [12, 16, 24]}
evaluation: {tokens: 8192}
"""


@pytest.fixture(scope="session")
def tiny_spec():
    """The text of a spec that trains in seconds."""
    return TINY


@pytest.fixture
def spec_file(tmp_path):
    """A spec that trains in seconds: `spec_file()` as it is, `spec_file({"old": "new"})` changed."""

    def write(changes=None, name="spec.yaml"):
        text = TINY
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
