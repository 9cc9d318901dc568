import dataclasses
import shutil

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

TINY = """\
name: tiny
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training:
  batch_tokens: 128
  schedule: linear
  lr: {rule: horizon, base: 0.02, floor: 0.008}
design:
  kind: isoflop
  flops: [1.0e+9, 2e9, 4e9]
  widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]
holdout: {flops: 1.2e10, widths: [12, 16, 24]}
evaluation: {tokens: 8192}
"""

CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => colour.slice(0, 3).reduce((sum, c, i) => {
    c /= 255; c = c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; return sum + [0.2126, 0.7152, 0.0722][i] * c;
  }, 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let worst = [21, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("script, style, svg") || !element.offsetParent) continue;
    const pair = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 80)];
  }
  return worst;
}
"""


SWEPT = """\
name: swept
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: wsd, warmup_tokens: 2560, lr: 0.01}
design: {kind: wsd, widths: [8, 12], tokens: [1.0e+4, 2e4, 4e4, 8e4]}
holdout: {flops: 1.2e+9, widths: [8, 12]}
evaluation: {tokens: 512, points: 4, sets: {other: OTHER}}
forecast: {resamples: 100}
"""


@pytest.fixture(scope="session")
def tiny_spec():
    """The text of a spec that trains in seconds."""
    return TINY


@pytest.fixture
def spec_file(tmp_path):
    """A spec that trains in seconds: `spec_file()` as it is, `spec_file({"old": "new"})` changed."""

    def write(changes=None, name="spec.yaml"):
        text = TINY
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def called(capsys):
    """Runs the command in this process: `called("plan", path)` is its exit code, stdout and stderr."""
    from nextscale.sweeps.commands.app import main

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def in_process_backend(beside):
    """What does the jobs of a sweep in this process, one after another."""
    return beside("in_process").InProcessBackend


@pytest.fixture(scope="session")
def swept(made_once, beside):
    """A small sweep of trunks and branches that was run from its spec to its scored forecast: spec and folder. To be
    copied by whoever changes it."""
    from nextscale.model.config.data import TokenData
    from nextscale.model.data.sources import resolve

    def make(folder):
        path = folder.parent / "other.bin"  # stays where it is when the folder is renamed
        np.random.default_rng(9).integers(0, 16, 20_000).astype(np.uint16).tofile(path)
        other = resolve(TokenData(source="tokens", path=str(path), vocab=16, bytes_per_token=2))
        (folder / "spec.yaml").write_text(SWEPT.replace("OTHER", other.model_dump_json(exclude_none=True)))
        summary = beside("in_process").run_alone(folder / "spec.yaml", folder / "out")
        assert summary["runs"] == {"done": 10, "reused": 0, "failed": 0}

    folder = made_once("swept", make)
    return folder / "spec.yaml", folder / "out"


@dataclasses.dataclass
class Seen:
    """What a page did that it should not: errors of its script or its console, and requests to anywhere."""

    errors: list[str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="session")
def chromium():
    """The browser; what needs it is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a page: `opened(address_or_file, color_scheme="dark", viewport=...)` is the page; `page.seen` tells what it
    did. A page that is its own file has no business with any address but its own."""
    contexts = []

    def open_page(address, **options):
        url = address if "://" in str(address) else address.resolve().as_uri()
        context = chromium.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.seen = Seen()
        page.on("pageerror", lambda error: page.seen.errors.append(str(error)))
        page.on("console", lambda said: page.seen.errors.append(said.text) if said.type != "log" else None)
        page.on("request", lambda request: page.seen.requests.append(request.url) if request.url != url else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def contrast():
    """A script that tells the lowest contrast of text on a page (WCAG 2.2), and where."""
    return CONTRAST
