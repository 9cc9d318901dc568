"""The options on the tokens that a model will serve, and their price."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from nextscale.sweeps.commands.analysis.hardware_options import Hardware
from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    from nextscale.fit.optimum.lifetime import Prices
    from nextscale.fit.table.runs import Runs
    from nextscale.sweeps.budget.cluster import Cluster


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """What a model serves in its life, and what that costs beside its training."""

    panel: ClassVar = "Serving"

    served: Annotated[float, typer.Option(min=0, max=1e30, help="tokens in its life, read and written")]
    prompt_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="of them, those that are read; needed where these cost otherwise")
    ] = None
    serve_on: Annotated[
        str | None, typer.Option(metavar="NAME", help="the chip that serves \\[default: that of --on]")
    ] = None
    serve_price: Annotated[
        float | None, typer.Option(min=0, help="dollars per hour of it \\[default: its list price]")
    ] = None
    prefill_utilisation: Annotated[
        float | None, typer.Option(min=1e-6, max=1, help="of its peak, while prompts are read; needed with --on")
    ] = None
    decode_utilisation: Annotated[
        float | None, typer.Option(min=1e-6, max=1, help="of its peak, while answers are written; needed with --on")
    ] = None
    token_price: Annotated[
        str | None,
        typer.Option(
            metavar="USD@PARAMS",
            help="in place of these: dollars per million tokens of a model of that size, others in proportion",
        ),
    ] = None

    def prices(self, cluster: Cluster | None, hardware: Hardware, runs: Runs) -> Prices:
        """Of a FLOP: of the hardware, or 1 where none is named and costs are FLOPs."""
        from nextscale.fit.optimum.lifetime import Prices

        stated = ("serve_on", "serve_price", "prefill_utilisation", "decode_utilisation", "token_price")
        given = [f"--{name.replace('_', '-')}" for name in stated if getattr(self, name) is not None]
        if cluster is None:
            if given:
                raise SpecError(f"{given[0]}: is a price; name the hardware of training too, such as --on h100x512")
            return Prices()
        train = 1 / cluster.flops_for_usd(1.0)
        if self.token_price is not None:
            if len(given) > 1:
                raise SpecError(f"--token-price: says what serving costs, and so does {given[0]}; give one of them")
            per_flop = self._per_flop(runs)
            return Prices(train=train, prefill=per_flop, decode=per_flop)
        for name in ("prefill_utilisation", "decode_utilisation", "prompt_share"):
            if getattr(self, name) is None:
                raise SpecError(
                    f"--{name.replace('_', '-')}: state it (or a --token-price), for without it serving has no price"
                )
        assert self.prefill_utilisation is not None and self.decode_utilisation is not None
        chip = dataclasses.replace(hardware, on=self.serve_on or cluster.accelerator.name, utilisation=1.0)
        if self.serve_on is not None or self.serve_price is not None:
            chip = dataclasses.replace(chip, price=self.serve_price, spot=hardware.spot and self.serve_price is None)
        whole = chip.cluster(None)
        assert whole is not None
        peak = whole.usd(1.0)
        if peak is None:
            raise SpecError(f"{whole.accelerator.name}: no price is known; state one with --serve-price")
        return Prices(train=train, prefill=peak / self.prefill_utilisation, decode=peak / self.decode_utilisation)

    def _per_flop(self, runs: Runs) -> float:
        import numpy as np

        from nextscale.fit.optimum.frontier import TokenCost

        assert self.token_price is not None
        try:
            usd, params = map(float, self.token_price.split("@"))
        except ValueError:
            usd = params = -1.0
        if not (0 <= usd < float("inf") and 0 < params < float("inf")):
            raise SpecError(f"--token-price {self.token_price}: write it as USD@PARAMS, such as 0.6@70e9")
        return 3 * usd / 1e6 / float(TokenCost.of_runs(runs)(np.array(params)))
