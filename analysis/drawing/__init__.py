"""Figures with their captions, in one style."""

import os
from contextlib import suppress

# Agg alone draws here. Notebooks export a backend that need not be installed in this
# environment, and with such a one matplotlib refuses to be imported.
_backend = os.environ.pop("MPLBACKEND", None)
import matplotlib as mpl  # noqa: E402

if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
    with suppress(ValueError):  # the caller's own figures find it as it was
        mpl.rcParams["backend"] = _backend
