"""Deliberate faults: does a test notice each of them?

    python -m tests.faults            all of them, a line each
    python -m tests.faults 3 17       these

Each changes one piece of text in a copy of what is committed and runs the tests that
ought to fail, two copies at a time. The text is looked for in all of cvae and analysis,
so that a file may move; a fault whose text is no longer there, once, is `stale` and
wants mending; so is one whose tests are gone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import children
from tests.children import ROOT

RECORDED = "tests/run/test_recorded.py -k not(make)"
LIKELIHOOD = "tests/test_likelihood.py"
CONTROL = "tests/run/test_recorded.py -k control"
JUDGED = "tests/test_control.py"
FEATURES = "tests/evaluation/test_samples.py"
OBJECTIVE = "tests/test_objective.py"
TRAINING = "tests/test_training.py -k not(shipped)"
MODEL, PRIORS = "tests/test_model.py", "tests/test_priors.py"
DISK = "tests/run/test_nothing_lost.py -k full_disk"
FOLDER = "tests/run/test_folder.py"
FACTS = "tests/run/test_facts.py"
CHECKPOINT = "tests/run/test_checkpoint.py"
LATENTS = "tests/evaluation/test_latents.py -k noise"
MNIST = "tests/test_mnist.py"
FIELDS = "tests/spec/test_fields.py"
VARIANTS = "tests/spec/test_variants.py"
SIGNIFICANCE = "tests/analysis/test_significance.py"
COMPARE = "tests/analysis/test_compare.py"
GRIDS = "tests/test_grids.py"
NOTE = "tests/tracking/test_publish.py -k stays_text"
ARTIFACTS = "tests/tracking/test_logged_model.py -k byte_for_byte"
COMPILER = "tests/fast/test_compiler.py"
SUMMARY = "tests/sweep/test_sweep.py -k summary"
BEST = "tests/sweep/test_sweep.py -k best_setting"
BESIDE = "tests/tracking/test_beside.py -k missed"
COMMANDS = "tests/test_commands.py -k interrupted"
SWEEP = "tests/sweep/test_sweep.py -k nested_under"

# old text, new text, the tests that ought to notice
FAULTS: tuple[tuple[str, str, str], ...] = (
    # what a run records
    ("model, self.data.test\n", "model, self.data.validation\n", RECORDED),
    ("model, self.data.validation\n", "model, self.data.train\n", RECORDED),
    ("beta=beta,\n        samples=spec.", "beta=1.0,\n        samples=spec.", RECORDED),
    ("logs.argmax(1) == images", "logs.argmin(1) == images", RECORDED),
    ("controls[-1].tolist()", "controls[0].tolist()", RECORDED),
    ("data.train.images.float().mean(0)", "data.test.images.float().mean(0)", RECORDED),
    ("BINARIZE_SEED = 20150901", "BINARIZE_SEED = 20150902", RECORDED),
    ("SPLIT_SEED = 20140214", "SPLIT_SEED = 20140215", RECORDED),
    ('f"{seed}/{name}"', 'f"{name}/{seed}"', RECORDED),
    # model, objective, evaluation
    ("1 / math.sqrt(_fan_in", "2 / math.sqrt(_fan_in", MODEL),
    ("reversed(hidden)", "hidden", MODEL),
    ("log_ratio.exp() - 1 - log", "log_ratio.exp() - 1 + log", PRIORS),
    ("torch.exp(0.5 * logvar), noise", "torch.exp(logvar), noise", OBJECTIVE),
    ("logsumexp(values, 0) - math", "logsumexp(values, 0) + math", OBJECTIVE),
    ("beta * step / warmup_steps", "beta * (step + 1) / warmup_steps", OBJECTIVE),
    ("ACTIVE_VARIANCE = 0.01", "ACTIVE_VARIANCE = 0.1", LIKELIHOOD),
    ("cat(means).var(0, correction=0)", "cat(means).var(0)", LIKELIHOOD),
    ("(torch.full_like(y, label) for", "(y for", LIKELIHOOD),
    ("beta * (1 - share)", "beta * (1 + share)", OBJECTIVE),
    ("mu.detach(), posterior[1].detach()", "mu.detach(), posterior[1]", OBJECTIVE),
    ("-0.5 * logvar.sum(-1)", "0.5 * logvar.sum(-1)", PRIORS),
    ("log_det = log_det + s.sum(-1)", "log_det = log_det - s.sum(-1)", PRIORS),
    # training
    ("0.15 * total", "0.25 * total", TRAINING),
    ("x = self._drawn(images) if self.noisy else target", "x = target", TRAINING),
    ("if decoupled else 0.0", "if not decoupled else 0.0", TRAINING),
    ("self.ema ** self", "self.ema * self", TRAINING),
    # data and spec
    ("part.images > 127", "part.images > 128", MNIST),
    ("u >= 1 - probability / 2", "u >= 1 - probability", MNIST),
    ("hexdigest()[:8]", "hexdigest()[1:9]", FIELDS),
    ("sort_keys=True, separators", "sort_keys=False, separators", FIELDS),
    ("list(range(value))", "list(range(1, value + 1))", VARIANTS),
    # files, locks, checkpoints
    ("os.fsync(folder)", "os.stat(folder)", CHECKPOINT),
    ("os.fsync(file.fileno())\n            if", "pass\n            if", CHECKPOINT),
    ('facts["device"] != here', 'facts["device"] == "tpu"', CHECKPOINT),
    ("if actual != expected:", "if False:", CHECKPOINT),
    ("file.truncate(file.read()", "abs(file.read()", FOLDER),
    # samples and pictures
    ("torch.randn(count, loaded.", "torch.rand(count, loaded.", GRIDS),
    ("temperature * noise)", "temperature**2 * noise)", GRIDS),
    (".repeat_interleave(columns)", ".repeat(columns)", GRIDS),
    # tracking, analysis
    ('"records.jsonl", "run.json", "git', '"run.json", "git', ARTIFACTS),
    ("html.escape(text, quote=False)", "text", NOTE),
    ("sample.std(ddof=1)", "sample.std(ddof=0)", SIGNIFICANCE),
    ("equal_var=False", "equal_var=True", SIGNIFICANCE),
    # what a run records, once more
    ("corrupt=spec.data.corrupt,\n    )", "corrupt=0.0,\n    )", RECORDED),
    ("asked = spec.evaluation.importance_samples", "asked = 0", RECORDED),
    ("self._control(validation)", "self._control(self.data.test)", CONTROL),
    ("self._control(test)", "self._control(self.data.validation)", CONTROL),
    ('stream(0, "control")', 'stream(1, "control")', CONTROL),
    # training and going on
    ('generator.set_state(parts["stream"][name])', "pass", TRAINING),
    ('tensor.copy_(parts["adam"][name])', "pass", TRAINING),
    ("path.replace(keep)", "pass", CHECKPOINT),
    ("flush()\n            os.fsync(file.fileno())\n\n", "flush()\n\n", CHECKPOINT),
    ("(newest, previous)", "(newest,)", DISK),
    ("data.digest) != data.digest", "data.digest) is None", FACTS),
    # samples and pictures
    ("temperature * noise)", "temperature * noise[:1].expand_as(noise))", GRIDS),
    ("u.repeat(rows, 1)", "u.repeat_interleave(rows, 0)", GRIDS),
    ("model.encode(seen", "model.encode(clean", GRIDS),
    ("(named == asked)", "(named != asked)", JUDGED),
    ("half:], u[:half]", "half:], u[half:]", LATENTS),
    ("reach = NEIGHBOURS + 1", "reach = NEIGHBOURS", FEATURES),
    # tracking
    ('"git.diff", "model', '"model', ARTIFACTS),
    (', "model.safetensors")', ")", ARTIFACTS),
    ('("sweep.yaml", "table.csv")', '("sweep.yaml",)', SWEEP),
    ('int(1000 * (now["ended"]', 'int((now["ended"]', BESIDE),
    # sweeps, compiled steps, axes
    ('if row["status"] == "FINISHED":', "if True:", SUMMARY),
    ('key = f"val/{HEADLINE}"', 'key = f"test/{HEADLINE}"', BEST),
    ("not found.st_mode & 0o022", "not found.st_mode & 0o002", COMPILER),
    ("found.st_uid in (0, os.geteuid())", "found.st_uid >= 0", COMPILER),
    ("digest() == data[-32:]", "digest() != data[-31:]", COMPILER),
    ('os.environ.get("CC", "")', '""', COMPILER),
    ('f"{part}/kl", f"{part}/recon"', 'f"{part}/recon", f"{part}/kl"', COMPARE),
    (
        "some, generator, corrupt=request.corrupt, size=size",
        "some, generator, size=size",
        "tests/evaluation/test_estimator.py -k noisy",
    ),
    ("        return 128 + int", "        return 127 + int", COMMANDS),
)


def place_of(root: Path, old: str) -> Path | None:
    """The only file with the only occurrence of a text."""
    files = [f for room in ("cvae", "analysis") for f in (root / room).rglob("*.py")]
    counts = {file: file.read_text().count(old) for file in files}
    places = [file for file, count in counts.items() if count]
    return places[0] if sum(counts.values()) == 1 else None


def verdicts(root: Path, tests: str, numbers: list[int]) -> dict[int, str]:
    """The line of each fault that these tests ought to notice."""
    lines = {}
    passing = (ROOT / tests.split()[0]).exists() and _passes(root, tests)
    for number in numbers:
        old, new, _ = FAULTS[number - 1]
        file = place_of(root, old)
        verdict = "stale" if passing else "its tests fail without it, or are gone"
        if file and passing:
            whole = file.read_text()
            file.write_text(whole.replace(old, new))
            verdict = "SURVIVED" if _passes(root, tests) else "caught"
            file.write_text(whole)
        place = file.relative_to(root) if file else "?"
        change = f"`{old}` → `{new}`".replace("\n", " ")
        lines[number] = f"| {number} | {verdict} | {place} | {change} |"
        print(lines[number], flush=True)
    return lines


def _passes(root: Path, tests: str) -> bool:
    environment = children.environment(PYTHONPATH=str(root))
    words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    return children.python(*words, cwd=root, env=environment).returncode == 0


def main(words: list[str]) -> int:
    numbers = [int(word) for word in words] or list(range(1, len(FAULTS) + 1))
    groups: dict[str, list[int]] = {}
    for number in numbers:
        groups.setdefault(FAULTS[number - 1][2], []).append(number)
    began = time.monotonic()

    def work(tests: str) -> int:
        with tempfile.TemporaryDirectory() as place:
            copy = ["sh", "-c", f"git archive HEAD | tar -x -C {place}"]
            assert children.run(copy).returncode == 0
            lines = verdicts(Path(place), tests, groups[tests])
        return sum("| caught |" not in line for line in lines.values())

    with ThreadPoolExecutor(2) as pool:
        survived = sum(pool.map(work, groups))
    print(f"\n{survived} not caught, {time.monotonic() - began:.0f} s")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
