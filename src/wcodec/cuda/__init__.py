"""Decoding on a CUDA GPU: the kernels, shipped as source."""
