import pytest

LONGER = {
    "flops: [1.0e+9, 2e9, 4e9]": "flops: [1.0e+9, 4e9, 8e9]",
    "widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": "widths: [[12, 16, 20, 24], [12, 16, 20, 24], "
    "[16, 20, 24, 32]]",
    "flops: 1.2e10, widths: [12, 16, 24]": "flops: 3e10, widths: [20, 24, 32]",
}


@pytest.fixture(scope="session")
def undisturbed(made_once, tiny_spec, beside):
    """A sweep whose runs take seconds each, trained in this process, one after another: its spec and its folder."""

    def make(folder):
        text = tiny_spec
        for old, new in LONGER.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "spec.yaml").write_text(f"{text}forecast: {{resamples: 100}}\n")
        beside("in_process").run_alone(folder / "spec.yaml", folder / "out", page=False)

    folder = made_once("undisturbed", make)
    return folder / "spec.yaml", folder / "out"
