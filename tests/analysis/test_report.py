"""The report: one page that needs nothing else and believes nothing it is given."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest

from analysis import compare, report
from analysis.reading import attach
from analysis.reading.load import load_runs
from cvae.errors import RunNotFound
from cvae.tracking.store import Store
from tests import children
from tests.analysis.test_compare import analysis, sweep
from tests.made import GIT, made_run
from tests.test_commands import ROOT

HOSTILE = '<script>window.pwned=1</script>"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """A page's elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on three settings by two seeds."""
    runs = tmp_path_factory.mktemp("runs")
    sweep(runs, 2)
    result = compare.compare(load_runs(runs=runs))
    report.write(result, runs / "report", "make report SWEEP=x")
    return runs / "report"


def test_the_page_holds_everything_and_asks_for_nothing(written: Path) -> None:
    html = (written / "report.html").read_text()
    page = Page(html)
    sources = [found["src"] for tag, found in page.elements if tag == "img"]
    assert len(sources) == 8  # three of them beside each other
    for source in sources:
        assert source is not None
        kind, _, data = source.partition(";base64,")
        assert kind in ("data:image/png", "data:image/svg+xml")
        base64.b64decode(data, validate=True)
    assert not page.tags() & {"script", "link", "iframe", "object", "form", "a"}
    assert not re.search(r"url\(|@import|https?://", re.sub('src="[^"]+"', "", html))
    assert "default-src 'none'" in html


def test_the_page_says_what_was_asked_found_and_run(written: Path) -> None:
    text = Page((written / "report.html").read_text()).text
    assert "Question: what does it do?" in text
    assert "beta = 1: 99.75 ± 1.06 nats per image (n = 2), the best." in text
    assert GIT["commit"] in text
    assert "torch 2.14.1" in text
    assert "Test CPU" in text
    assert "72 s in all" in text
    assert "make experiment CONFIG=experiments/quickstart.yaml" in text
    assert "make report SWEEP=x" in text


def test_nothing_that_a_run_says_becomes_part_of_the_page(tmp_path: Path) -> None:
    folder = made_run(tmp_path, 100.0, data__root=HOSTILE, tracking__experiment=HOSTILE)
    made_run(tmp_path, 101.0, data__root="other", tracking__experiment="other")
    folder.update(
        header=f"Question: {HOSTILE}\n{HOSTILE}",
        command=f"make {HOSTILE} ``` {HOSTILE}",
        git={"commit": HOSTILE},
        facts={"device": HOSTILE, "processor": HOSTILE, "version.torch": HOSTILE},
        data={"digest": HOSTILE},
        reason=HOSTILE,
    )
    folder.path.rename(tmp_path / HOSTILE.replace("/", "+"))
    result = compare.compare(load_runs(ids=["test"], runs=tmp_path))
    report.write(result, tmp_path / "report", HOSTILE)
    html = (tmp_path / "report" / "report.html").read_text()
    page = Page(html)
    assert "script" not in page.tags()
    assert not [found for _, found in page.elements if "onerror" in found]
    assert page.text.count("window.pwned") >= 8  # it is there, as text


def test_ten_lines_make_a_report_of_ones_own(tmp_path: Path) -> None:
    for kl in (5.0, 7.0):
        made_run(tmp_path / "runs", 100, kl=kl, objective__beta=kl)
    script = ROOT / "analysis" / "examples" / "own_report.py"
    code = script.read_text().partition("def report")[2].partition("if __name__")[0]
    assert len([line for line in code.splitlines()[1:] if line]) <= 10
    done = children.python("-m", "analysis.examples.own_report", "cvae", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "reports" / "own" / "page.md").read_text()
    assert "beta = 5: 5.00 nats per image (one run), the best." in page
    for name in re.findall(r"\((\w+\.png)\)", page):
        assert (tmp_path / "reports" / "own" / name).exists()
    assert page.count(".png)") == 3


def test_with_attach_a_report_goes_where_its_runs_are(
    published: Path, tmp_path: Path
) -> None:
    """To the sweep's run, to the one run, or to a page of the experiment."""
    store = Store(published)
    home = json.loads((published / "sweeps/beta/tracking.json").read_text())["run_id"]
    words = ["--sweep", "beta", "--runs", str(published)]
    done = analysis("report", *words, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not store.client.list_artifacts(home, "report")
    done = analysis("report", *words, "--out", str(tmp_path), "--attach")
    assert f"in MLflow: run {home}, artifacts report/" in done.stdout
    files = store.client.list_artifacts(home, "report")
    names = {Path(file.path).name for file in files}
    assert names == {"report.html", "runs.csv", "statistics.csv"}
    note = store.client.get_run(home).data.tags["mlflow.note.content"]
    assert note.count(f"/runs/{home}/artifacts/report/report.html") == 1

    page = tmp_path / "report.html"
    page.write_text("<p>new</p>")
    every = load_runs(experiment="tests", runs=published)
    one = load_runs(ids=["123"], runs=published)
    said = attach.attach(one, [page], "report")
    assert said == f"in MLflow: run {one.rows[0].run_id}, artifacts report/"
    said = attach.attach(every, [page], "report")
    assert said == attach.attach(every, [page], "report")
    (run_id,) = re.findall(r"run (\w{32})", said)
    assert store.artifact(run_id, "report/report.html") == b"<p>new</p>"
    lost = replace(one, rows=(replace(one.rows[0], run_id=None),))
    with pytest.raises(RunNotFound, match="make sync RUN=123"):
        attach.attach(lost, [page], "report")


NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


def test_pictures_are_the_same_whatever_matplotlib_is_configured_to(
    tmp_path: Path,
) -> None:
    """A notebook's backend, a matplotlibrc of one's own, a style set in the process."""
    sweep(tmp_path / "runs", 2)
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: serif\nfont.size: 20\nsavefig.dpi: 30\n"
        "axes.prop_cycle: cycler('color', ['r'])\nimage.cmap: magma\n"
    )
    words = ["--experiment", "cvae", "--runs", str(tmp_path / "runs")]
    words += ["--out", str(tmp_path / "theirs"), "--formats", "svg,pdf"]
    done = children.python(
        *("-W", "error", "-m", "cvae", "compare", *words),
        env=children.environment(**NOTEBOOK, MATPLOTLIBRC=str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    result = compare.compare(load_runs(experiment="cvae", runs=tmp_path / "runs"))
    formats = ("png", "svg", "pdf")
    compare.write(result, tmp_path / "plain", formats)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        compare.write(result, tmp_path / "style", formats)
        assert matplotlib.rcParams["font.size"] == 30
    for file in (tmp_path / "plain").iterdir():
        for name in ("theirs", "style"):
            assert file.read_bytes() == (tmp_path / name / file.name).read_bytes(), file
