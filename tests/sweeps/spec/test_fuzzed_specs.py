"""Whatever is in a file, it is a spec or an error of one line."""

import copy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec import documents
from nextscale.sweeps.spec.layers import ready_specs

GRID = """\
name: grid
data: {source: markov, vocab: 16}
model: {depth: {rule: aspect, ratio: 8}, heads: {rule: head_width, width: 4}, kv_heads: 1, context: 16}
training: {batch_tokens: {rule: steplaw}, lr: {rule: steplaw}, parametrization: standard, weight_decay: 0.1}
design:
  kind: grid
  axes: {model.width: [8, 12], tokens_per_param: {from: 20, to: 80, count: 3}, training.lr: [0.1, 0.2], seed: [0, 1],
    data.seed: [0, 1], training.warmup: [0.1, 0.2]}
  zip: [[seed, data.seed], [training.lr, training.warmup]]
  exclude: [{model.width: 8, training.lr: 0.1}]
"""
WINDOWS = """\
extends: quickstart
name: windows
scale: small
scales:
  small: &small {design: {kind: isoflop, widths: null, sizes: 4, centre: {params: 10000, flops: 1e11}, span: 2}}
  other: *small
pools: {a: {accelerator: h100, chips: 8}}
caps: {max_usd: 3}
holdout: {flops: null, tokens_per_param: 100, widths: [48]}
"""
LADDER = """\
name: ladder
data: {source: text, path: "${HOME:-x}", vocab: 128}
training: {batch_tokens: 256, lr: {rule: horizon, base: 0.01}}
design: {kind: ladder, params: [5000, 2.0e+4], tokens_per_param: [20, 40], seeds: [0, 1]}
evaluation: {sets: {code: {source: markov, vocab: 128}}, points: 3}
"""
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.integers(-(10**400), 10**400)
    | st.floats(min_value=1e200)
    | st.sampled_from(
        [0, 1, -1, 10**9, 1e9, 1e30, [], {}, "", "1e9", "${X}", "${", "~", "kind", "../x", "\0", "é", "\ud800"]
    )
    | st.sampled_from([{"from": 1, "to": 1e9, "count": 1000}, {"rule": "aspect", "ratio": 1e-9}, {"law": "/dev/null"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
WORDS = st.sampled_from(list("\t\x00\x1b\ufeff\u2028𝔘{]'\"|%@#")) | st.sampled_from(
    ["&a ", "*a", "<<: *a", "!!set ", "!!binary x", "!!bool x", "? ", "- ", ": ", "---\n", "...\n", "1e99", "${A}"]
)


@pytest.fixture(scope="session")
def specs(tiny_spec):
    return [tiny_spec, GRID, WINDOWS, LADDER, *(path.read_text() for path in ready_specs().values())]


def mutated(content, data):
    """A tree with one thing in it changed."""
    content = copy.deepcopy(content)
    paths = [()]
    for path in paths:
        inside = at(content, path)
        keys = inside if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        paths += [(*path, key) for key in keys]
    path = data.draw(st.sampled_from(paths[1:] or [()]))
    if not path:
        return data.draw(VALUES)
    holder, key = at(content, path[:-1]), path[-1]
    change = data.draw(st.sampled_from(["value", "drop", "rename", "swap", "nest", "twice"]))
    if change == "value":
        holder[key] = data.draw(VALUES)
    elif change == "drop":
        del holder[key]
    elif change == "rename" and isinstance(holder, dict):
        holder[data.draw(st.text(max_size=6) | st.sampled_from(["kind", "rule", "source", "extends", "scale"]))] = (
            holder.pop(key)
        )
    elif change == "swap":
        other = data.draw(st.sampled_from(paths))
        holder[key] = copy.deepcopy(at(content, other)) if other else 0
    elif change == "nest":
        for _ in range(data.draw(st.sampled_from([1, 3, 300]))):
            holder[key] = [holder[key]] if data.draw(st.booleans()) else {"x": holder[key]}
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    return content


def at(content, path):
    for key in path:
        content = content[key]
    return content


def check(path):
    try:
        planned_runs(load_spec(path))
    except USER_ERRORS as error:
        message = str(error)
        assert message and "\n" not in message
        message.encode()


fuzz = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


@given(st.data())
@fuzz
def test_a_spec_with_anything_changed(tmp_path_factory, specs, data):
    content = documents.parse(data.draw(st.sampled_from(specs)), "x").content
    for _ in range(data.draw(st.integers(1, 3))):
        content = mutated(content, data)
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    try:
        text = yaml.safe_dump(content)
    except RecursionError:
        return
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    check(path)


@given(st.data())
@fuzz
def test_a_spec_with_any_characters_changed(tmp_path_factory, specs, data):
    text = data.draw(st.sampled_from(specs))
    for _ in range(data.draw(st.integers(1, 4))):
        i, j = (data.draw(st.integers(0, len(text))) for _ in range(2))
        i, j = min(i, j), min(max(i, j), min(i, j) + 20)
        text = (
            text[:i]
            + data.draw(st.text(max_size=3) | WORDS | st.just(text[i:j] * 2))
            + text[j if data.draw(st.booleans()) else i :]
        )
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    check(path)


@given(st.binary(max_size=60))
@fuzz
def test_no_bytes_give_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    with pytest.raises(USER_ERRORS):
        load_spec(path)
