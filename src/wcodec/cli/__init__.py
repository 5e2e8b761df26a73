# SPDX-License-Identifier: Apache-2.0
"""The command line: main.py dispatches, one file a subcommand."""
