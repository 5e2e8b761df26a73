# SPDX-License-Identifier: Apache-2.0
"""The tree of errors, and that code written for safetensors catches them."""

import pytest
from safetensors import SafetensorError

from wcodec import errors
from wcodec.limits import ReadLimits

TREE = {
    "WcodecError": SafetensorError,
    "FormatError": errors.WcodecError,
    "TruncatedError": errors.FormatError,
    "CorruptError": errors.FormatError,
    "UnsupportedError": errors.FormatError,
    "LimitError": errors.FormatError,
    "DeviceError": errors.WcodecError,
    "PartialError": errors.WcodecError,
}


def test_the_tree_is_complete():
    found = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and kind.__module__ == "wcodec.errors"
    }
    assert {name: kind.__base__ for name, kind in found.items()} == TREE
    assert all(kind.__doc__ for kind in found.values())


def test_they_are_no_errors_of_the_caller_or_the_system():
    assert not issubclass(errors.WcodecError, ValueError | TypeError | OSError | KeyError)


def test_a_limit_names_what_was_found_and_how_to_raise_it():
    limits = ReadLimits(rank=3)
    limits.check("rank", 3, "layer 'a': rank")
    with pytest.raises(errors.LimitError) as caught:
        limits.check("rank", 4, "layer 'a': rank")
    assert str(caught.value) == (
        "layer 'a': rank is 4, the limit is 3; to accept it, read with limits=ReadLimits(rank=4)"
    )


def test_expansion_counts_above_what_any_file_may_decode_to():
    limits = ReadLimits(expansion=10, expansion_free_bytes=1000)
    limits.check_total(1000, 0)
    limits.check_total(1100, 10)
    with pytest.raises(
        errors.LimitError, match=r"10 bytes decode to 1101, the limit is 1100.*=11\)"
    ):
        limits.check_total(1101, 10)
    ReadLimits(expansion=11, expansion_free_bytes=1000).check_total(1101, 10)
    with pytest.raises(errors.LimitError, match="total_bytes=11"):
        ReadLimits(total_bytes=10).check_total(11, 1 << 40)


def test_the_defaults_fit_the_largest_models():
    limits = ReadLimits()
    assert limits.n_layers > 100_000
    assert limits.metadata_bytes >= 2 * 100_000_000
    assert limits.total_bytes >= 10 << 40
    limits.check_total(2 << 40, 1 << 40)
    with pytest.raises(AttributeError):
        limits.rank = 7
