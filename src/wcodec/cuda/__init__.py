# SPDX-License-Identifier: Apache-2.0
"""Decoding on a CUDA GPU (docs/guide/gpu.md). Imported on request only; needs torch and a driver.

kernels/ is the decoder, as source and as PTX; driver.py loads it and launches it; nvrtc.py compiles
the source where a driver does not take the PTX; device.py is the memory and the streams of a GPU,
by torch; decoder.py brings the blocks of layers there, placement.py says which and where to.
"""
