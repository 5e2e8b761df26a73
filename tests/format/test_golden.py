# SPDX-License-Identifier: Apache-2.0
"""Golden files decode to what their manifest says, for ever: by the package, by random access and
as a pipe, and by the reference decoder.
"""

import hashlib

import pytest
from support.golden import GOLDEN, MANIFEST, digests
from support.pipes import Pipe
from support.reference import reference_decoder

import wcodec


def test_every_file_is_in_the_manifest():
    assert sorted(MANIFEST) == sorted(path.name for path in GOLDEN.glob("*.wcodec"))
    assert len(MANIFEST) >= 16


def test_no_file_has_changed():
    """None of them, nor the manifest, may differ from SHA256SUMS, and none may be missing there."""
    lines = (GOLDEN / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [path for path in GOLDEN.iterdir() if path.name != "SHA256SUMS"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == expected


@pytest.mark.parametrize("name", MANIFEST)
def test_golden(name):
    path = GOLDEN / name
    assert digests(wcodec.decode_checkpoint(path)) == MANIFEST[name]
    assert digests(wcodec.decode_checkpoint(Pipe(path.read_bytes()))) == MANIFEST[name]
    assert wcodec.verify(path)["n_layers"] == len(MANIFEST[name])


@pytest.mark.parametrize("name", MANIFEST)
def test_golden_by_the_reference_decoder(name):
    layers = reference_decoder().decode_file(GOLDEN / name).layers
    found = {layer: hashlib.sha256(data).hexdigest() for layer, (_, _, data) in layers.items()}
    assert found == MANIFEST[name]


def test_source_file_is_restored(tmp_path):
    path = GOLDEN / "v0_1_source.wcodec"
    wcodec.decode_checkpoint(path, tmp_path / "x")
    header = b'{"w":{"dtype":"I16","shape":[2,3],"data_offsets":[0,12]}}       '
    expected = len(header).to_bytes(8, "little") + header + bytes(range(12))
    assert (tmp_path / "x").read_bytes() == expected
    assert reference_decoder().decode_file(path).restore() == expected
