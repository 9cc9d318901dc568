"""What `nextscale.fit` names is there, documented, and imported only when asked for."""

import inspect
import pkgutil
import subprocess
import sys

import pytest

import nextscale.fit


@pytest.mark.parametrize("name", nextscale.fit.__all__)
def test_every_name_resolves_and_is_documented(name):
    thing = getattr(nextscale.fit, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        # A dataclass without a docstring of its own is given its signature for one.
        assert thing.__doc__ and not thing.__doc__.startswith(f"{name}(")


def test_what_is_imported_lazily_is_what_is_listed():
    assert sorted(nextscale.fit._HOME_OF) == sorted(nextscale.fit.__all__)


def test_no_name_is_that_of_a_room():
    """`nextscale.fit.plot` is a package; a function of that name would hide it, or be hidden."""
    rooms = {module.name for module in pkgutil.iter_modules(nextscale.fit.__path__)}
    assert not rooms & {*nextscale.fit.__all__}


def test_nothing_heavy_is_imported_on_the_way():
    program = "import sys, nextscale.fit; print({'pandas', 'scipy', 'jax', 'matplotlib'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match=r"'nextscale\.fit' has no attribute 'nothing'"):
        nextscale.fit.nothing  # noqa: B018
