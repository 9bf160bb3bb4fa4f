"""What a run of any kind has: sections of fields, a name, and an id of its content.

Nothing here touches a folder, a device or torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator

from cvae.errors import SpecError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
NAME_RULE = "1 to 80 letters, digits, '_', '-' or '.', beginning with a letter or digit"

# What runs had before a field existed, or before its default changed, by dotted key. It
# stays the baseline of the id, and a run folder that lacks the key is read with it: old
# runs keep their id and their meaning, and new ones get the new default.
BEFORE: dict[str, Any] = {"model.prior": "standard", "model.label_scale": 1.0}

# Fields of earlier versions with their defaults, by dotted key. At its default such a
# field is ignored where a recorded spec is read, and counts in no id; at another value
# the run can be sampled from and evaluated, and not resumed. In a user's file it is an
# error.
REMOVED: dict[str, Any] = {"objective.free_bits": 0.0, "training.grad_clip": None}
REMOVED_IN = "2.0.0"


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # the text below a field is its description
    )


class Named(Section):
    """What a run of any kind has: a name for its folder, an id of its content."""

    name: str
    """Begins the name of the run's folder: 1 to 80 letters, digits, `_`, `-` or `.`."""
    _removed: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"must be {NAME_RULE} (it names a folder)")
        return value

    @property
    def removed(self) -> dict[str, Any]:
        """Fields that are `REMOVED` and had another value when the run was made."""
        return self._removed

    def check_trainable(self) -> None:
        """Raises SpecError if the run was made with a field that is `REMOVED`."""
        for key, value in self.removed.items():
            raise SpecError(
                f"{self.name}-{self.id}: made with {key}={value}, a field removed in "
                f"{REMOVED_IN}: the run can be sampled from and evaluated, not resumed"
            )

    @property
    def id(self) -> str:
        """8 hex digits of the content that sets the run apart from the defaults.

        Name and tracking are left out. A new field with a default changes no id; where
        a default changes, `BEFORE` keeps the ids of old runs.
        """
        content = {
            key: value
            for key, value in (differences(self, BEFORE) | self.removed).items()
            if key != "name" and not key.startswith("tracking.")
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def flatten(spec: Named) -> dict[str, Any]:
    """Every field under its dotted key; tuples become lists."""
    flat: dict[str, Any] = {}
    for key, value in spec.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{key}.{field}": inner for field, inner in value.items()}
        else:
            flat[key] = value
    return flat


def differences(spec: Named, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The dotted fields that differ from the defaults, or from `before` where it has
    the key."""
    baseline = flatten(type(spec)(name="default")) | dict(before or {})
    return {
        key: value for key, value in flatten(spec).items() if value != baseline[key]
    }


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: dotted keys as a dict of sections."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, field = key.partition(".")
        if dot:
            tree.setdefault(section, {})[field] = value
        else:
            tree[key] = value
    return tree
