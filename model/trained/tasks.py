"""Scores on tasks, by lm-eval: EleutherAI's Language Model Evaluation Harness (Gao et al. 2021), which is to be there.

A model is asked for what its harness asks any model for, under the same conventions as its Hugging Face models: what is
longer than the context is cut from the left, an empty context is the token that stands before a document.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lm_eval
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from nextscale.model.config.run import Network
from nextscale.model.errors import InputError
from nextscale.model.network.transformer import transformer_of
from nextscale.model.record import Row, RunDirectory
from nextscale.model.trained.load import TrainedModel, load_trained
from nextscale.model.trained.sample import sample
from nextscale.model.trained.text import Codec, codec_of

PyTree = Any
_Request = tuple[Any, list[int], list[int]]
"""Of what, the tokens before, the tokens that are scored."""

_LOGITS = 2**26
_MOST_AT_ONCE = 64
_DRAWN = 256
"""Tokens that are drawn where a task does not say how many; as lm-eval's other models have it."""


class HarnessModel(TemplateLM):
    """A trained model as lm-eval asks for it.

    Attributes:
        cut: how many requests were longer than the context, so that only their end was read.
    """

    def __init__(self, trained: TrainedModel, codec: Codec, beat: Callable[[], None] = lambda: None):
        super().__init__()
        self._trained, self._codec, self._beat = trained, codec, beat
        model = trained.config.network
        self.max_length = model.context
        self.cut = 0
        self._at_once = min(max(_LOGITS // (model.context * model.vocab), 1), _MOST_AT_ONCE)

    @property
    def eot_token_id(self) -> int:
        return self._codec.start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._codec.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[_Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of each request the log-likelihood of its tokens, in nats, and whether each of them was the likeliest."""
        found: list[tuple[float, bool]] = []
        for first in range(0, len(requests), self._at_once):
            self._beat()
            found += self._scored(requests[first : first + self._at_once])
        return found

    def _scored(self, requests: Sequence[_Request]) -> list[tuple[float, bool]]:
        T = self.max_length
        tokens_BxT1, ends = np.zeros((self._at_once, T + 1), np.int32), []
        for row, (_, before, scored) in zip(tokens_BxT1, requests, strict=False):
            if len(scored) > T:
                raise InputError(
                    f"run {self._trained.config.run_id}: a task scores {len(scored)} tokens at once, and the model's "
                    f"context is {T}"
                )
            whole = [*before, *scored]
            self.cut += len(whole) > T + 1
            whole = whole[-T - 1 :]
            row[: len(whole)] = whole
            ends.append(len(whole) - 1)
        network, dtype = self._trained.config.network, self._trained.config.training.dtype
        log_p_BxT, likeliest_BxT = map(np.asarray, _scores(network, dtype, self._trained.params, tokens_BxT1))
        found = []
        for i, ((_, _, scored), end) in enumerate(zip(requests, ends, strict=True)):
            here = slice(end - len(scored), end)
            found.append((float(log_p_BxT[i, here].sum(dtype=np.float64)), bool(likeliest_BxT[i, here].all())))
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of each text its log-likelihood, in windows of the context that do not overlap."""
        windows: list[list[_Request]] = []
        for instance in requests:
            tokens = self.tok_encode(instance.args[0])
            rolled = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            windows.append([(None, *make_disjoint_window(window)) for window in rolled])
        scores = iter(self._loglikelihood_tokens([window for each in windows for window in each]))
        return [sum(next(scores)[0] for _ in each) for each in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Of each prompt what follows it, up to the first of the texts that end it."""
        return [self._generated(*instance.args) for instance in requests]

    def _generated(self, prompt: str, how: dict[str, Any]) -> str:
        until = how.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        count = int(how.get("max_gen_toks", _DRAWN))
        temperature = float(how.get("temperature", 0.0)) if how.get("do_sample") else 0.0
        begun = self.tok_encode(prompt) or [self._codec.start]
        self.cut += len(begun) > self.max_length
        self._beat()
        drawn: list[int] = []
        text = ""
        for token in sample(self._trained, begun, count, temperature=temperature, end=self._codec.end):
            drawn.append(token)
            text = self._codec.decode(drawn)
            if any(stop in text for stop in stops):
                break
        return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(network: Network, dtype: str, params: PyTree, tokens_BxT1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each token but the first its log-probability, and whether it was the likeliest: B x T."""
    log_p_BxTxV = jax.nn.log_softmax(transformer_of(network, dtype, params)(tokens_BxT1[:, :-1]))
    labels_BxT = tokens_BxT1[:, 1:]
    picked_BxT = jnp.take_along_axis(log_p_BxTxV, labels_BxT[..., None], axis=-1)[..., 0]
    return picked_BxT, log_p_BxTxV.argmax(axis=-1) == labels_BxT


def score(
    trained: TrainedModel, tasks: Sequence[str], *, few_shot: int | None = None, beat: Callable[[], None] = lambda: None
) -> Row:
    """What a model scores on tasks.

    Args:
        tasks: names that lm-eval knows, or YAML files of tasks.
        few_shot: examples that each question begins with; as many as the task has it if open.
        beat: called again and again; what it raises ends this.

    Returns:
        `scores`, each metric under `METRIC_TASK` (and `METRIC_TASK_FILTER`, of a filter with a name); `samples` of each
        task; and `cut`, how many requests were longer than the context.

    Raises:
        InputError: the model reads no text, or there is no such task.
    """
    codec = codec_of(trained.config.data)
    if codec is None:
        raise InputError(f"run {trained.config.run_id}: its data is tokens whose text is not known, and tasks are text")
    model = HarnessModel(trained, codec, beat)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # whatever a task prints is no answer
        found = lm_eval.simple_evaluate(
            model,
            tasks=list(tasks),
            num_fewshot=few_shot,
            task_manager=_manager(tasks),
            bootstrap_iters=0,
            log_samples=False,
        )
    return {
        "scores": _columns(found["results"]),
        "samples": {task: count["effective"] for task, count in found["n-samples"].items()},
        "cut": model.cut,
    }


def score_run(
    directory: RunDirectory,
    tasks: Sequence[str],
    *,
    few_shot: int | None = None,
    trained: TrainedModel | None = None,
    beat: Callable[[], None] = lambda: None,
) -> Row:
    """What the model of a run scores on tasks, kept in its directory; a task that was asked before is not asked again.

    Args:
        tasks, few_shot, beat: see `score`.
        trained: its model, where that is at hand.

    Returns:
        all that its directory then holds: `scores`, `samples`, and of each task under `asked` how it was asked.

    Raises:
        InputError: see `load_trained` and `score`.
        ValueError: what the directory holds of scores is damaged.
    """
    kept: Row = {"scores": {}, "samples": {}, "asked": {}}
    with contextlib.suppress(FileNotFoundError):
        directory.task_scores()  # says what is damaged
        kept |= json.loads((directory.path / "tasks.json").read_text())
    trained = trained or load_trained(directory)
    for name in tasks:
        how = {"few_shot": few_shot, "lm_eval": importlib.metadata.version("lm_eval"), "file": _digest(name)}
        before = kept["asked"].get(name, {})
        if how != {key: before.get(key) for key in how} or not before:
            found = score(trained, [name], few_shot=few_shot, beat=beat)
            for part in ("scores", "samples"):
                kept[part] |= found[part]
            kept["asked"][name] = how | {"cut": found["cut"]}
            directory.write_tasks(kept)
    return kept


def _digest(name: str) -> str | None:
    """Of the file of a task; None of a name that lm-eval knows."""
    file = Path(name)
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None


def _manager(tasks: Sequence[str]) -> TaskManager:
    """
    Raises:
        InputError: it does not know a task.
    """
    names = [name for name in tasks if not Path(name).is_file()]
    manager = _task_manager(bool(names))
    for name in names:
        if not manager.match_tasks([name]):
            raise InputError(f"--tasks {name}: lm-eval knows no such task, and there is no such file")
    return manager


@functools.cache
def _task_manager(include_defaults: bool) -> TaskManager:
    return TaskManager(include_defaults=include_defaults)  # lm-eval's own are some thousand files


def _columns(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    found = {}
    for task, metrics in results.items():
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if comma and number and not metric.endswith("_stderr"):
                name = f"{metric}_{task}" + ("" if filtered == "none" else f"_{filtered}")
                found[re.sub(r"\W+", "_", name)] = float(value)
    return found
