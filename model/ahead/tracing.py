"""Traces the steps of runs, without compiling them: a process that is asked by `own_code.py`."""

from __future__ import annotations

from typing import Any

from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.asked import answer_lines
from nextscale.model.training.memory import lowered_steps
from nextscale.model.training.step import NO_SAVING


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    """`{}` where the steps of a run can be made, or `{error}`, to `{config}`."""
    config = RunConfig.model_validate(asked["config"])
    try:
        lowered_steps(config, None, NO_SAVING)
    except InputError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"code: {', '.join(config.targets)} cannot be trained: {describe_error(error)}"}
    return {}


if __name__ == "__main__":
    answer_lines(_answer)
