"""Colours: on a terminal, and nowhere else."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from nextscale.sweeps.show.tables import Screen, Table


class TestColours:
    """SGR 30 to 37 and 90 to 97, or 38;...: colours of the text."""

    COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]")
    SAID = ("main(['--help'])", "warn(['the law misses its own runs'])")

    @pytest.fixture
    def said(self):
        def on(code, terminal, **env):
            inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS")}
            imports = "from nextscale.sweeps.commands.app import main; from nextscale.sweeps.terminal.console import"
            arguments = [sys.executable, "-c", f"{imports} warn; {code}"]
            env = inherited | {"TERM": "xterm-256color"} | env
            if not terminal:
                return subprocess.run(arguments, check=True, capture_output=True, env=env).stdout
            ours, theirs = pty.openpty()
            with subprocess.Popen(arguments, stdout=theirs, env=env) as process:
                os.close(theirs)
                told = b""
                try:
                    while part := os.read(ours, 65536):
                        told += part
                except OSError:  # how Linux says that the other end is closed
                    pass
            os.close(ours)
            assert process.returncode == 0
            return told

        return on

    @pytest.mark.parametrize("code", SAID)
    def test_on_a_terminal_and_nowhere_else(self, said, code):
        assert self.COLOUR.search(said(code, terminal=True))
        assert b"\x1b" not in said(code, terminal=False)

    @pytest.mark.parametrize("code", SAID)
    def test_not_where_NO_COLOR_is_set(self, said, code):
        assert not self.COLOUR.search(said(code, terminal=True, NO_COLOR="1"))

    @pytest.mark.slow
    def test_plain_is_without_colours_and_boxes_also_by_the_environment(self, said):
        for code, env in (("main(['--plain', 'hardware'])", {}), ("main(['hardware'])", {"NEXTSCALE_PLAIN": "1"})):
            told = said(code, terminal=True, **env)
            assert not self.COLOUR.search(told)
            assert b"accelerator: h100;" in told
            assert "┃".encode() not in told


def test_the_name_of_a_function_is_no_emoji():
    screen = Screen(file=io.StringIO(), width=80)
    screen.print("code: nets:M: there is none", markup=False)
    screen.print(Table("of nets:M:", ["model"], [["nets:M: width 8"]]).rich())
    assert screen.file.getvalue().count("nets:M:") == 3
