"""A spec from Python, and those of the documentation."""

import re
from pathlib import Path

import pytest

from nextscale.sweeps import SweepSpec, load_spec, planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec import documents

DOCS = Path(__file__).resolve().parents[3] / "docs"


class TestPython:
    def test_it_is_the_same_as_from_a_file(self, tiny_spec, spec_file):
        content = documents.parse(tiny_spec, "tiny").content
        assert SweepSpec(**content) == load_spec(spec_file())
        assert SweepSpec(**content | {"data": load_spec(spec_file()).data}) == load_spec(spec_file())

    @pytest.mark.parametrize(
        "changes, says",
        [
            ({"model": {"dept": 1}}, r"^model\.dept: unknown key; did you mean `depth`\?$"),
            (
                {"design": {"kind": "gird"}},
                r"^design: needs `kind` to be one of 'grid', 'isoflop', 'ladder', 'sequential', 'wsd'$",
            ),
            ({"nme": "x"}, r"^nme: unknown key; did you mean `name`\?$"),
            ({"self": "x"}, r"^self: unknown key; "),
            ({"training": {}}, r"^training\.batch_tokens: is missing; add it \(and 1 more\)$"),
            ({"data": None}, r"^data: "),
        ],
    )
    def test_mistakes_are_one_line(self, tiny_spec, changes, says):
        content = documents.parse(tiny_spec, "tiny").content
        with pytest.raises(SpecError, match=says):
            SweepSpec(**content | changes)


def written(page):
    """The YAML of a page."""
    return re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_every_source_in_the_documentation_is_one(tiny_spec):
    content = documents.parse(tiny_spec, "tiny").content
    sources = [SweepSpec(**content | documents.parse(text, "page").content).data for text in written("data.md")]
    assert {data.source for data in sources} == {"tokens", "text", "mixture", "dataset"}


def test_every_spec_in_the_documentation_is_planned(tmp_path):
    texts = [text for text in written("specs.md") if re.search("^(name|extends):", text, re.MULTILINE)]
    for text in texts:
        name = re.match(r"# (\S+\.yaml)\n", text)
        (tmp_path / (name[1] if name else "spec.yaml")).write_text(text)
        assert planned_runs(load_spec(tmp_path / (name[1] if name else "spec.yaml")))
    assert len(texts) > 5
