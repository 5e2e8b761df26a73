"""Numbers and payloads: how a layer is cut into blocks, which coding they get, and coding them.
Knows no files.
"""
