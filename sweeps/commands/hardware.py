"""The commands `hardware` and `launch`: known accelerators, and files that start a cluster."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.completion import one_of
from nextscale.sweeps.terminal.console import Json, print_json, screen

app = typer.Typer()

_LAUNCH = {
    "gcp-tpu.yaml": "TPU slices of Google Cloud, with `ray up`",
    "kuberay-gpu.yaml": "GPUs of Kubernetes, with KubeRay",
    "kuberay-tpu.yaml": "TPU slices of Google Kubernetes Engine, with KubeRay",
    "slurm.sh": "GPU nodes of a Slurm cluster",
    "sky.yaml": "spot GPUs of AWS, Azure, Google Cloud and others, with SkyPilot",
    "Dockerfile": "the image of head and workers",
}


@app.command()
def hardware(
    site: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="NEXTSCALE_SITE", help="what this site says of it")
    ] = None,
    json_: Json = False,
) -> None:
    """Lists the accelerators that are known: what each can do, holds, draws and costs, and who says so."""
    from nextscale.cluster.hardware.catalogue import FIGURES
    from nextscale.sweeps.show.formats import number
    from nextscale.sweeps.show.tables import Table
    from nextscale.sweeps.spec.site_file import load_site

    source = "the site file" if site is None else str(site)
    found = load_site(site).catalogue(source)
    if json_:
        print_json({"accelerators": [each.to_dict() for each in found.values()]})
        return
    columns = ["accelerator", "bf16 TFLOP/s", "HBM GB", "HBM GB/s", "chips/host", "W", "$/chip-hour", "spot"]
    rows = [
        [
            each.name,
            *(
                number(None if value is None else value / unit)
                for value, unit in ((each.peak_flops, 1e12), (each.hbm_bytes, 1e9), (each.hbm_bandwidth, 1e9))
            ),
            str(each.chips_per_host),
            *(number(each.watts), number(each.usd_per_chip_hour), number(each.usd_per_chip_hour_spot)),
        ]
        for each in found.values()
    ]
    screen.print(Table(f"{len(rows)} accelerators; a dash where nothing is published", columns, rows).rich())
    for each in found.values():
        cited: dict[str, list[str]] = {}
        for figure in FIGURES:
            if figure in each.sources:
                cited.setdefault(each.sources[figure], []).append(figure)
        for text, figures in cited.items():
            dated = f" ({each.priced})" if "usd_per_chip_hour" in figures and each.priced != text else ""
            screen.print(
                f"{each.name}: {', '.join(figures)}: {text}{dated}", markup=False, highlight=False, soft_wrap=True
            )


@app.command()
def launch(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="of a file; without it they are listed", autocompletion=one_of(*_LAUNCH)),
    ] = None,
    json_: Json = False,
) -> None:
    """Prints a file that starts a cluster on Slurm, Kubernetes or a cloud.

    Such as `nextscale launch slurm.sh > slurm.sh`; docs/clusters.md says how they are used.
    """
    if name is None:
        if json_:
            print_json({"files": [{"name": each, "for": what} for each, what in _LAUNCH.items()]})
            return
        for each, what in _LAUNCH.items():
            screen.print(f"{each:<18}{what}", markup=False, highlight=False)
        return
    if name not in _LAUNCH:
        raise SpecError(f"launch {name}: there is no such file; take one of {', '.join(_LAUNCH)}")
    text = (resources.files("nextscale.cluster") / "launch" / name).read_text()
    if json_:
        print_json({"name": name, "text": text})
    else:
        print(text, end="")
