"""The JSON Schema takes what a spec may be, and refuses what is refused."""

import jsonschema
import pytest

from nextscale.sweeps.commands.init import spec_text
from nextscale.sweeps.spec import documents
from nextscale.sweeps.spec.layers import ready_specs
from nextscale.sweeps.spec.schema import spec_schema


@pytest.fixture(scope="module")
def validate():
    schema = spec_schema()
    jsonschema.Draft7Validator.check_schema(schema)  # what editors go by
    validator = jsonschema.Draft7Validator(schema)
    return lambda text: validator.validate(documents.parse(text, "spec").content)


def test_it_takes_every_spec_that_runs(validate, tiny_spec):
    assert ready_specs()
    for text in (tiny_spec, *(spec.read_text() for spec in ready_specs().values())):
        validate(text)
    for data in ("markov", "python-stdlib"):
        validate(spec_text("x.yaml", name="x", data=data, largest=4e11, budgets=4, sizes=5, beyond=4))


@pytest.mark.parametrize("old, new", [("depth", "dept"), ("[1.0e+9,", "[-1,"), ("linear", "liner"), ("name:", "nam:")])
def test_it_refuses_what_the_spec_refuses(validate, tiny_spec, old, new):
    with pytest.raises(jsonschema.ValidationError):
        validate(tiny_spec.replace(old, new))


@pytest.mark.parametrize(
    "text",
    [
        "extends: quickstart",
        "extends: base.yaml\nmodel: {depth: 3}\ntraining: {lr: {base: 0.1}}\nholdout: null",
        "extends: base.yaml\ndesign: {sizes: 5, widths: null, flops: {count: 7}}",
        "scale: a\nscales: {a: {design: {flops: [1.0e+9]}}, b: {training: {lr: 0.1}}, c: }",
        "extends: b\ndesign: {kind: grid, axes: {model.width: [8], tokens: {from: 1, to: 3}}, zip: [[a, b]]}",
        "extends: a\nmodel: {depth: {rule: aspect, ratio: 32}, heads: {rule: head_width, width: 64}}",
    ],
)
def test_a_part_of_a_spec_is_enough_where_another_has_the_rest(validate, text):
    validate(text)


@pytest.mark.parametrize(
    "text",
    [
        "name: x",
        "extends: 3",
        "extends: quickstart\nmodel: {dept: 3}",
        "extends: quickstart\nscales: {a: {model: {dept: 3}}}",
        "extends: quickstart\nscales: {a: {scale: b}}",
        "extends: quickstart\ntraining: {lr: many}",
        "extends: quickstart\nnmae: x",
        "extends: quickstart\ndesign: {kind: gird}",
    ],
)
def test_what_a_part_says_is_held_against_it(validate, text):
    with pytest.raises(jsonschema.ValidationError):
        validate(text)
