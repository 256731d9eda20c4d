"""The error tree: every class has a documented exit code, its family's."""

from __future__ import annotations

import pytest

from rdeic_rt import errors


@pytest.mark.parametrize(
    ("family", "code"),
    [
        (errors.FileFormatError, 4),
        (errors.ImageError, 4),
        (errors.BundleError, 5),
        (errors.BackendError, 6),
        (errors.ExportError, 7),
    ],
)
def test_exit_code_of_every_class_is_its_familys(family: type[errors.RdeicError], code: int) -> None:
    assert {kind.exit_code for kind in (family, *family.__subclasses__())} == {code}


def test_tree_has_every_family_below_one_base() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(classes) == 20
    assert all(issubclass(kind, errors.RdeicError) for kind in classes)
