"""The pages hold what they say: links lead somewhere, commands exist, and what a page shows is what comes out.

A console block is run as it stands, page by page in a folder of its own, and what follows a command is held against
what it prints. Comments before a block, which no reader sees, say what is different about it:

    <!-- not run: why -->                   the block is only read
    <!-- not run, nextscale run: why -->    nor are those of its commands that begin so
    <!-- before: commands -->               what is there, or was done, before the reader begins
    <!-- saved as: file -->                 of any block: the reader is told to save it
    <!-- prints: command -->                of a block that shows output alone, where it comes from
    <!-- figures within 20%: why -->        figures may differ by so much, and differences (+0.5%) by anything

A page has what it names: files of the published data, `out/quickstart`, a `my-sweep.yaml` as `nextscale init` writes
it. Its folder is told as /home/me. A line of `...` stands for any lines; blocks of ```text are drawings.
"""

import ast
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from nextscale.fit.laws.catalogue import LAWS
from nextscale.sweeps.commands.app import app

ROOT = Path(__file__).resolve().parents[1]
HOME = "/home/me"
LONGEST = 300
"""Seconds that a command may take."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"((?:^<!--(?:(?!-->).)*-->\n\s*)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GAP = ("...", "…")
_FRAME = str.maketrans("", "", "┏━┳┓┃┡╇┩│└─┴┘")
_NUMBER = re.compile(r"(?<![A-Za-z_])([-+]?)(\d+(?:\.\d+)?)(?:e([-+]?\d+)|([kMBT])(?![A-Za-z]))?")
_UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_MACHINES = 0.03
"""By which share the ends of intervals and the like differ from one kind of processor to another."""

COMMANDS = typer.main.get_command(app)

RARELY = {"beyond-training", "own-trainer", "plan", "trained-models"}
"""Pages whose commands take a minute and more, none on the quickstart: CI runs them in the time that is left."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and what the comments before it say, by their first words."""

    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def is_tried(self):
        return "saved as" in self.marks or (self.language in ("", "console") and "not run" not in self.marks)

    @property
    def tolerance(self):
        """The share by which figures may differ."""
        found = next((mark for mark in self.marks if mark.startswith("figures within ")), None)
        return float(found.split()[-1].rstrip("%")) / 100 if found else _MACHINES

    @property
    def left_out(self):
        """How commands begin that are not run."""
        return tuple(mark.removeprefix("not run, ") for mark in self.marks if mark.startswith("not run, "))

    def steps(self):
        """Commands, each with the lines that follow it."""
        found = [(self.marks["prints"], [])] if "prints" in self.marks else []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and found[-1][0].endswith("\\"):
                found[-1] = (found[-1][0][:-1] + line, [])
            elif found:
                found[-1][1].append(line)
        return found


def blocks(page):
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        comments, language, body = found.groups()
        said = [comment.partition(":") for comment in re.findall(r"<!--\s*(.*?)\s*-->", comments, re.DOTALL)]
        line = text.count("\n", 0, found.start(2)) + 1
        yield Block(line, language, body, {name: rest.strip() for name, _, rest in said})


def prose(page):
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def agree(shown, printed, tolerance=0.0):
    """Whether what a page shows is what was printed, line breaks and frames aside.

    Returns:
        None, or the first words that differ.
    """
    parts, words = [[]], _words(printed)
    for line in shown:
        if line.strip() in _GAP:
            parts.append([])
        else:
            parts[-1] += _words(line)
    at = 0
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        places = [at] if i == 0 else [len(words) - len(part)] if last and part else range(at, len(words) + 1)
        found = next((at for at in places if at >= 0 and not _apart(part, words[at:], tolerance)), None)
        if found is None:
            return _apart(part, words[places[0] :], tolerance)
        at = found + len(part)
    return None if len(parts) > 1 or at == len(words) else f"after it comes: {' '.join(words[at : at + 12])}"


def _words(text):
    return text.translate(_FRAME).split()


def _apart(part, words, tolerance):
    for i, word in enumerate(part):
        if i >= len(words) or not _alike(word, words[i], tolerance):
            return f"shown: {' '.join(part[max(0, i - 4) : i + 8])}\nprinted: {' '.join(words[max(0, i - 4) : i + 8])}"
    return None


def _alike(a, b, tolerance):
    if a == b or not tolerance:
        return a == b
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return False
    pairs = zip(_NUMBER.finditer(a), _NUMBER.finditer(b), strict=True)
    return all(_near(x, y, tolerance) for x, y in pairs)


def _near(shown, printed, tolerance):
    """Whether figures are alike but for a share, or for one in the last of their decimals. Those with a sign are
    differences: of runs that end otherwise, any."""
    if shown[1]:
        return tolerance > _MACHINES or (shown[1] == printed[1] and _near_size(shown, printed, tolerance))
    return _near_size(shown, printed, tolerance)


def _near_size(shown, printed, tolerance):
    decimals = len(shown[2].partition(".")[2])
    last = 1.01 * 10**-decimals * _scale(shown) if decimals else 0.0
    return abs(_size(shown) - _size(printed)) <= max(tolerance * _size(shown), last)


def _size(found):
    return float(found[2]) * _scale(found)


def _scale(found):
    return 10 ** int(found[3] or 0) * _UNITS.get(found[4], 1)


class TestReading:
    def test_words_and_figures(self):
        assert agree(["a ┃ 1.50 │", "…", "end"], "a 1.50\nb\nend\n") is None
        assert agree(["a 1.50"], "a 1.51") is not None
        assert agree(["a 1.50"], "a 1.50 more") is not None
        assert agree(["a", "...", "end"], "a end more") is not None
        assert agree(["[118k, 0.95M] +0.1%"], "[121k, 1M] -0.1%".replace("-", "+"), 0.1) is None
        assert agree(["118k"], "1.2M", 0.1) is not None
        assert agree(["4 runs"], "4 walks", 0.5) is not None
        assert agree(["20 runs"], "21 runs", 0.03) is not None
        assert agree(["-1.30% 0.01"], "-1.31% 0.02", 0.03) is None
        assert agree(["+1.30%"], "-1.30%", 0.03) is not None
        assert agree(["+1.30%"], "+1.50%", 0.03) is not None

    def test_blocks_with_what_is_said_of_them(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("<!-- before: x\ny -->\n<!-- figures within 5%: z -->\n```console\n$ c \\\n  d\n1\n$ e\n```\n")
        (block,) = blocks(page)
        assert block.marks["before"] == "x\ny"
        assert block.tolerance == 0.05
        assert block.steps() == [("c   d", ["1"]), ("e", [])]


@each_page
class TestPages:
    def test_every_block_is_run_or_says_why_not(self, page):
        for block in blocks(page):
            known = re.compile(r"before|prints|saved as|not run(, .+)?|figures within \d+%")
            assert all(map(known.fullmatch, block.marks)), f"{page}:{block.line}: {[*block.marks]}"
            assert all(block.marks.values()), f"{page}:{block.line}: does not say why"
            if block.language in ("", "console") and "not run" not in block.marks:
                assert block.steps(), f"{page}:{block.line}: shows no command, and no comment says where it comes from"
            if block.language == "text":
                assert not re.search(r"^\$ |┏━", block.text, re.MULTILINE), f"{page}:{block.line}: is no drawing"

    def test_links_lead_somewhere(self, page):
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if target.startswith(("https://", "http://")):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page.name}: {target}"

    def test_commands_and_options_exist(self, page):
        for words in mentioned(page):
            said, command = " ".join(words), COMMANDS
            words = words[1:]
            while hasattr(command, "commands") and ("show" in command.commands or words[0] in command.commands):
                # `nextscale ledger OUT` is `nextscale ledger show OUT`.
                name = words.pop(0) if words and words[0] in command.commands else "show"
                command = command.commands[name]
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            absent = {word.partition("=")[0] for word in words if word.startswith("-")} - known - {"--help"}
            assert not absent, f"{page.name}: `{said}`"
            assert not hasattr(command, "commands") or words[0].startswith("-"), f"{page.name}: no `{said}`"

    def test_python_and_yaml_can_be_read(self, page):
        for block in blocks(page):
            if block.language == "yaml":
                assert yaml.safe_load(block.text), f"{page.name}:{block.line}"
            if block.language == "python":
                for node in ast.walk(ast.parse(block.text, f"{page.name}:{block.line}")):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nextscale"):
                        # As it stands, since what a package is asked for may also be a module in it.
                        exec(compile(ast.Module([node], []), f"{page.name}:{block.line}", "exec"), {})


def anchors(page):
    """Of headings, as GitHub names them."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def mentioned(page):
    """The words of every `nextscale ...` that a page shows or speaks of."""
    lines = [step for block in blocks(page) if block.language == "console" for step, _ in block.steps()]
    for line in (*lines, *re.findall(r"`(nextscale [a-z-][^`]*)`", prose(page))):
        lexer = shlex.shlex(" ".join(line.split()), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in (*lexer, ";"):
            if set(word) <= set("|&;<>()"):
                # As in `TOKENS=~/data venv/bin/nextscale plan`.
                at = next((i for i, word in enumerate(words) if not re.match(r"\w+=", word)), 0)
                if words[at:] and Path(words[at]).name == "nextscale" and words[at + 1 :]:
                    yield words[at:]
                words = []
            else:
                words.append(word)


def test_the_page_of_laws_has_them_all_and_no_other():
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "laws.md").read_text().splitlines()]
    told = {row[0].strip("`"): row for row in rows if len(row) == 5 and row[0].startswith("`")}
    assert told.keys() == LAWS.keys()
    for name, law in LAWS.items():
        _, formula, fitted, when, source = told[name]
        assert (formula, source) == (f"`{law.formula}`", law.source)
        assert fitted == ", ".join(f"`{parameter}`" for parameter in law.parameters)
        assert when.endswith(".")


@pytest.fixture(scope="session")
def prepared(made_once, nextscale):
    """The folder with `out/quickstart`, made when the first page asks for it; four minutes, unless
    NEXTSCALE_TEST_QUICKSTART names one that is done."""

    def quickstart(folder):
        if made := os.environ.get("NEXTSCALE_TEST_QUICKSTART"):
            shutil.copytree(made, folder / "out" / "quickstart")
            return
        ended = nextscale("quickstart", "--out", folder / "out" / "quickstart", timeout=900)
        assert ended.returncode == 0, ended.stderr

    return lambda: made_once("docs-quickstart", quickstart)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.soak] * (page.stem in RARELY), id=page.stem) for page in PAGES],
)
def test_what_a_page_shows_is_what_comes_out(page, tmp_path, prepared, nextscale):
    shown = [block for block in blocks(page) if block.is_tried]
    if not shown:
        pytest.skip(f"nothing of {page.name} is run: all its blocks say why")
    text = "\n".join([block.text + "\n".join(block.marks.values()) for block in shown])
    published = ROOT.parent / "shared" / "data"
    for name in set(re.findall(r"[\w-]+\.(?:csv|jsonl)", text)) & PUBLISHED:
        if not published.is_dir():
            pytest.skip(f"published runs are not at hand: there is no {published}")
        shutil.copy(published / name, tmp_path)
    if "out/quickstart" in text:
        shutil.copytree(prepared() / "out", tmp_path / "out")
    if "my-sweep.yaml" in text:
        assert nextscale("init", "my-sweep.yaml", "--yes", cwd=tmp_path).returncode == 0
    shutil.copytree(ROOT / "sweeps" / "specs", tmp_path / "sweeps" / "specs")
    for name in ("benchmarks", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    wrong = []
    for block in shown:
        place = f"{page.name}:{block.line}: "
        code, _, said = run(block.marks.get("before", ":"), tmp_path)
        assert code == 0, f"{place}before it: {said}"
        if "saved as" in block.marks:
            (tmp_path / block.marks["saved as"]).write_text(block.text)
            continue
        for command, lines in block.steps():
            if block.left_out and command.startswith(block.left_out):
                continue
            lines = block.text.splitlines() if "prints" in block.marks else lines
            code, out, err = run(command, tmp_path)
            if code != (2 if lines and lines[0].startswith("nextscale: ") else 0):
                wrong.append(f"{place}$ {command}\nexit code {code}: {err[-600:]}")
            elif "".join(lines).strip() and (apart := agree(lines, out + err, block.tolerance)):
                wrong.append(f"{place}$ {command}\n{apart}")
    assert not wrong, "\n\n".join(wrong)


def run(command, folder):
    # Its home is the folder; what programs keep for themselves stays where it is.
    env = os.environ | {"HOME": str(folder), "XDG_CACHE_HOME": str(Path("~/.cache").expanduser())}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-c", command]
    try:
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=folder, env=env, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"did not end within {LONGEST} s"
    told = (text.replace(str(folder), HOME) for text in (ended.stdout, ended.stderr))
    return ended.returncode, *told


@pytest.mark.slow
def test_the_notebook_runs_and_comes_to_what_it_shows(tmp_path):
    import nbclient
    import nbformat

    written = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    ran = nbformat.from_dict(written)
    nbclient.NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for shown, printed in zip(written.cells, ran.cells, strict=True):
        if shown.cell_type == "code":
            # To the digits that hold on another machine.
            assert agree(printed_in(shown), "\n".join(printed_in(printed)), 2 * _MACHINES) is None, shown.source


def printed_in(cell):
    """The lines of text of a cell's outputs, figures by their size."""
    texts = [
        output.get("text") or output.data["text/plain"] for output in cell.outputs if output.get("name") != "stderr"
    ]
    return "\n".join(texts).splitlines()


PUBLISHED = {
    "chinchilla_epoch.csv",
    "data_constrained_datablations.csv",
    "overtraining_gadre.csv",
    "isoflop_porian_refinedweb.csv",
    "olmo_ladder_c4.csv",
    "scalebench_moe.csv",
}
"""What pages may name of the published runs: a name may be that of a reader's own file, too."""
