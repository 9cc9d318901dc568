"""What a shell offers at TAB."""

import os
import subprocess

import pytest

from nextscale.sweeps.terminal import completion


class TestCompletion:
    @pytest.fixture
    def offered(self, command, tmp_path):
        def complete(line):
            env = os.environ | {"_NEXTSCALE_COMPLETE": "complete_bash", "COMP_WORDS": line}
            env["COMP_CWORD"] = str(len(line.split(" ")) - 1)
            ended = subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=tmp_path)
            return ended.stdout.split()

        return complete

    @pytest.mark.parametrize(
        "line, offers",
        [
            ("nextscale fro", ["frontier"]),
            ("nextscale run chin", ["chinchilla"]),
            ("nextscale specs kap", ["kaplan"]),
            ("nextscale fit runs.csv --law far", ["farseer"]),
            ("nextscale fit runs.csv --bootstrap str", ["stratified"]),
            ("nextscale launch slu", ["slurm.sh"]),
            ("nextscale ledger sc", ["score"]),
        ],
    )
    def test_words_are_offered(self, offered, line, offers):
        assert offered(line) == offers

    def test_specs_of_ones_own_too(self, offered, tmp_path):
        (tmp_path / "mine.yaml").touch()
        assert offered("nextscale plan mi") == ["mine.yaml"]
        assert {"mine.yaml", "quickstart"} <= set(offered("nextscale plan "))

    def test_accelerators(self):
        assert completion.accelerators("h1") == ["h100"]

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_shell_is_given_its_script(self, nextscale, shell):
        # Which shell it is typer asks of the process above; this says it in its place.
        env = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        ended = nextscale("--show-completion", shell, env=env)
        assert ended.returncode == 0
        assert "_NEXTSCALE_COMPLETE" in ended.stdout
