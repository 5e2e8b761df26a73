# SPDX-License-Identifier: Apache-2.0
"""`wcodec decode`."""

from __future__ import annotations

import click

from wcodec.cli import common


@click.command(name="decode")
@common.input_argument
@common.output_option
@common.force_option
@common.threads_option
@click.option("--device", default="cpu", show_default=True, help="Where to decode.")
@click.option("--use-gpu", is_flag=True, help="Decode on the GPU.")
@common.quiet_option
@common.json_option
def command(
    input: str,
    output: str | None,
    force: bool,
    threads: int | None,
    device: str,
    use_gpu: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Decode a wcodec file into the safetensors file it was made of (INPUT with .safetensors by
    default).

    The result is byte for byte the file that was encoded. It appears whole or not at all.
    """
    output = common.choose_output(input, output, ".wcodec", ".safetensors")
    common.check_output(input, output, force)
    from wcodec.decode import decode_checkpoint

    with common.shown_progress("decoding", quiet or as_json) as progress:
        statistics = decode_checkpoint(
            input, output, device=device, use_gpu=use_gpu, threads=threads, progress=progress
        )
    if as_json:
        common.print_json({"input": input, "output": output, **statistics})
    elif not quiet:
        speed = common.gigabytes_per_second(statistics["output_bytes"], statistics["seconds"])
        click.echo(
            f"{output}: {common.size_text(statistics['output_bytes'])}, "
            f"{statistics['n_layers']} layers, {speed}"
        )
