"""By which commit a page was written: that of a checkout which has the file, and of no repository around it."""

import subprocess

import pytest

from nextscale.sweeps.page import provenance


@pytest.fixture
def git(tmp_path):
    def run(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", tmp_path, *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet")
    return run


def test_of_a_checkout_its_commit_and_whether_it_was_changed(git, tmp_path):
    file = tmp_path / "code.py"
    file.write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "one")
    git("tag", "v9")
    commit = git("rev-parse", "HEAD")
    assert provenance._checked_out(file) == commit[:12]
    file.write_text("2")
    assert provenance._checked_out(file) == f"{commit[:12]} with changes"


def test_an_installation_inside_another_repository_is_not_of_its_commit(git, tmp_path):
    git("commit", "--quiet", "--allow-empty", "-m", "theirs")
    installed = tmp_path / ".venv" / "code.py"
    installed.parent.mkdir()
    installed.write_text("1")
    assert provenance._checked_out(installed) is None
    assert provenance._checked_out(tmp_path / "nowhere" / "code.py") is None


def test_it_names_the_version():
    assert provenance.written_by().startswith("nextscale ")
