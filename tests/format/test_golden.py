# SPDX-License-Identifier: Apache-2.0
"""Golden files decode to what their manifest says, for ever: by the package, by random access and
as a pipe, and by the reference decoder.
"""

import hashlib

import pytest
from support.golden import GOLDEN, MANIFEST, digests
from support.golden_blocks import golden_blocks
from support.pipes import Pipe
from support.tools import reference_decoder, tool

import wcodec
from wcodec import _core


def test_every_file_is_in_the_manifest():
    assert sorted(MANIFEST) == sorted(path.name for path in GOLDEN.glob("*.wcodec"))
    assert len(MANIFEST) >= 16


def test_every_form_is_in_one():
    """Each form of each coding, rans16 with each number of streams."""
    found = {tuple(block.kind.split("-")[:3]) for block in golden_blocks()}
    expected = {("rans16", str(form), n) for form in range(1, _core.N_FORMS) for n in "124"}
    n_forms = {"raw": 1, "constant": 1, "rans32": 2, "spatial": 3, "lz": 2, "map": 2}
    for coding, n in n_forms.items():
        expected |= {(coding, str(form), "0") for form in range(n)}
    assert found == expected


def test_no_file_has_changed():
    """None of them, nor the manifest, may differ from SHA256SUMS, and none may be missing there."""
    lines = (GOLDEN / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [path for path in GOLDEN.iterdir() if path.name != "SHA256SUMS"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == expected


def test_the_content_of_golden_files_can_be_made_again():
    """So a bug in what they decode to would not be there for ever without anybody knowing."""
    made = tool("make_golden").make_all()
    assert {name: layers for name, (_, layers) in made.items()} == MANIFEST


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
    path = GOLDEN / "v0_9_source.wcodec"
    wcodec.decode_checkpoint(path, tmp_path / "x")
    header = b'{"w":{"dtype":"I16","shape":[2,3],"data_offsets":[0,12]}}       '
    expected = len(header).to_bytes(8, "little") + header + bytes(range(12))
    assert (tmp_path / "x").read_bytes() == expected
    assert reference_decoder().decode_file(path).restore() == expected
