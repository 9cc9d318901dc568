"""Scores by lm-eval: log-likelihoods of the model's own logits, and what lm-eval's own backend makes of its export."""

import json
from pathlib import Path

import numpy as np
import pytest

from nextscale.model.config.data import MarkovData, TextData
from nextscale.model.data.text import STDLIB
from nextscale.model.errors import InputError
from nextscale.model.trained.export import export

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
WORDS = ["red", "blue", "green", "ten", "größer", "→ left"]
CHOICE = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: " "
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ROLLING = """\
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
UNTIL = """\
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["e"], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def tasks():
    """The module; it needs the package that it is about."""
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'nextscale[examples]'")
    from nextscale.model.trained import tasks

    return tasks


@pytest.fixture(params=[256, 128])
def reader(untrained, request):
    """A model of bytes, or of their seven-bit code."""
    return untrained(mlp="swiglu", data=bytes_of(request.param))


def bytes_of(vocab):
    return TextData(source="text", path=STDLIB, vocab=vocab, fingerprint="0" * 16)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """`files(text)` is the file of a task; there are questions for all of them."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(0)
    with (tmp_path / "colours.jsonl").open("w") as file:
        for i in range(20):
            choices = [*draws.choice(WORDS, 3, replace=False)]
            question = f"no. {i} is"[: draws.integers(3, 10)]
            row = {"question": question, "choices": choices, "answer": int(draws.integers(3)), "target": choices[0]}
            file.write(json.dumps(row | {"text": " ".join(choices) * int(draws.integers(1, 4))}) + "\n")

    def write(text):
        path = tmp_path / f"{text.split()[1]}.yaml"
        path.write_text(text.replace("FOLDER", str(tmp_path)))
        return str(path)

    return write


def by_hand(trained, before, scored):
    """The log-likelihood of tokens after others, and whether each was the likeliest: one position at a time."""
    total, greedy = 0.0, True
    for i, token in enumerate(scored):
        seen = [*before, *scored[:i]][-16:]
        logits = np.asarray(trained.logits(np.array([[*seen] + [0] * (16 - len(seen))])))[0, len(seen) - 1]
        logits = logits.astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        greedy = greedy and token == logits.argmax()
    return total, greedy


def test_log_likelihoods_are_those_of_the_logits(tasks, reader):
    from lm_eval.api.instance import Instance

    codec = tasks.codec_of(reader.config.data)
    model = tasks.HarnessModel(reader, codec)
    pairs = [("red is", " a colour"), ("", "größer"), ("ten ", "→"), ("a", "b")] * 30
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = model.loglikelihood(requests)
    for (before, scored), (score, greedy) in zip(pairs[:4], found, strict=False):
        told = codec.encode(before.rstrip()) or [0]
        after = codec.encode(before[len(before.rstrip()) :] + scored)
        expected = by_hand(reader, told, after)
        assert (pytest.approx(score, abs=1e-4), greedy) == expected
    assert [score for score, _ in found[:4]] == pytest.approx([score for score, _ in found[-4:]])
    # The token that is the likeliest is told as such.
    best = int(np.asarray(reader.logits(np.array([codec.encode("red")])))[0, -1].argmax())
    assert model._loglikelihood_tokens([(None, codec.encode("red"), [best])])[0][1]
    assert model.cut == 0


def test_what_is_longer_than_the_context_is_read_from_its_end_and_told(tasks, reader):
    codec = tasks.codec_of(reader.config.data)
    model = tasks.HarnessModel(reader, codec)
    before, scored = codec.encode("x" * 30), codec.encode("red")
    ((score, _),) = model._loglikelihood_tokens([(None, before, scored)])
    logits = np.asarray(reader.logits(np.array([[*before, *scored][-17:-1]])))[0, -3:].astype(np.float64)
    expected = sum(row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits, scored, strict=True))
    assert score == pytest.approx(expected, abs=1e-4)
    assert model.cut == 1
    with pytest.raises(InputError, match="scores 30 tokens at once"):
        model._loglikelihood_tokens([(None, [1], before)])


def test_rolling_windows_score_each_token_once(tasks, reader):
    from lm_eval.api.instance import Instance

    codec = tasks.codec_of(reader.config.data)
    text = "the red one, the blue one, and ten more of them"
    (score,) = tasks.HarnessModel(reader, codec).loglikelihood_rolling([Instance("rolling", {}, (text,), 0)])
    tokens, total = codec.encode(text), 0.0
    for start in range(0, len(tokens), 16):
        window = tokens[start : start + 16]
        before = [0] if start == 0 else tokens[start - 1 : start]
        if len(window) < 16:  # the last window is filled up from before it
            before = tokens[len(tokens) - 17 : start]
        total += by_hand(reader, before, window)[0]
    assert score == pytest.approx(total, abs=1e-3)


def test_it_scores_as_lm_evals_own_backend_scores_the_export(tasks, reader, files, tmp_path):
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'nextscale[examples]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'nextscale[examples]'")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    export(reader, tmp_path / "hf")
    # Where no token ends a text, as in the seven-bit code, that backend generates none.
    ends = reader.config.data.vocab == 256
    named = [files(CHOICE), files(ROLLING), *([files(UNTIL)] if ends else [])]
    ours = tasks.score(reader, named)
    theirs = HFLM(str(tmp_path / "hf"), device="cpu", batch_size=8, prefix_token_id=0)
    found = lm_eval.simple_evaluate(
        theirs, tasks=named, task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, log_samples=False
    )
    scores = {"acc_colours", "acc_norm_colours", "bits_per_byte_texts"}
    assert ours["scores"].keys() == scores | ({"exact_match_words"} if ends else set())
    assert ours["samples"] == dict.fromkeys((Path(name).stem for name in named), 20)
    assert ours["scores"] == pytest.approx(tasks._columns(found["results"]), rel=1e-4)
    assert 0 < ours["scores"]["acc_colours"] < 1

    # Request by request, not in the mean alone.
    from lm_eval.api.instance import Instance

    prompts = [("red is", {"until": ["e"], "max_gen_toks": 5}), ("3", {"until": [], "max_gen_toks": 9})]
    requests = [Instance("generate_until", {}, prompt, i) for i, prompt in enumerate(prompts)]
    model = tasks.HarnessModel(reader, tasks.codec_of(reader.config.data))
    assert not ends or model.generate_until(requests) == theirs.generate_until(requests)
    pairs = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate([("ten", " a"), ("", "→ b"), ("q ", "r")])]
    for (a, greedy), (b, also) in zip(model.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
        assert greedy == also


def test_what_cannot_be_scored_is_one_line(tasks, untrained):
    with pytest.raises(InputError, match="tokens whose text is not known"):
        tasks.score(untrained(data=MarkovData(source="markov", vocab=16)), ["arc_easy"])
    with pytest.raises(InputError, match="--tasks no_such_task: lm-eval knows no such task"):
        tasks.score(untrained(data=bytes_of(256)), ["no_such_task"])
