"""What the command says of itself: commands in order, options that mean the same everywhere, exit codes."""

import json
import re
import subprocess
import sys
import tomllib
import types
import typing
from collections import defaultdict
from pathlib import Path

import pytest
import typer

from nextscale.sweeps.commands.app import COMMANDS_BY_HEADING, app

ROOT = typer.main.get_command(app)

WITHOUT_JSON = {"schema": "prints JSON anyway"}
NEGATABLE = {"--expect"}
"""Flags that are on unless one says --no-."""

MEANS_TWO_THINGS = {
    "--out": "the folder of a sweep; of `report` its file",
    "--flops": "of `compare` another name of --at",
    "--at": "of `trend` a compute, of `forecast` a variable of its law",
    "--sizes": "how many to train; in `family` the N of each member",
    "--loss": "one; in `family` that of each member",
    "--to": "a logger; of `model export` a format",
    "--tokens": "of a run; in `model sample` how many to draw",
    "--served": "tokens; in `family` those of each member",
}


def commands(group=ROOT, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def options():
    """Every option that is shown: its command, its declaration, and the type of one value."""
    for name, command in COMMANDS.items():
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for option in command.params:
            if option.opts[0].startswith("-") and not option.hidden:
                yield name, option, one_of(hints[option.name])


def one_of(hint):
    """`float` of `float`, `float | None` and `list[float] | None`."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
    return typing.get_args(hint)[0] if typing.get_origin(hint) is list else hint


def lines_of(text):
    return [line.strip(" │") for line in text.splitlines()]


class TestOrder:
    def test_each_command_stands_in_it_once(self):
        told = [name for names in COMMANDS_BY_HEADING.values() for name in names]
        assert sorted(told) == sorted(ROOT.commands), "COMMANDS_BY_HEADING says where a command stands"

    def test_help_tells_it_in_order(self, called):
        code, out, _ = called("--help")
        assert code == 0
        found = [line.partition(" ")[0] for line in lines_of(out)]
        places = [found.index(name) for names in COMMANDS_BY_HEADING.values() for name in names]
        assert places == sorted(places)
        assert [heading for heading in COMMANDS_BY_HEADING if f"─ {heading} ─" in out] == list(COMMANDS_BY_HEADING)

    def test_it_goes_from_a_spec_to_a_forecast(self):
        told = [name for names in COMMANDS_BY_HEADING.values() for name in names]
        way = ["init", "plan", "run", "status", "fit", "frontier", "forecast", "report"]
        assert [name for name in told if name in way] == way

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_command_is_told_in_one_sentence(self, name):
        first = COMMANDS[name].help.strip().partition("\n\n")[0]
        assert re.fullmatch(r"[A-Z][^\n]*[.?]", first), first
        assert len(first) <= 120, "in a list of commands it is one thing to read"

    def test_the_version_is_that_of_the_project(self, called):
        project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
        assert called("--version") == (0, f"nextscale {project['version']}\n", "")

    def test_exit_codes_are_told(self, called):
        out = " ".join(called("--help")[1].split())
        assert all(f"{code} " in out.partition("Exit codes: ")[2] for code in (0, 1, 2, 3, 75, 130))


class TestOptions:
    def test_each_says_what_it_is(self):
        for name, command in COMMANDS.items():
            silent = [option.name for option in command.params if not option.help and not option.hidden]
            assert not silent, name

    def test_a_default_in_words_is_seen(self):
        """What stands in brackets is taken for markup, and left out, unless it is escaped."""
        for name, option, _ in options():
            assert "[default:" not in option.help.replace("\\[default:", ""), f"{name} {option.opts[0]}"

    def test_paragraphs_are_broken_by_the_terminal_alone(self):
        for name, command in ROOT.commands.items():
            assert all("\n" not in part for part in command.help.split("\n\n")), name

    def test_one_name_is_one_thing(self):
        uses = defaultdict(lambda: defaultdict(list))
        for name, option, kind in options():
            said = (option.metavar, kind, tuple(option.opts), tuple(option.secondary_opts))
            uses[max(option.opts, key=len)][said].append(name)
        apart = {name: dict(ways) for name, ways in uses.items() if len(ways) > 1 and name not in MEANS_TWO_THINGS}
        assert not apart

    def test_what_may_be_given_again_says_so(self):
        for name, option, _ in options():
            said = f"{option.rich_help_panel} {option.help}"
            assert not option.multiple or "may be given again" in said, f"{name} {option.opts[0]}"

    def test_flags_are_plain(self):
        assert {o.opts[0] for _, o, _ in options() if o.secondary_opts} == NEGATABLE

    def test_all_print_json(self):
        without = {name for name, command in COMMANDS.items() if "json_" not in {p.name for p in command.params}}
        assert without == WITHOUT_JSON.keys()

    def test_json_of_what_only_does_something(self, called, tmp_path, monkeypatch):
        # `init` writes, `stop` asks, `run --detach` leaves a sweep alone.
        spec, out = tmp_path / "mine.yaml", tmp_path / "out"
        monkeypatch.setattr("nextscale.sweeps.run.detach.detach", lambda *_, **__: "process 7")
        told = [
            json.loads(called(*arguments, "--json")[1])
            for arguments in (["init", spec, "--yes"], ["run", spec, "--out", out, "--detach"])
        ]
        assert told[0] == {"spec": str(spec), "schema": str(tmp_path / "nextscale.schema.json")}
        assert (told[1]["at_work_as"], told[1]["out"]) == ("process 7", str(out))
        (out / "runs").mkdir(parents=True, exist_ok=True)
        assert json.loads(called("stop", out, "--json")[1]) == {"asked": False}

    def test_names_are_written_alike(self):
        for name, option, _ in options():
            assert all(re.fullmatch(r"--[a-z]+(-[a-z]+)*|-[a-z]", text) for text in option.opts), name


class TestExitCodes:
    """0 and 2 are in `test_app.py`, 1 in `test_loop.py` and `test_verify.py`, 3 in `test_control.py`."""

    @pytest.mark.parametrize("arguments", [["run", "{spec}", "--out", "{out}"], ["plan", "{spec}"]])
    def test_130_where_it_was_interrupted(self, called, monkeypatch, spec_file, tmp_path, arguments):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("nextscale.sweeps.run.loop.run_study", interrupted)
        monkeypatch.setattr("nextscale.sweeps.plan.plan.plan_sweep", interrupted)
        filled = [a.format(spec=spec_file(), out=tmp_path / "out") for a in arguments]
        code, out, err = called(*filled)
        assert code == 130
        assert "Traceback" not in out + err


def test_the_command_is_called_by_its_name(command):
    ended = subprocess.run([*command, "fit", "--bogus"], check=False, capture_output=True, text=True)
    assert "`nextscale fit --help`" in ended.stderr
    assert sys.argv[0] not in ended.stderr
