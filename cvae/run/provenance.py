"""Where a result comes from: commit, packages, hardware."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "numpy", "mlflow", "safetensors", "pydantic")
log = logging.getLogger("cvae")
HERE = Path(__file__).resolve().parent


def git_state() -> tuple[dict[str, str], str]:
    """commit, branch and dirty ("true"/"false") of this code, and its uncommitted diff.

    The commit is "unknown" where no git repository tracks this very file: code that
    was unpacked inside another checkout does not come from that checkout's commit. It
    is unknown, too, in a folder that git refuses, which is said.
    """
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
    commit = _git("rev-parse", "HEAD") if tracked else ""
    if not commit:
        return {"commit": "unknown"}, ""
    diff = _git("diff", "HEAD", "--no-ext-diff", "--", ":(exclude)*.gz")
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    branch = _git("rev-parse", "--abbrev-ref", "HEAD")
    state = {"commit": commit, "branch": branch, "dirty": str(dirty).lower()}
    return state, f"{diff}\n" if diff else ""


@functools.cache  # once is enough
def _warn_of_refusal(cure: str) -> None:
    log.warning(
        "the commit will be recorded as unknown, and the run cannot be published: git "
        "refuses this folder, which belongs to another user; to let it, type %s",
        cure,
    )


def versions() -> dict[str, str]:
    """Python and the packages that could change a result."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def hardware(device: Any) -> dict[str, Any]:
    """The device a run computes on; `device` is a torch.device."""
    import torch

    from cvae.fast import cpu_kernel

    facts = {
        "device": device.type,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "system": f"{sys.platform} {platform.machine()}",
    }
    if device.type == "cpu":
        facts["steps"] = "compiled" if cpu_kernel.library() else "torch"
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def changes(
    info: Mapping[str, Any], git: Mapping[str, str], facts: Mapping[str, Any]
) -> list[str]:
    """What is not as `info`, a run's `run.json`, has it: `torch 2.11.0, now 2.14.1`.

    Only what may change the last digits: commit, versions, processor, threads, and
    whether steps are compiled.
    """
    before = {"commit": info.get("git", {}).get("commit"), **info.get("facts", {})}
    now = {"commit": git.get("commit"), **facts}
    keys = ("commit", "processor", "threads", "steps", "version.torch", "version.numpy")
    return [
        f"{key.removeprefix('version.')} {before[key]}, now {now[key]}"
        for key in keys
        if key in before and before[key] != now.get(key, before[key])
    ]


def _git(*arguments: str) -> str:
    """The answer of git on this folder; GIT_DIR and the like would mean another one."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=HERE,
            env=environment | {"LC_ALL": "C"},
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    said = done.stderr.decode(errors="replace")
    if cure := re.search(r"git config --global --add safe\.directory .+", said):
        _warn_of_refusal(cure[0])
    return "" if done.returncode else done.stdout.decode(errors="replace").strip()


def processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        facts = ""
    named = re.search(r"^model name\s*: (.+)", facts, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or "unknown"
