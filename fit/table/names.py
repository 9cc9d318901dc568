"""What a column holds by its name, as tables of many tools have them: `num_params`, `tokens (B)`, `eval/loss`."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Literal

from nextscale.fit.table.numerals import split_unit

COUNTS = ("params", "tokens", "flops")
"""The quantities tied by C = 6ND: two give the third."""
STEPS = {"step", "globalstep", "iteration", "iter"}
"""Bare names of a column that counts a run's steps."""
STEPS_TOO = STEPS | {
    "steps",
    "iters",
    "iterations",
    "trainstep",
    "trainsteps",
    "trainingstep",
    "trainingsteps",
    "update",
    "updates",
    "optimizerstep",
    "itern",
}
"""And of those that may be steps to come as well as steps done."""
LossUnit = Literal["nats/token", "bits/byte", "bits/token", "perplexity"]

_SPLIT = "val valid validation eval test heldout train training"
_LOSSES = "loss ce crossentropy nll celoss crossentropyloss nllloss lmloss"
_BITS = "bpb bitsperbyte"
_TOKEN_BITS = "bpt bitspertoken"
_PERPLEXITIES = "ppl perplexity"


def _of_splits(names: str) -> str:
    """With what it was measured on before or after, and as the last of the run."""
    splits = ["", *_SPLIT.split()]
    every = [f"{split}{name}" for name in names.split() for split in splits]
    every += [f"{name}{split}" for name in names.split() for split in splits]
    return " ".join(f"{final}{name}" for name in every for final in ("", "final", "last"))


_USUAL = {
    "params": "n params parameters param parameter paramcount paramscount parametercount parameterscount nparams "
    "nparameters numparams numparameters numparam numberofparams numberofparameters modelsize modelparams "
    "modelparameters modelparamcount totalparams totalparameters totalparamcount totalparametercount paramstotal "
    "parameterstotal ntotal numtotalparams nparamstotal",
    "params_non_embedding": "paramsnonembedding nonembeddingparams nonembeddingparameters nonembeddingparamcount "
    "nonembparams nonembedparams paramsnonemb paramsnonembed nparamsnonembedding numnonembeddingparams nnonembedding "
    "nnonemb nnonembed nnoembed paramsnoembed nonembeddingparamsize nonembeddingn numparamsnonembedding "
    "paramswithoutembeddings",
    "params_active": "na nact actparams paramsact paramsactive activeparams activeparameters nactive activatedparams "
    "activatedparameters numactiveparams nactiveparams paramsactivated nactivated activen activeparamcount "
    "numactivatedparams numparamsactive nparamsactive",
    "tokens": "d tokens token ntokens dtokens numtokens numberoftokens tokencount tokenscount tokensseen seentokens "
    "totaltokens tokenstotal traintokens trainingtokens tokenstrained trainedtokens tokensprocessed processedtokens "
    "numinputtokensseen traintokensseen traintotaltokens totaltraintokens totaltrainingtokens ntraintokens "
    "ntrainingtokens numtraintokens numtrainingtokens traintokenstotal consumedtokens tokensconsumed ntokensseen "
    "datasetsizetokens datatokens",
    "flops": "c flop flops flos compute cflops computeflop computeflops flopstotal totalflop totalflops totalflos "
    "totalcompute totalcomputeflops trainflop trainflops trainingflop trainingflops traincompute trainingcompute "
    "trainingcomputeflop trainingcomputeflops trainflopstotal totaltrainflops totaltrainingflops totaltrainingcompute "
    "nflops numflops modelflops estimatedflops approxflops flopsused",
    "loss": _of_splits(_LOSSES) + " l",
}
"""Of each quantity the names that can mean nothing else beside the others, letters and figures alone."""
_OTHER_LOSSES: dict[LossUnit, str] = {"bits/byte": _BITS, "bits/token": _TOKEN_BITS, "perplexity": _PERPLEXITIES}
BUDGETS = ("budget", "flopsbudget", "flopbudget", "budgetflops", "isoflopbudget", "computebudget")
"""Names of columns that may state the compute that a run was given, the first of them first."""
_UNITS_SAID: dict[str, LossUnit] = {
    **dict.fromkeys(("bitsbyte", "bitsperbyte", "bpb"), "bits/byte"),
    **dict.fromkeys(("bitstoken", "bitspertoken", "bpt", "bits"), "bits/token"),
    **dict.fromkeys(("natstoken", "natspertoken", "nats"), "nats/token"),
}
"""In brackets after a loss."""
_QUANTITIES = {name: quantity for quantity, names in _USUAL.items() for name in names.split()}
_UNITS_OF_LOSS = {name: unit for unit, names in _OTHER_LOSSES.items() for name in _of_splits(names).split()}


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a column holds by its name.

    Attributes:
        quantity: `params`, `tokens`, `flops`, `loss`, `params_active` or `params_non_embedding`.
        second: whether it is that only where nothing better is there: budgets for FLOPs, perplexities for a loss.
        factor: what its figures are to be multiplied by.
        unit: that this follows from, as the name writes it; empty where it writes none.
        loss_unit: of a loss.
    """

    quantity: str
    second: bool = False
    factor: float = 1.0
    unit: str = ""
    loss_unit: LossUnit = "nats/token"


@functools.lru_cache(maxsize=4096)
def meaning_of(name: str) -> Meaning | None:
    """What a column is by its name, case, signs and what a tool puts before (`config.`, `eval/`) aside, if anything.

    A unit in the name is one of counts and FLOPs alone: `loss_b` may be anything.
    """
    for text in _without_prefixes(name):
        if found := _loss_of(text):
            return found
        base, factor, unit = split_unit(text)
        for bare in dict.fromkeys((bare_name(text), bare_name(base))):
            if bare != bare_name(text) and len(bare) == 1 and not re.search(r"[(\[{]", text):
                continue
            scale = (factor, unit) if factor != 1 else (1.0, "")
            if quantity := _QUANTITIES.get(bare):
                return None if quantity == "loss" else Meaning(quantity, False, *scale)
            if bare in BUDGETS:
                return Meaning("flops", True, *scale)
    return None


def loss_unit_of(name: str) -> LossUnit:
    """What a loss is told in by the name of its column, such as `c4_bpb` or `bits per byte (wikitext)`: nats per token
    where the name says nothing else."""
    meaning = meaning_of(name)
    if meaning is not None and meaning.quantity == "loss":
        return meaning.loss_unit
    words = " ".join(re.findall(r"[^\W_]+", name.casefold()))
    words = re.sub(r"\bbits? per (byte|token)\b", r"bitsper\1", words)
    for unit, names in _OTHER_LOSSES.items():
        if {*words.split()} & {*names.split()}:
            return unit
    return "nats/token"


def bare_name(name: object) -> str:
    """Letters and figures alone, small."""
    return re.sub(r"[\W_]", "", str(name)).casefold()


def last_part(name: object) -> str:
    """The bare name without what a tool puts before: `train/global_step` is globalstep."""
    return bare_name(re.split(r"[./]", str(name))[-1])


def _loss_of(text: str) -> Meaning | None:
    bare = bare_name(text)
    if _QUANTITIES.get(bare) == "loss":
        return Meaning("loss")
    if unit := _UNITS_OF_LOSS.get(bare):
        return Meaning("loss", True, loss_unit=unit)
    base, bracket, inside = text.partition("(")
    if bracket and _QUANTITIES.get(bare_name(base)) == "loss" and (unit := _UNITS_SAID.get(bare_name(inside))):
        return Meaning("loss", loss_unit=unit)
    return None


def _without_prefixes(name: str) -> list[str]:
    """The name, and its last part where the ones before may be what a tool or a folder of metrics is called; not where
    it is a ratio, as `D/N` and `tokens/param`."""
    last = re.split(r"[./](?!s-)", name)[-1].strip()
    return [name] if last == name or len(last) < 3 or last in ("param", "parameter", "token", "flop") else [name, last]
