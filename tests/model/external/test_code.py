"""Code of one's own is known by what its files hold: its own and those that it imports, wherever they lie."""

import pytest

from nextscale.model.config.code import Code
from nextscale.model.errors import InputError
from nextscale.model.external.code import check_unchanged, files_of, load, resolve

FILES = {
    "lab/__init__.py": "",
    "lab/nets.py": "import json\nfrom . import parts\nfrom lab.deep.norms import norm\n\n\n"
    "def make():\n    import later\n    return parts.SIZE, norm, later.x\n",
    "lab/parts.py": "SIZE = 1\n",
    "lab/deep/__init__.py": "",
    "lab/deep/norms.py": "norm = 2\n",
    "later.py": "x = 3\n",
    "unused.py": "",
    "site-packages/numpy.py": "",
}
TARGET = "lab.nets:make"


@pytest.fixture
def folder_of(tmp_path):
    def write(name="here", **changes):
        for path, text in (FILES | {key.replace("__", "/") + ".py": text for key, text in changes.items()}).items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return Code(folder=str(tmp_path / name))

    return write


def of(code):
    return resolve(code, [TARGET]).fingerprints[TARGET]


def test_its_files_are_its_own_and_those_that_it_imports_beside_it(folder_of):
    found = files_of(TARGET, folder_of().folder)
    assert set(found) == {"lab", "lab.nets", "lab.parts", "lab.deep", "lab.deep.norms", "later"}


def test_folders_that_hold_no_init_are_packages_too(tmp_path):
    (tmp_path / "lab" / "nets").mkdir(parents=True)
    (tmp_path / "lab" / "nets" / "mixers.py").write_text("from lab.nets import parts\n")
    (tmp_path / "lab" / "nets" / "parts.py").write_text("")
    assert set(files_of("lab.nets.mixers:make", str(tmp_path))) == {"lab.nets.mixers", "lab.nets.parts"}


@pytest.mark.parametrize("changed", ["lab__nets", "lab__parts", "lab__deep__norms", "later"])
def test_it_is_another_when_a_file_of_it_changes_and_the_same_elsewhere(folder_of, changed):
    before = of(folder_of())
    assert of(folder_of("elsewhere")) == of(folder_of("here", unused="y = 4\n")) == before
    assert of(folder_of("here", **{changed: FILES[changed.replace("__", "/") + ".py"] + "\n"})) != before


def test_a_source_that_is_named_is_part_of_it(folder_of, tmp_path):
    code = folder_of().model_copy(update={"source": ["weights.txt"]})
    with pytest.raises(InputError, match=r"^code\.source\.0: .*weights\.txt cannot be read"):
        of(code)
    (tmp_path / "here" / "weights.txt").write_text("1")
    one = of(code)
    (tmp_path / "here" / "weights.txt").write_text("2")
    assert of(code) != one


def test_files_that_changed_since_they_were_planned_on_are_told(folder_of):
    code = resolve(folder_of(), [TARGET])
    check_unchanged(code)
    folder_of(later="x = 5\n")
    with pytest.raises(InputError, match=r"the files of lab\.nets:make have changed on .* since the run was planned"):
        check_unchanged(code)
    with pytest.raises(InputError, match=r"the files of lab\.nets:make are not what they were"):
        resolve(code, [TARGET])
    with pytest.raises(InputError, match=r"^code\.folder: /nowhere is not on .*; keep spec and code where all workers"):
        check_unchanged(code.model_copy(update={"folder": "/nowhere"}))


def test_what_is_loaded_is_what_the_files_hold_now(folder_of):
    for size, name in ((1, "here"), (7, "here"), (1, "elsewhere"), (9, "here")):
        code = resolve(folder_of(name, lab__parts=f"SIZE = {size}\n"), [TARGET])
        assert load(code.function(TARGET), "model.target")() == (size, 2, 3)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lap.nets:make", r"^code: lap\.nets:make: there is no module lap\.nets in .*here or installed; "),
        ("lab.nets:mak", r"^code: lab\.nets:mak: there is no mak in lab\.nets; did you mean make\?"),
        ("lab.net:make", r"^code: lab\.net:make: there is no module lab\.net in"),
    ],
)
def test_what_is_not_there_is_told(folder_of, target, message):
    with pytest.raises(InputError, match=message):
        resolve(folder_of(), [target])


def test_what_is_no_python_is_told_with_its_line(folder_of):
    with pytest.raises(InputError, match=r"lab/parts\.py:2 is no Python: "):
        of(folder_of(lab__parts="x = 1\ny = = 2\n"))
