"""What is asked of a model at the end of its run: its scores on tasks (`evaluation.tasks`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from nextscale.model.config.run import RunConfig
from nextscale.model.errors import describe_error
from nextscale.model.record import RunDirectory
from nextscale.model.trained.load import TrainedModel
from nextscale.model.training.attempt import Ask

PyTree = Any


def asked_at_end(config: RunConfig, directory: RunDirectory) -> Ask | None:
    """What `train` is to ask the trained model of a run; None where that is nothing.

    A task that cannot be asked, for want of lm-eval or of its questions, is a note in the run's record: its loss is
    there all the same, and `nextscale model evaluate` asks again.
    """
    if not config.evaluation.tasks:
        return None

    def ask(params: PyTree, beat: Callable[[], None]) -> list[str]:
        notes = []
        for task in config.evaluation.tasks:
            problem = _problem(config, directory, params, task, beat)
            if problem is not None:
                again = f"nextscale model evaluate {directory.path} --tasks {task}"
                notes.append(f"evaluation.tasks {task}: not scored: {problem}; `{again}` asks again")
        return notes

    return ask


def _problem(
    config: RunConfig, directory: RunDirectory, params: PyTree, task: str, beat: Callable[[], None]
) -> str | None:
    """Scores a model on a task; what kept it from that, in words."""
    if jax.process_count() > 1:
        return "several processes trained it, and one alone asks"
    left: list[Exception] = []

    def beat_or_leave() -> None:
        try:
            beat()
        except Exception as error:
            left.append(error)
            raise

    try:
        beat_or_leave()
        from nextscale.model.trained.tasks import score_run  # imports lm-eval, which may not be there

        trained, few_shot = TrainedModel(config, params), config.evaluation.few_shot
        score_run(directory, [task], few_shot=few_shot, trained=trained, beat=beat_or_leave)
    except ModuleNotFoundError as error:
        return f"needs {error.name}; pip install 'nextscale[examples]'"
    except Exception as error:
        if left:
            raise left[0] from None
        return describe_error(error)
    return None
