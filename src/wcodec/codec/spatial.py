# SPDX-License-Identifier: Apache-2.0
"""What the encoder may use of the spatial coding (docs/format.md section 15), and whether a sample
of a layer says that it pays.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch

TILE_SIZES = (4, 8, 16, 32, 64)
PREDICTORS = ("none", "left", "top", "avg", "planar", "median")
TRANSFORMS = ("none", "dct", "adst", "hadamard")
FORMS = {
    "I8": batch.SPATIAL_SIGNED,
    "U8": batch.SPATIAL_UNSIGNED,
    "I16": batch.SPATIAL_SIGNED,
    "U16": batch.SPATIAL_UNSIGNED,
    "I32": batch.SPATIAL_SIGNED,
    "U32": batch.SPATIAL_UNSIGNED,
}
FLOAT_FORMS = dict.fromkeys(("F16", "BF16", "F32"), batch.SPATIAL_FLOAT)

SAMPLE_STRIPS = 4  # of one row of tiles each
SAMPLE_COLUMNS = 1024
SAMPLE_UNITS = 4096
MIN_UNITS = 4096  # of a layer: tables cost some hundred bytes
MIN_GAIN_SHARE = 64  # try the coding only if a sample is smaller by more than 1 / 64


class SpatialOptions(NamedTuple):
    """Tile size, predictors and transforms that the encoder may choose from, checked."""

    tile_size: int = 16
    predictors: tuple[str, ...] = PREDICTORS
    transforms: tuple[str, ...] = TRANSFORMS

    @staticmethod
    def of(
        tile_size: int,
        predictors: Iterable[str] | None = None,
        transforms: Iterable[str] | None = None,
    ) -> "SpatialOptions":
        """Check what a caller gave; None stands for all. Raises ValueError or TypeError."""
        if tile_size not in TILE_SIZES:
            raise ValueError(f"tile_size is {tile_size!r}, expected one of {TILE_SIZES}")
        return SpatialOptions(
            tile_size,
            _chosen("predictors", predictors, PREDICTORS),
            _chosen("transforms", transforms, TRANSFORMS),
        )

    def recorded(self) -> dict[str, object]:
        """What the metadata of a file says of these options: the sets only where not all."""
        found: dict[str, object] = {"tile_size": self.tile_size}
        if self.predictors != PREDICTORS:
            found["predictors"] = list(self.predictors)
        if self.transforms != TRANSFORMS:
            found["transforms"] = list(self.transforms)
        return found

    @property
    def tile_log2(self) -> int:
        return self.tile_size.bit_length() - 1

    @property
    def predictor_set(self) -> int:
        return sum(1 << PREDICTORS.index(name) for name in self.predictors)

    @property
    def transform_set(self) -> int:
        return sum(1 << TRANSFORMS.index(name) for name in self.transforms)


def _chosen(what: str, names: Iterable[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the order of the known ones, each once."""
    if names is None:
        return known
    if isinstance(names, str):
        raise TypeError(f"{what} is {names!r}, expected names in a list")
    wanted = list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"{what} has {unknown[0]!r}, expected some of {', '.join(known)}")
    if not wanted:
        raise ValueError(f"{what} is empty, expected some of {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def spatial_pays(
    sample: NDArray[np.uint8], form: int, cols: int, w: int, options: SpatialOptions
) -> bool:
    """Whether prediction or a transform gains something worth having on a few tiles of a sample,
    the first bytes of a matrix of `cols` columns.

    Ordinary weights gain nothing, and this is all that the spatial coding costs them.
    """
    rows = len(sample) // (cols * w)
    if rows * cols < MIN_UNITS:
        return False
    matrix = sample[: rows * cols * w].reshape(rows, cols * w)
    height = min(rows, options.tile_size)
    last = SAMPLE_STRIPS - 1
    starts = [(rows - height) * i // last for i in range(SAMPLE_STRIPS)]
    width = min(cols, SAMPLE_COLUMNS)
    strips = np.concatenate([matrix[s : s + height, : width * w] for s in dict.fromkeys(starts)])
    none, best, _ = batch.sample_spatial(
        strips,
        w,
        form,
        options.tile_log2,
        options.predictor_set,
        options.transform_set,
        max(4, SAMPLE_UNITS // options.tile_size**2),
    )
    return best + none // MIN_GAIN_SHARE < none
