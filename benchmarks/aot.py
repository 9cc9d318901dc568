"""The steps, compiled by TPUs' own compiler for slices that are not here: `python benchmarks/aot.py MODEL@SLICE...`.

It needs libtpu (`pip install nextscale[tpu]`) and no TPU. Each case is laid out as a plan would, in a process of its
own, and a row of the table: seconds to compile, and those of all CPUs together; GB of each device, of the state and of
all else, beside what the plan had said; GB that a device sends or receives in a step by kind of collective, against the
least that weights split over devices take (in bfloat16 gathered for the forward and for the backward pass, and their
gradient summed once, of each micro-batch); and whether logits are anywhere in float32 for all tokens of a device. A
case takes minutes. A slice's number is that of its chips.
"""

import argparse
import collections
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}

from rich.console import Console

from nextscale.cluster.hardware.catalogue import CATALOGUE
from nextscale.cluster.hardware.memory import Split, bytes_needed
from nextscale.cluster.hardware.placement import seats
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.ahead.compiler import target_of
from nextscale.model.ahead.compiling import compiled as compiled_steps
from nextscale.model.ahead.compiling import mesh_for
from nextscale.model.config.data import TokenData
from nextscale.model.config.run import ModelConfig, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.network.kernels import RECOMPUTE
from nextscale.model.network.sharding import Layout
from nextscale.model.training.step import MemorySaving
from nextscale.sweeps.show.formats import count
from nextscale.sweeps.show.tables import Table

LLAMA = {"mlp": "swiglu", "mlp_ratio": 3.5}
MODELS = {
    # name: width, depth, heads, context, vocabulary, tokens of a batch, others
    "25M": (512, 2, 8, 1024, 16384, 2**17, {}),
    "125M": (768, 12, 12, 2048, 50304, 2**19, {}),
    "1B": (2048, 16, 16, 4096, 50304, 2**20, {}),
    "1.4B": (2048, 16, 16, 4096, 131072, 2**20, LLAMA | {"kv_heads": 8}),
    "3.7B": (2432, 48, 19, 4096, 50304, 2**20, {}),
    "7B": (4096, 32, 32, 4096, 32000, 2**20, LLAMA | {"mlp_ratio": 2.6875}),
    "70B": (8192, 80, 64, 8192, 128256, 2**22, LLAMA | {"kv_heads": 8}),
}
"""1.4B and from 7B on are Llamas: 7B is that of Touvron et al. 2023, 70B that of Grattafiori et al. 2024."""
SLICES = {
    "v5e-8": Pool(accelerator="tpu-v5e", chips=8, lane="gang"),
    "v5e-256": Pool(accelerator="tpu-v5e", hosts=64, chips=4),
    "v5p-64": Pool(accelerator="tpu-v5p", hosts=16, chips=4),
    "2xv5e-8": Pool(accelerator="tpu-v5e", chips=8, lane="gang", slices=2, slices_per_run=2),
    "2xv5e-256": Pool(accelerator="tpu-v5e", hosts=64, chips=4, slices=2, slices_per_run=2),
}
CASES = ("125M@v5e-8", "125M@2xv5e-8", "1.4B@v5e-8", "1.4B@v5e-256", "7B@v5e-256", "7B@v5p-64", "70B@v5p-64")
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "send")
"""As a program has them; what a slice sends to others is their all-reduce."""
ARRAY = re.compile(r"([a-z]+\d+|pred)\[([\d,]*)\]")
SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}


def config_of(model, tokens=None):
    """The run of a name, with batches of so many tokens."""
    width, depth, heads, context, vocab, batch, others = MODELS[model]
    shape = ModelConfig(width=width, depth=depth, heads=heads, context=context, vocab=vocab, **others)
    training = TrainingConfig(batch_tokens=tokens or batch, steps=1000, lr=1e-3, dtype="bfloat16")
    return RunConfig(
        data=TokenData(source="tokens", path="none", vocab=vocab, fingerprint="0" * 16), model=shape, training=training
    )


def planned(config, pool, given):
    """How a plan lays a run out, or how we are told to."""
    if given.layout is not None:
        layout = Layout.parse(given.layout)
        return Split(layout.data, layout.fsdp, layout.tensor, given.micro_batches, given.recompute)
    (seat,) = seats(config, flops_per_token(config.model) * config.tokens, {"slice": pool}, CATALOGUE)
    layout = Layout.parse(seat.layout)
    return Split(layout.data, layout.fsdp, layout.tensor, seat.micro_batches, seat.recompute)


def compiled(case, given):
    """What the compiler says of a case."""
    model, slice_ = case.split("@")
    config, pool = config_of(model, given.batch_tokens), SLICES[slice_]
    split = planned(config, pool, given)
    target = target_of(pool.accelerator, "tpu", pool.hosts * pool.chips, slices=pool.slices_per_run)
    layout = Layout(split.data, split.fsdp, split.tensor)
    mesh = mesh_for(layout, target.topology, target.slices)
    _, told = compiled_steps(config, mesh, MemorySaving(split.micro_batches, split.recompute))
    (written,) = Path(given.measure).glob("*_train_steps*.after_optimizations.txt")
    text = written.read_text()
    weights = 2 * parameters(config.model) / split.tensor
    tokens = config.training.batch_tokens // (split.data * split.fsdp) // split.micro_batches
    return {
        "case": case,
        "parameters": parameters(config.model),
        "layout": str(layout),
        "micro_batches": split.micro_batches,
        "recompute": split.recompute,
        **told,
        "planned_bytes": bytes_needed(config, split, "tpu"),
        "collectives": collectives(text),
        "least_bytes": 3 * weights * split.micro_batches if split.fsdp > 1 else 2 * weights,
        "whole_logits": whole_logits(text, tokens, config.model.width, config.model.vocab // split.tensor),
    }


def whole_logits(text, tokens, width, vocab):
    """Whether an array of all logits of a device, in float32, is anywhere in a program; the head's gradient is none."""
    found = [[int(n) for n in dims.split(",")] for dims in set(re.findall(r"f32\[([\d,]+)\]", text))]
    wide = [dims for dims in found if dims[-1] == vocab and dims[:-1] != [width]]
    return any(math.prod(dims) >= tokens * vocab for dims in wide)


def collectives(text):
    """By kind, how often a step makes one, and the bytes of what each device has of its result, or puts into a
    reduce-scatter.

    What a loop does counts as often as it goes round; the loop over steps, whose number is not in the program, once.
    One that is spread over computations bears one number in all of them, and counts once.
    """
    heads = re.split(r"^(?:ENTRY )?%([\w.-]+) (?=\()", text, flags=re.MULTILINE)
    bodies = dict(zip(heads[1::2], heads[2::2], strict=True))
    often, made = collections.Counter(), {}

    def visit(name, times):
        if times <= often[name]:
            return
        often[name] = times
        for line in bodies[name].splitlines():
            if loop := re.search(r" while\(%([\w.-]+)\), condition=%([\w.-]+), body=%([\w.-]+)", line):
                visit(loop[3], times * rounds(bodies[name], loop[1], bodies[loop[2]], bodies[loop[3]]))
                continue
            if kind := re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line):
                number = re.search(r"channel_id=(\d+)", line)
                arrays = ARRAY.findall(kind[1])
                sizes = [SIZES[of] * math.prod(map(int, filter(None, dims.split(",")))) for of, dims in arrays]
                both = kind[3] or kind[2] == "send"  # of one that is begun, what goes in stands there too
                size = max(sizes) if both else sum(sizes)
                size *= members(line) if kind[2] == "reduce-scatter" else 1
                key = kind[2], number[1] if number else line
                made[key] = max(made.get(key, (0, 0)), (times, size))
            for callee in re.findall(r"(?:calls|to_apply)=%([\w.-]+)", line):
                visit(callee, times)

    visit(re.search(r"^ENTRY %([\w.-]+) \(", text, re.MULTILINE)[1], 1)
    total = {}
    for (kind, _), (times, size) in made.items():
        number, bytes_ = total.get(kind, (0, 0))
        total[kind] = number + times, bytes_ + times * size
    return total


def members(line):
    """How many devices take part in each of a collective's groups."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(listed[1].split(",")) if listed else int(re.search(r"replica_groups=\[\d+,(\d+)\]", line)[1])


def rounds(around, first, condition, body):
    """How often a loop goes round; 1 where its end is not in the program. XLA may have put two rounds into one, after
    which it counts by twos.

    Args:
        around: the computation that it is in, and in it the name of the tuple that it begins with.
    """

    def line(text, name):
        found = re.search(rf"^\s*(?:ROOT )?%{re.escape(name)} = .*$", text, re.MULTILINE)
        return found[0] if found else ""

    def number(text, name):
        while copied := re.search(r" copy\(%([\w.-]+)\)", line(text, name)):
            name = copied[1]
        found = re.search(r" constant\((\d+)\)", line(text, name))
        return int(found[1]) if found else None

    def part(text, tuple_line, i):
        return re.findall(r"%([\w.-]+)", re.search(r" tuple\((.*?)\)", tuple_line)[1])[i]

    test = re.search(r"ROOT .* compare\(%([\w.-]+), %([\w.-]+)\), direction=LT", condition)
    end = number(condition, test[2]) if test else None
    if end is None:
        return 1
    counter = int(re.search(r"index=(\d+)", line(condition, test[1]))[1])
    step = line(body, part(body, re.search(r"ROOT .*", body)[0], counter))
    step = [number(body, name) for name in re.findall(r"%([\w.-]+)", step.split(" add(")[-1].split(")")[0])]
    start = number(around, part(around, line(around, first), counter)) or 0
    return -(-(end - start) // next(filter(None, step), 1))


def row(found):
    """Of the table."""
    moves = found["collectives"].items()
    names = {"send": "between slices"}
    moved = ", ".join(f"{names.get(kind, kind)} {number:,}: {size / 1e9:.2f}" for kind, (number, size) in moves)
    total, needed = found["state_bytes"] + found["temporary_bytes"], found["planned_bytes"]
    return [
        f"{found['case']} ({count(found['parameters'])})",
        f"{found['layout'].replace(',tensor=1', '')}; {found['micro_batches']}; {found['recompute']}",
        f"{found['seconds']:.0f} ({found['cpu_seconds']:.0f})",
        f"{found['state_bytes'] / 1e9:.2f}",
        f"{found['temporary_bytes'] / 1e9:.2f}",
        f"{needed / 1e9:.2f} ({needed / total - 1:+.0%})",
        moved or "-",
        f"{found['least_bytes'] / 1e9:.2f}",
        "yes" if found["whole_logits"] else "no",
    ]


def child(case, arguments):
    """A case in a process of its own, for what it takes of memory to be given back.

    The program is read as the compiler itself writes it down: of copies that it makes meanwhile, jaxlib cannot always
    read what it gets back.
    """
    with tempfile.TemporaryDirectory() as written:
        flags = f"--xla_dump_to={written} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*_train_steps.*"
        ran = subprocess.run(
            [sys.executable, __file__, case, "--measure", written, *arguments],
            env=os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"},
            capture_output=True,
            text=True,
        )
    if ran.returncode:
        return {"case": case, "error": (ran.stderr.strip().splitlines() or ["it was killed"])[-1]}
    return json.loads(ran.stdout.splitlines()[-1])


def main():
    """Compiles, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = f"a model of {', '.join(MODELS)}, @, and a slice of {', '.join(SLICES)}"
    parser.add_argument("cases", nargs="*", metavar="MODEL@SLICE", help=f"{known}; by default {' '.join(CASES)}")
    parser.add_argument("--layout", help="such as data=2,fsdp=128, instead of the plan's")
    parser.add_argument("--micro-batches", type=int, default=1, help="with --layout")
    parser.add_argument("--recompute", choices=RECOMPUTE, default="none", help="with --layout")
    parser.add_argument("--batch-tokens", type=int, help="instead of the model's")
    parser.add_argument("--json", action="store_true", help="prints a line of JSON a case")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for case in given.cases:
        model, _, slice_ = case.partition("@")
        if model not in MODELS or slice_ not in SLICES:
            parser.error(f"{case}: take {known}")
    if importlib.util.find_spec("libtpu") is None:
        parser.error("libtpu is not installed; pip install 'nextscale[tpu]'")
    if given.measure:
        print(json.dumps(compiled(given.cases[0], given)))
        return
    laid_out = [] if given.layout is None else ["--layout", given.layout, "--micro-batches", str(given.micro_batches)]
    laid_out += ["--recompute", given.recompute]
    laid_out += [] if given.batch_tokens is None else ["--batch-tokens", str(given.batch_tokens)]
    found = []
    for case in given.cases or CASES:
        found.append(child(case, laid_out))
        if given.json or "error" in found[-1]:
            print(json.dumps(found[-1]), flush=True)
    if not given.json:
        columns = [
            "model",
            "how",
            "compile s (CPU s)",
            "state GB",
            "other GB",
            "plan said",
            "collectives, GB",
            "least GB",
            "B·T·V",
        ]
        rows = [row(one) for one in found if "error" not in one]
        Console(width=200).print(Table("Compiled for TPUs that are not here", columns, rows, left=2).rich())


if __name__ == "__main__":
    main()
