"""The id of a run: no order of fields or of words changes it, nor may a new version."""

from __future__ import annotations

import hashlib

from tests.conftest import spec


def test_the_id_hashes_the_sorted_differences_from_the_defaults() -> None:
    made = spec(training__epochs=2, training__batch_size=7, data__corrupt=0.5)
    content = (
        b'{"data.corrupt":0.5,"model.label_scale":4.0,"model.prior":"mixture",'
        b'"training.batch_size":7,"training.epochs":2}'
    )
    assert made.id == hashlib.sha256(content).hexdigest()[:8]
    again = spec(data__corrupt=0.5, training__batch_size=7, training__epochs=2)
    assert again.id == made.id
