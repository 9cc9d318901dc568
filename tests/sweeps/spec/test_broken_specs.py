"""Specs that are wrong: refused in one line that names the line, the key and the way out."""

import re

import numpy as np
import pytest

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec

MARKOV = "{source: markov, vocab: 16}"
MARKOV_SEED = "{source: markov, vocab: 16, seed: 1}"
WIDTHS = "  widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]\n"
LADDER = {
    "isoflop": "ladder",
    "flops: [1.0e+9, 2e9, 4e9]": "tokens_per_param: [20, 40, 80]",
    WIDTHS: "  widths: [4, 8]\n",
}
BROKEN = {
    "unknown key": ({"depth: 1": "dept: 1"}, r":3: model\.dept: unknown key; did you mean `depth`\?"),
    "unknown key at the top": ({"training:": "trainning:"}, r":4: trainning: unknown key; did you mean `training`\?"),
    "unknown key of a source": ({"vocab: 16": "vocb: 16"}, r":2: data\.vocb: unknown key; did you mean `vocab`\?"),
    "unknown key of a rule": (
        {"base: 0.02": "bse: 0.02"},
        r":7: training\.lr\.bse: unknown key; did you mean `base`\?",
    ),
    "unknown key of a holdout": ({"{flops: 1.2e10": "{flps: 1"}, r":12: holdout\.flps: unknown key; did you mean `fl"),
    "nothing like a key": ({"heads: 2": "qq: 2"}, r"model\.qq: unknown key; known here: .*depth, heads"),
    "missing key": ({"  batch_tokens: 128\n": ""}, r":4: training\.batch_tokens: is missing; add it"),
    "missing section": ({"data: {source: markov, vocab: 16, seed: 1}\n": ""}, r"data: is missing; add it"),
    "text for a number": (
        {"batch_tokens: 128": "batch_tokens: many"},
        r":5: training\.batch_tokens: .*integer.*'many'",
    ),
    "a fraction for a count": ({"depth: 1": "depth: 1.5"}, r":3: model\.depth: .*integer.*1\.5"),
    "a list for a number": ({"depth: 1": "depth: [1]"}, r":3: model\.depth: .*integer"),
    "a number for a mapping": (
        {"{depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}": "3"},
        r":3: model: ",
    ),
    "negative": ({"[1.0e+9,": "[-1.0e+9,"}, r":10: design\.flops\.0: should be greater than 0"),
    "not a number": ({"[1.0e+9,": "[.nan,"}, r":10: design\.flops\.0: "),
    "infinite": ({"[1.0e+9,": "[.inf,"}, r":10: design\.flops\.0: "),
    "unknown choice": ({"linear": "liner"}, r":6: training\.schedule: should be 'linear', .* not 'liner'"),
    "unknown source": ({"source: markov": "source: markof"}, r":2: data: needs `source` to be one of"),
    "no source": ({"source: markov, ": ""}, r":2: data: needs `source` to be one of"),
    "unknown rule": (
        {"rule: horizon": "rule: horizn"},
        r":7: training\.lr: needs to be a number, or `rule` to be one of 'horizon', 'square_root', 'steplaw', 'deep",
    ),
    "no rule": ({"rule: horizon, ": ""}, r":7: training\.lr: needs to be a number, or `rule` to be one of 'horizon'"),
    "unknown batch rule": (
        {"batch_tokens: 128": "batch_tokens: {rule: steplw}"},
        r":5: training\.batch_tokens\.rule: should be 'steplaw', 'deepseek' or 'power_lines', not 'steplw'",
    ),
    "a rate for another parametrization": (
        {"{rule: horizon, base: 0.02, floor: 0.008}": "{rule: steplaw}"},
        r":4: training: lr\.rule steplaw gives the rate .* use parametrization standard",
    ),
    "a rate for another optimizer": (
        {
            "linear": "linear\n  optimizer: sgd\n  parametrization: standard",
            "{rule: horizon, base: 0.02, floor: 0.008}": "{rule: deepseek}",
        },
        r":4: training: lr\.rule deepseek is for adamw or muon",
    ),
    "bad rate": (
        {"{rule: horizon, base: 0.02, floor: 0.008}": "0"},
        r":7: training\.lr: should be greater than 0, not 0",
    ),
    "unknown design": (
        {"kind: isoflop": "kind: gird"},
        r":8: design: needs `kind` to be one of 'grid', 'isoflop', 'ladder', 'sequential', 'wsd'",
    ),
    "unknown key of a design": ({"widths:": "wdths:"}, r":11: design\.wdths: unknown key; did you mean `widths`"),
    "falling budgets": ({"2e9, 4e9]": "4e9, 2e9]"}, r":10: design\.flops: must rise"),
    "uneven design": (
        {"[8, 12, 16, 24], [8, 12, 16, 24]]": "[8, 12, 16, 24]]"},
        r":8: design: has 3 budgets and 2 lists",
    ),
    "no widths": ({"[[4, 8, 12, 16],": "[[],"}, r":11: design\.widths\.0: "),
    "odd heads": ({"[[4, 8": "[[5, 8"}, r":11: design\.widths\.0\.0: width 5 cannot be cut into 2 equal heads"),
    "odd pairs": (
        {"position: alibi": "position: rope", "[[4, 8": "[[6, 8"},
        r":11: design\.widths\.\d\.\d: position rope turns pairs",
    ),
    "a set of another vocabulary": (
        {"{tokens: 8192}": "{sets: {code: {source: markov, vocab: 17}}}"},
        r":13: evaluation\.sets\.code: vocab 17 is not that of the data trained on, 16",
    ),
    "the data as a set": (
        {"{tokens: 8192}": "{sets: {code: {source: markov, vocab: 16, seed: 1}}}"},
        r":13: evaluation\.sets\.code: is the data trained on",
    ),
    "unknown key of a set": (
        {"{tokens: 8192}": "{sets: {code: {source: markov, vocb: 16}}}"},
        r":13: evaluation\.sets\.code\.vocb: unknown key; did you mean `vocab`\?",
    ),
    "unknown source of a set": (
        {"{tokens: 8192}": "{sets: {code: {source: marcov, vocab: 16}}}"},
        r":13: evaluation\.sets\.code: needs `source` to be one of 'dataset', 'markov', 'text', 'tokens'",
    ),
    "a set without a name": (
        {"{tokens: 8192}": "{sets: {'': {source: markov}}}"},
        r":13: evaluation\.sets\.: string should match",
    ),
    "tasks of what is no text": (
        {"{tokens: 8192}": "{tasks: [arc_easy]}"},
        r":13: evaluation\.tasks: are text, and what is trained on is not",
    ),
    "odd key heads": ({"heads: 2": "heads: 4, kv_heads: 3"}, r":3: model: heads 4 cannot share 3 kv_heads equally"),
    "no key heads": (
        {"heads: 2": "heads: 2, kv_heads: 0"},
        r":3: model\.kv_heads: should be greater than or equal to 1",
    ),
    "odd heads of pairs": (
        {"position: alibi": "position: rope, head_width: 5"},
        r":3: model: position rope turns pairs of features, and head_width 5 is odd; make it even",
    ),
    "a cap of nothing": ({"depth: 1": "logit_cap: 0"}, r":3: model\.logit_cap: should be greater than 0"),
    "a negative z-loss": ({"depth: 1": "z_loss: -1e-4"}, r":3: model\.z_loss: should be greater than or equal to 0"),
    "unknown parametrization": (
        {"schedule: linear": "parametrization: mu"},
        r":6: training\.parametrization: should be 'standard', 'mup', 'mup-1/d' or 'completep'",
    ),
    "too small a budget": (
        {"[1.0e+9,": "[1.0e+7,"},
        r":10: design\.flops\.0: 1e\+07 FLOPs train width \d+ for only \d+ steps",
    ),
    "too near a holdout": ({"1.2e10": "3e9"}, r":12: holdout\.flops: must lie above every budget"),
    "uneven batch": ({"128": "130"}, r":5: training\.batch_tokens 130 is not a whole number of sequences"),
    "too few runs": (
        {"[[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "[[4], [8], [8]]"},
        r"3 runs cannot fix the 5",
    ),
    "bad name": ({"name: tiny": "name: a/b"}, r":1: name: "),
    "empty name": ({"name: tiny": "name: ''"}, r":1: name: "),
    "a key twice": ({"name: tiny": "name: tiny\nname: other"}, r":2: name: is here twice; keep one"),
    "a nested key twice": ({"heads: 2,": "heads: 2, heads: 4,"}, r":3: model\.heads: is here twice"),
    "unclosed": ({"name: tiny": "name: [tiny"}, r":\d+: not valid YAML"),
    "a tab": ({"  kind": "\tkind"}, r":9: not valid YAML"),
    "a python object": ({"name: tiny": "name: !!python/object:os.system {}"}, r"not valid YAML"),
    "a list for a key": ({"name: tiny": "name: tiny\n? [a]\n: b"}, r":2: a key is a word"),
    "aliases of aliases": (
        {
            "name: tiny": "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
            "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\nname: tiny"
        },
        r"more than 100000 keys",
    ),
    "a depth of no model": ({"depth: 1": f"depth: {'9' * 400}"}, r":3: model\.depth: should be less than or equal"),
    "a ratio of no model": ({"depth: 1": "mlp_ratio: 1e308"}, r":3: model\.mlp_ratio: should be less than or equal"),
    "endless runs": (
        {"2e9, 4e9]": "2e9, 4e30]", "1.2e10": "1e31"},
        r":10: design\.flops\.2: .* steps, more than 21474",
    ),
    "a loop": ({"name: tiny": "name: &a [*a]"}, r":1: an alias that contains itself|:1: "),
    "a level beyond one": (
        {"evaluation:": "forecast: {level: 1.5}\nevaluation:"},
        r":13: forecast\.level: should be less than 1",
    ),
    "few resamples": ({"evaluation:": "forecast: {resamples: 3}\nevaluation:"}, r":13: forecast\.resamples: "),
    "a task that is no list": (
        {"tokens: 8192": "tasks: arc_easy"},
        r":13: evaluation\.tasks: should be a valid list, not 'arc_easy'",
    ),
    "no evaluation": ({"tokens: 8192": "tokens: 0"}, r":13: evaluation\.tokens: "),
    "large vocabulary": ({"vocab: 16": "vocab: 300"}, r":2: data\.vocab: should be less than or equal to 256"),
    "text of another vocabulary": (
        {"{source: markov, vocab: 16, seed: 1}": "{source: text, path: x, vocab: 99}"},
        r":2: data\.vocab: should be 128 or 256",
    ),
    "text without a path": ({"{source: markov, vocab: 16, seed: 1}": "{source: text}"}, r":2: data\.path: is missing"),
    "text of a tokenizer's end without a tokenizer": (
        {"{source: markov, vocab: 16, seed: 1}": "{source: text, path: x, end: </s>}"},
        r":2: data\.end: is a token of a `tokenizer`, and none is named",
    ),
    "a mixture in a mixture": (
        {
            "{source: markov, vocab: 16, seed: 1}": "{source: mixture, sources: {a: {weight: 1, data: "
            "{source: mixture}}}}"
        },
        r":2: data\.sources\.a\.data: needs `source` to be one of 'dataset', 'markov', 'text', 'tokens'",
    ),
    "a misspelt key of a mixture": (
        {"{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{a: {{wieght: 1, data: {MARKOV}}}}}}}"},
        r":2: data\.sources\.a\.wieght: unknown key; did you mean `weight`",
    ),
    "a mixture without weights": (
        {"{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{a: {{data: {MARKOV}}}}}}}"},
        r":2: data\.sources\.a\.weight: is missing",
    ),
    "a mixture of two vocabularies": (
        {
            "{source: markov, vocab: 16, seed: 1}": f"{{source: mixture, sources: {{a: {{weight: 1, data: {MARKOV}}}, "
            "b: {weight: 1, data: {source: markov, vocab: 8}}}}"
        },
        r":2: data: sources\.b\.data\.vocab: is 8, and that of a 16",
    ),
    "a factory that is no function": (
        {
            "{source: markov, vocab: 16, seed: 1}": "{source: dataset, factory: mine, held_out: a:b, "
            "fingerprint: v, vocab: 9}"
        },
        r":2: data\.factory: write it as package\.module:function, not 'mine'",
    ),
    "tokens without vocabulary": (
        {"{source: markov, vocab: 16, seed: 1}": "{source: tokens, path: x}"},
        r":2: data\.vocab: is missing",
    ),
    "an unknown tag": (
        {"name: tiny": "name: !!set {a}"},
        r":1: not valid YAML: the tag !!set; a spec holds plain",
    ),
    "a number that is none": ({"depth: 1": "depth: !!int x"}, r":3: not valid YAML: x is not a whole number"),
    "neither true nor false": ({"depth: 1": "tied: !!bool maybe"}, r":3: not valid YAML: maybe is not true or false"),
    "a number of too many digits": ({"depth: 1": f"depth: {'9' * 5000}"}, r":3: not valid YAML: 9+… is not a whole"),
    "too deep": ({"name: tiny": f"name: {'[' * 60}{']' * 60}"}, r":1: is nested deeper than 40 levels; no spec is"),
    "far too deep": ({"name: tiny": f"name: {'[' * 5000}"}, r"spec.yaml: is nested deeper than 40 levels; no spec is"),
    "a rule of depth": (
        {"depth: 1": "depth: {rule: ratio}"},
        r":3: model\.depth\.rule: should be 'aspect', not 'ra",
    ),
    "a depth without its ratio": ({"depth: 1": "depth: {rule: aspect}"}, r":3: model\.depth\.ratio: is missing"),
    "a rule of heads misspelt": (
        {"heads: 2": "heads: {rule: head_width, widht: 8}"},
        r":3: model\.heads\.widht: unknown key; did you mean `width`",
    ),
    "odd heads by rule": (
        {"heads: 2": "heads: {rule: head_width, width: 5}", "position: alibi": "position: rope"},
        r":3: model: position rope turns pairs of features, and heads\.width 5 is odd",
    ),
    "two widths of a head": (
        {"heads: 2": "heads: {rule: head_width, width: 4}, head_width: 4"},
        r":3: model: head_width and heads\.rule head_width both say",
    ),
    "a width of no such heads": (
        {"heads: 2": "heads: {rule: head_width, width: 4}, kv_heads: 3"},
        r":11: design\.widths\.0\.0: width 4 cannot be cut into heads of about 4; use a multiple of 12",
    ),
    "widths and sizes": (
        {"  widths:": "  sizes: 5\n  widths:"},
        r":8: design: needs one of widths, sizes, and has w",
    ),
    "neither widths nor sizes": ({WIDTHS: ""}, r":8: design: needs one of widths, sizes, and has none"),
    "a span of widths": ({"  widths:": "  span: 5\n  widths:"}, r":8: design: span is for sizes that are to be found"),
    "a span of nothing": ({WIDTHS: "  sizes: 5\n  span: 1\n"}, r":12: design\.span: should be greater than 1"),
    "no sizes": ({WIDTHS: "  sizes: 0\n"}, r":11: design\.sizes: should be greater than or equal to 1"),
    "more sizes than there are": (
        {WIDTHS: "  sizes: 50\n"},
        r":11: design\.sizes: about .* parameters, at 1e\+09 FLOPs, there are only \d+ of 50 widths, .*; raise",
    ),
    "a centre of two kinds": (
        {WIDTHS: "  sizes: 5\n  centre: {tokens_per_param: 20, law: x}\n"},
        r":12: design\.centre: needs one of tokens_per_param, law, params, and has tokens_per_param and law",
    ),
    "a centre of none": ({WIDTHS: "  sizes: 5\n  centre: {}\n"}, r":12: design\.centre: needs one of .* and has none"),
    "a centre at no budget": (
        {WIDTHS: "  sizes: 5\n  centre: {params: 5000}\n"},
        r":12: design\.centre: params and flops belong together",
    ),
    "a falling range": (
        {"[1.0e+9, 2e9, 4e9]": "{from: 4e9, to: 1e9, count: 3}"},
        r":10: design\.flops: to 1e\+09 must lie above from 4e\+09",
    ),
    "an unknown key of a range": (
        {"[1.0e+9, 2e9, 4e9]": "{from: 1e9, to: 4e9, cnt: 3}"},
        r":10: design\.flops\.cnt: unknown key; did you mean `count`",
    ),
    "a range without an end": (
        {"[1.0e+9, 2e9, 4e9]": "{from: 1e9, count: 3}"},
        r":10: design\.flops\.to: is missing; add it",
    ),
    "a range of one": (
        {"[1.0e+9, 2e9, 4e9]": "{from: 1e9, to: 4e9, count: 1}"},
        r":10: design\.flops\.count: should be greater than or equal to 2",
    ),
    "a range of other budgets than widths": (
        {"[1.0e+9, 2e9, 4e9]": "{from: 1e9, to: 4e9, count: 4}"},
        r":8: design: has 4 budgets and 3 lists of widths",
    ),
    "a ladder without sizes": (
        LADDER | {"widths: [4, 8]": "seeds: [0]"},
        r":8: design: needs one of widths, params, a",
    ),
    "a falling ladder": (LADDER | {"[20, 40, 80]": "[40, 20]"}, r":10: design\.tokens_per_param: must rise from one"),
    "a ladder of too few steps": (
        LADDER | {"[20, 40, 80]": "[1, 2]"},
        r":10: design\.tokens_per_param\.0: .* for only \d+ steps",
    ),
    "rungs of one size": (
        LADDER | {"widths: [4, 8]": "params: [1000, 1010]"},
        r":11: design\.params\.1: 1\.01e\+03 parameters and 1e\+03 are both of width",
    ),
    "a rung below all models": (
        LADDER | {"widths: [4, 8]": "params: [3, 1000]"},
        r":11: design\.params\.0: the model nearest to 3 parameters is of width 2 and has",
    ),
    "a holdout of two lengths": (
        {"flops: 1.2e10": "flops: 1.2e10, tokens_per_param: 20"},
        r":12: holdout: needs one of flops, tokens_per_param, and has flops and tokens_per_param",
    ),
    "a holdout of no length": (
        {"flops: 1.2e10, ": ""},
        r":12: holdout: needs one of flops, tokens_per_param, a",
    ),
    "a holdout within": (
        {"flops: 1.2e10, widths: [12": "tokens_per_param: 100, widths: [8"},
        r":12: holdout\.tokens_per_param: width 8 is within what is fitted, by size and by FLOPs",
    ),
    "a seed of no run": (
        {"  widths:": f"  seeds: [{2**32}]\n  widths:"},
        r":11: design\.seeds\.0: should be less than 4294967296",
    ),
    "a misspelt gate": (
        {"evaluation:": "gates: {max_flop_without_approval: 1e21}\nevaluation:"},
        r":13: gates\.max_flop_without_approval: unknown key; did you mean `max_flops_without_approval`",
    ),
    "a gate of nothing": (
        {"evaluation:": "gates: {max_flops_without_approval: 0}\nevaluation:"},
        r":13: gates\.max_flops_without_approval: should be greater than 0, not 0",
    ),
    "a gate of words": ({"evaluation:": "gates: {loss_below: low}\nevaluation:"}, r":13: gates\.loss_below: .*'low'"),
    "a gate in loss without a forecast": (
        {
            "holdout: {flops: 1.2e10, widths: [12, 16, 24]}\n": "",
            "evaluation:": "gates: {loss_below: 2}\nevaluation:",
        },
        r":12: gates\.loss_below: is held against the forecast of the held-out runs, and there are none",
    ),
    "a number for gates": ({"evaluation:": "gates: 1e21\nevaluation:"}, r":13: gates: "),
    "no seed": ({"  widths:": "  seeds: []\n  widths:"}, r":11: design\.seeds: "),
}


@pytest.mark.parametrize("changes, says", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_spec_is_one_line_with_its_place_and_a_way_out(spec_file, changes, says):
    with pytest.raises(SpecError) as error:
        load_spec(spec_file(changes))
    message = str(error.value)
    assert re.search(says, message), message
    assert "spec.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content, says",
    [(b"", "a spec is a mapping"), (b"- a", "a spec is a mapping"), (b"\xff\xfe\x00", "not UTF-8|not valid YAML")],
)
def test_files_that_are_no_spec(tmp_path, content, says):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=says):
        load_spec(tmp_path / "x.yaml")
    with pytest.raises(SpecError, match="no such file"):
        load_spec(tmp_path / "missing.yaml")


UNUSABLE = {
    "no data": ({MARKOV_SEED: "{source: text, path: /nowhere}"}, r":2: data\.path: there is no file or folder /now"),
    "too little data": (
        {MARKOV_SEED: "{source: tokens, path: SHORT, vocab: 16}"},
        r":2: data\.path: .* too few to train",
    ),
    "a pool that nobody has": (
        {"name: tiny": "name: tiny\npools: [nope]"},
        ":2: pools: the site file has no pool 'nope'",
    ),
    "an accelerator that nobody has": (
        {"name: tiny": "name: tiny\npools:\n  lab: {accelerator: h9000}"},
        r":3: pools\.lab\.accelerator: .*'h9000' is not in the catalogue",
    ),
}


@pytest.mark.parametrize("changes, says", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_spec_that_cannot_be_used_here_is_told_of_with_its_place_too(called, spec_file, tmp_path, changes, says):
    np.zeros(100, np.uint16).tofile(tmp_path / "short.bin")
    changes = {old: new.replace("SHORT", str(tmp_path / "short.bin")) for old, new in changes.items()}
    path = spec_file(changes)
    for command in ("plan", "run") if "there is no file" in says else ("plan",):
        code, _, error = called(command, path, "--out", tmp_path / "out")
        assert code == 2
        assert re.fullmatch(f"nextscale: .*spec.yaml{says}.*", error.strip()), error


def test_what_has_no_place_in_a_spec_is_told_without_one(called, spec_file, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = called("run", spec_file(), "--out", tmp_path / "file")
    assert code == 2
    assert error.strip().startswith("nextscale: --out ")


def test_a_question_that_the_design_cannot_answer_is_refused_before_anything_is_trained(spec_file):
    with pytest.raises(SpecError, match=r"spec\.yaml:14: findings: corrections: needs a grid with axes below training"):
        load_spec(spec_file({"tokens: 8192}": "tokens: 8192}\nfindings: [corrections]"}))
