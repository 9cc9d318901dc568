"""Families of models, small to large: each gets a share of a budget or a loss, and a shape that can be built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.forecast import reach_warnings
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoloss import interval_row
from nextscale.fit.optimum.lifetime import Served, lifetime, ratio_warnings
from nextscale.fit.optimum.overtrain import overtrained_draws, overtrained_row
from nextscale.model.accounting import flops_per_token
from nextscale.model.config.run import ModelConfig
from nextscale.sweeps.budget.cluster import Cluster
from nextscale.sweeps.design.planned_run import count_parameters
from nextscale.sweeps.design.sizes import friendly_models
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.sweep_spec import SweepSpec

_USUAL = {1: ["model"], 2: ["small", "large"], 3: ["small", "medium", "large"]}
_FAR = math.log(2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberRequest:
    """What is asked of one member of a family.

    Attributes:
        flops: to be spent on it; where it serves, on training and serving together.
        loss: that it is to come to; one of the two is given.
        served: tokens in its life, each for the FLOPs of a forward pass.
        params: its size; the best one if open.
    """

    name: str
    flops: float | None = None
    loss: float | None = None
    served: float = 0.0
    params: float | None = None


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The models of a spec's family, by rising size.

    Attributes:
        sizes: of each, as the fit counts parameters.
        cost: training FLOPs per token, exactly, of those sizes.
    """

    models: list[ModelConfig]
    sizes: np.ndarray
    cost: TokenCost

    @classmethod
    def of(cls, spec: SweepSpec, convention: str) -> Shapes:
        """
        Raises:
            SpecError: N counts something that a spec's models do not tell, or no two models can be built.
        """
        if convention not in ("total", "non_embedding"):
            raise SpecError(f"--spec: N counts {convention} parameters, and shapes are found by total or non_embedding")
        models = friendly_models(spec)
        sizes = np.array([count_parameters(model, convention) for model in models], float)
        models = [model for model, size in zip(models, sizes, strict=True) if size > 0]
        sizes = sizes[sizes > 0]
        return cls(models, sizes, TokenCost.of(sizes.tolist(), [flops_per_token(model) for model in models]))

    def nearest(self, params: float, name: str) -> tuple[ModelConfig, float]:
        """The model nearest to a size, and its own.

        Raises:
            SpecError: there is none within a factor of two.
        """
        apart = np.abs(np.log(self.sizes / params))
        best = int(apart.argmin())
        if apart[best] > _FAR:
            raise SpecError(
                f"{name}: the model nearest to {params:.3g} parameters is of width {self.models[best].width} and has "
                f"{self.sizes[best]:.3g}; give another spec with --spec, whose depth follows width"
            )
        return self.models[best], float(self.sizes[best])


def member_requests(
    *,
    flops: float | None = None,
    split: Sequence[float] = (),
    losses: Sequence[float] = (),
    served: Sequence[float] = (),
    sizes: Sequence[float] = (),
    names: Sequence[str] = (),
) -> list[MemberRequest]:
    """What is asked of each member: shares of one budget, or a loss each.

    Args:
        flops: the budget, which `split` shares out: by weights, which need not sum to one.
        served, sizes: one of each member, or none.

    Raises:
        SpecError: lists of several lengths, or nothing to divide by.
    """
    if (flops is None) == (not losses):
        raise SpecError("family: say what it may cost, with --flops, --usd, --device-hours or --days, or a --loss each")
    if losses and split:
        raise SpecError("--split: shares out a budget, and a --loss each has none; give one of them")
    if flops is not None and not split:
        raise SpecError("--split: say how the budget is shared, such as --split 0.1,0.3,0.6")
    members = len(losses or split)
    given = {"served": served, "sizes": sizes, "names": names}
    for option, values in given.items():
        if values and len(values) != members:
            raise SpecError(f"--{option}: has {len(values)} values for a family of {members}; give one each")
    for option, numbers in (("loss", losses), ("served", served), ("sizes", sizes)):
        if wrong := [number for number in numbers if not (math.isfinite(number) and number > 0)]:
            raise SpecError(f"--{option}: should be greater than 0, not {wrong[0]:g}")
    if wrong := [share for share in split if not (math.isfinite(share) and share > 0)]:
        raise SpecError(f"--split: a share should be greater than 0, not {wrong[0]:g}")
    named = list(names) or _USUAL.get(members, [f"member {i + 1}" for i in range(members)])
    shares = [None if flops is None else flops * share / sum(split) for share in split] or [None] * members
    return [
        MemberRequest(
            name=named[i],
            flops=shares[i],
            loss=losses[i] if losses else None,
            served=served[i] if served else 0.0,
            params=sizes[i] if sizes else None,
        )
        for i in range(members)
    ]


def family(
    fit: Fit,
    requests: Sequence[MemberRequest],
    *,
    shapes: Shapes | None = None,
    cluster: Cluster | None = None,
    slices: int | None = None,
) -> dict[str, Any]:
    """The members of a family.

    Args:
        fit: a law in N and D.
        shapes: to be chosen from; without, any size is one.
        cluster: that they are trained on, each on all of it in turn; with `slices`, all at once on equal parts of it.

    Returns:
        `members`: of each what was asked, `params`, `tokens`, `tokens_per_param`, `flops` (of training),
        `serving_flops` and `loss` with what is not given as `_interval`; `best_params`, the size the law has best with
        its interval (None where sizes were given); `overhead`, training FLOPs / those of the compute-optimal model of
        its loss - 1; of a shape `width`, `depth` and `heads`; on a cluster `slices`, `chips`, and with their intervals
        where the FLOPs have one (see `Cluster.costs`) `device_hours`, `days`, `usd`, `kwh`. `total`: the sums, and the
        days until the last is done. `level`, `params_convention`, `loss_unit`, `notes`, `warnings`.

    Raises:
        SpecError: no shape is near, or there are fewer slices than members.
        InputError: see `nextscale.fit.optimum.lifetime.lifetime`.
    """
    cost = shapes.cost if shapes is not None else TokenCost.of_runs(fit.runs)
    members, drawn, warnings = [], [], list(fit.warnings)
    for request in requests:
        member, draws = _member(fit, request, cost, shapes)
        members.append(member)
        drawn.append(draws)
        at = {name: member[name] for name in ("flops", "params", "tokens")}
        warnings += [
            f"{request.name}: {text}"
            for text in (*reach_warnings(fit, at), *ratio_warnings(fit, member["tokens_per_param"]))
        ]
    # Of all together draw by draw: they share the law, so ends of intervals do not add up.
    sums = {name: np.sum([draws[name] for draws in drawn], axis=0) for name in ("tokens", "flops")}
    total = with_intervals(interval_row(fit.level, **sums), *sums)
    total["serving_flops"] = sum(member["serving_flops"] for member in members)
    if cluster is not None:
        parts = _parts([member["flops"] for member in members], cluster, slices)
        for member, (share, there) in zip(members, parts, strict=True):
            member |= {"slices": share, "chips": there.chips}
            member |= there.costs(member["flops"], member["flops_interval"])
            warnings += there.warnings(member["params"])
        total |= cluster.costs(total["flops"], total["flops_interval"])
        if slices is not None:
            days = [draws["flops"] * there.days(1.0) for (_, there), draws in zip(parts, drawn, strict=True)]
            last = with_intervals(interval_row(fit.level, days=np.max(days, axis=0)), "days")
            given = last["days_interval"] == [last["days"]] * 2
            total |= last | ({"days_interval": None} if given else {})
    return {
        "law": fit.law.name,
        "level": fit.level,
        "params_convention": fit.runs.convention,
        "loss_unit": fit.runs.loss_unit,
        "cluster": None if cluster is None else cluster.to_dict(),
        "members": members,
        "total": total,
        "notes": [*fit.runs.notes, *(cluster.assumptions() if cluster is not None else ())],
        "warnings": list(dict.fromkeys(warnings)),
    }


def with_intervals(row: Mapping[Any, Any], *names: str) -> dict[str, Any]:
    """Of a row with `_low` and `_high`, each figure and its `_interval`: None where there are no resamples."""
    found = {}
    for name in names:
        found[name] = row[name]
        if f"{name}_low" in row:
            ends = [row[f"{name}_low"], row[f"{name}_high"]]
            found[f"{name}_interval"] = None if any(np.isnan(end) for end in ends) else ends
    return found


def _member(
    fit: Fit, request: MemberRequest, cost: TokenCost, shapes: Shapes | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A member as `family` returns it, and its quantities draw by draw."""
    served = Served.of(request.served)
    best: dict[str, Any] = {"best_params": None, "best_params_interval": None}
    params, flops = request.params, request.flops
    if params is None:
        target = {"losses": [request.loss]} if request.loss is not None else {"budgets": [request.flops]}
        row = lifetime(fit, served, cost=cost, **target).iloc[0].to_dict()
        if not np.isfinite(row["params"]):
            raise SpecError(f"{request.name}: no size comes to a loss of {request.loss}; ask for a higher one")
        params = row["params"]
        best = {f"best_{name}": value for name, value in with_intervals(row, "params").items()}
    shape = {}
    if shapes is not None:
        model, params = shapes.nearest(params, request.name)
        shape = {"width": model.width, "depth": model.depth, "heads": model.heads}
    serving = float(cost(np.array(params))) * served.idle_tokens()
    if flops is not None:
        if flops <= serving:
            raise SpecError(f"{request.name}: serving takes {serving:.3g} FLOPs, all of its {flops:.3g}; give it more")
        flops -= serving
    draws = overtrained_draws(fit, params, flops=flops, loss=request.loss, cost=cost)
    trained = overtrained_row(fit, params, draws, loss=request.loss)
    if not np.isfinite(trained["tokens"]):
        raise SpecError(
            f"{request.name}: {params:.3g} parameters never come to a loss of {request.loss}; take more of them"
        )
    held = with_intervals(trained, "tokens", "tokens_per_param", "flops", "loss", "overhead")
    member = {"name": request.name, **shape, "params": params, **held}
    return member | {"served": request.served, "serving_flops": serving, **best}, draws


def _parts(flops: Sequence[float], cluster: Cluster, slices: int | None) -> list[tuple[int | None, Cluster]]:
    """On what each is trained: all of the cluster, or its slices by compute, one at least."""
    if slices is None:
        return [(None, cluster)] * len(flops)
    if slices < len(flops):
        raise SpecError(f"--slices {slices}: fewer than the {len(flops)} models that are to be trained at once")
    if cluster.chips % slices:
        raise SpecError(f"--slices {slices}: does not divide the {cluster.chips} chips of {cluster.name}")
    shares = [1] * len(flops)
    for _ in range(slices - len(flops)):
        # To whoever would be done last: the day by which all are done is as early as whole slices allow.
        shares[max(range(len(flops)), key=lambda i: flops[i] / shares[i])] += 1
    chips = cluster.chips // slices
    return [(share, dataclasses.replace(cluster, chips=share * chips)) for share in shares]
