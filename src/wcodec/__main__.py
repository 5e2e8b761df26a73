# SPDX-License-Identifier: Apache-2.0
"""`python -m wcodec` is the command line."""

from wcodec.cli.main import main

main()
