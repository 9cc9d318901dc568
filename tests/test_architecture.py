"""The house: rooms on floors, imports that point down, files and functions that can be read in one go.

The floors are those of docs/architecture.md.
"""

import ast
import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "fit": "errors jsonable conventions intervals | table | laws | estimate | curves tuning | optimum | trust "
    "| tasks plot",
    "model": "errors | config | accounting rules | record | storage | data external meter | network | training "
    "| trained ahead | __main__",
    "cluster": "hardware | controller | ray",
    "sweeps": "errors | show | spec | ledger | design | store | budget | loggers study | forecasts | findings | plan "
    "| page | report | watch | board run | terminal | commands.analysis | commands.curves commands.models "
    "| commands",
}
"""The rooms of each package, from the ground up; those between two bars stand side by side and know nothing of each
other. A room is a folder, or a file at the root of its package."""
BELOW = {"fit": set(), "model": set(), "cluster": {"model"}, "sweeps": {"fit", "model", "cluster"}}
"""The packages that one may import."""
UPWARD = {("fit.estimate.fit", "fit.optimum.frontier"), ("fit.estimate.fit", "fit.plot.laws")}
"""`Fit.frontier` and `Fit.plot`, which one looks for on a fit: the only arrows that point up, and lazy."""

SOURCES = [file for package in FLOORS for file in sorted((ROOT / package).rglob("*.py"))]
LEVEL = {
    f"{package}.{room}": level
    for package, floors in FLOORS.items()
    for level, floor in enumerate(floors.split("|"))
    for room in floor.split()
}


def name_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in SOURCES}


def room_of(module):
    """The longest room that the module lies in; a package's own `__init__` is its face, and in none."""
    parts = module.split(".")
    names = (".".join(parts[:k]) for k in range(len(parts), 0, -1))
    return next((name for name in names if name in LEVEL), None)


def imported(file):
    """Everything that a file imports, at its head, lazily or for types alone: names and the lines they stand in."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("nextscale.") in MODULES
                yield (inner if is_module else node.module, node.lineno)


def arrows():
    """(module, module that it imports, where) of all imports within nextscale."""
    for module, file in MODULES.items():
        for name, line in imported(file):
            if name.startswith("nextscale."):
                yield module, name.removeprefix("nextscale."), f"{file.relative_to(ROOT)}:{line}"


def test_every_file_stands_in_a_room():
    faces = set(FLOORS)
    homeless = [module for module in MODULES if module not in faces and room_of(module) is None]
    assert not homeless, f"on no floor; add the room to FLOORS and to docs/architecture.md: {homeless}"
    empty = [room for room in LEVEL if not any(room_of(module) == room for module in MODULES)]
    assert not empty, f"on a floor, but there is no such room: {empty}"


def test_no_arrow_points_up():
    wrong = []
    for module, target, where in arrows():
        package, other = module.split(".")[0], target.split(".")[0]
        here, there = room_of(module), room_of(target)
        if package != other:
            ok = other in BELOW[package]
        elif module == package or here == there:  # the face of a package shows all rooms; a room knows itself
            ok = True
        else:
            ok = (there is not None and LEVEL[there] < LEVEL[here]) or (module, target) in UPWARD
        if not ok:
            wrong.append(f"{where}: {module} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_exceptions_are_still_needed_and_lazy():
    for module, target in UPWARD:
        tree = ast.parse(MODULES[module].read_text())
        heads = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert all(node.module != f"nextscale.{target}" for node in heads)
        assert any((module, target) == arrow[:2] for arrow in arrows()), f"{module} -> {target} is gone: take it out"


def test_no_circle_of_imports_at_the_head_of_files():
    """What is imported when a file is: a circle there fails or hangs on who comes first."""
    graph = collections.defaultdict(set)
    for module, file in MODULES.items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nextscale."):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}".removeprefix("nextscale.")
                    graph[module].add(inner if inner in MODULES else node.module.removeprefix("nextscale."))
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for target in graph[module]:
            visit(target)
        done.add(path.pop())

    for module in MODULES:
        visit(module)


def test_ray_is_known_in_one_room():
    knows = {module for module, file in MODULES.items() for name, _ in imported(file) if name.split(".")[0] == "ray"}
    assert knows
    assert {room_of(module) for module in knows} == {"cluster.ray"}


def test_folders_and_files_and_functions_can_be_taken_in():
    too_much = []
    for folder, files in collections.Counter(file.parent for file in SOURCES).items():
        if files > 15:
            too_much.append(f"{folder.relative_to(ROOT)}/: {files} files side by side")
    for file in SOURCES:
        text = file.read_text()
        if (lines := text.count("\n")) > 400:
            too_much.append(f"{file.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (length := node.end_lineno - node.lineno + 1) > 80:
                too_much.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not too_much, "\n".join(too_much)


def test_every_file_says_what_it_is_for():
    mute = [str(file.relative_to(ROOT)) for file in SOURCES if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not mute, mute


def test_every_room_is_a_package_and_has_its_tests():
    for room in LEVEL:
        folder = ROOT / room.replace(".", "/")
        if not folder.is_dir():
            continue
        assert (folder / "__init__.py").is_file(), f"{room} has no __init__.py: a wheel would leave it out"
        mirrored = ROOT / "tests" / folder.relative_to(ROOT)
        assert [*mirrored.rglob("test_*.py")], f"{mirrored.relative_to(ROOT)} has no test of {room}"


def test_the_plan_of_the_house_names_every_room():
    plan = (ROOT / "docs" / "architecture.md").read_text()
    missing = [room for room in LEVEL if not re.search(rf"\b{room.split('.')[-1]}(/|\.py)", plan)]
    assert not missing, missing


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "quickstart", "--no-expect"], ["status", "."]])
def test_nothing_heavy_is_imported_for_what_should_be_instant(arguments, tmp_path):
    program = (
        "import sys\nfrom nextscale.sweeps.commands.app import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print(*sorted({'jax', 'ray', 'flax', 'orbax'} & {*sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stderr
    assert found.splitlines()[-1] == "", found


@pytest.mark.slow
def test_a_wheel_has_every_file(tmp_path):
    """By pip from the checkout, as a user installs it."""
    import zipfile

    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name.removeprefix("nextscale/") for name in zipfile.ZipFile(wheel).namelist()}
    listed = subprocess.check_output(["git", "-C", ROOT, "ls-files", *FLOORS], text=True).split()
    assert {*listed} <= packed, {*listed} - packed
