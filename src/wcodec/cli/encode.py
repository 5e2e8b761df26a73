# SPDX-License-Identifier: Apache-2.0
"""`wcodec encode`."""

from __future__ import annotations

import click

from wcodec.cli import common


@click.command(name="encode")
@common.input_argument
@common.output_option
@common.force_option
@common.threads_option
@click.option("--level", default="default", show_default=True, help="default or max.")
@click.option("--tile-size", type=int, default=16, show_default=True, help="Of the spatial coding.")
@click.option("--block-elements", type=int, help="Aimed elements of a block [default: 131072].")
@click.option("--model-name", help="Name to write into the metadata.")
@click.option("--quant-type", help="Quantise first (lossy).")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="User metadata; repeatable.")
@click.option("--verify/--no-verify", default=True, help="Decode each block again and compare.")
@click.option("-v", "--verbose", is_flag=True, help="Print a line a layer.")
@common.quiet_option
@common.json_option
def command(
    input: str,
    output: str | None,
    force: bool,
    threads: int | None,
    level: str,
    tile_size: int,
    block_elements: int | None,
    model_name: str | None,
    quant_type: str | None,
    metadata: tuple[str, ...],
    verify: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Encode a safetensors file into a wcodec file (INPUT with .wcodec by default).

    The input stays. The output appears whole or not at all.
    """
    output = common.choose_output(input, output, ".safetensors", ".wcodec")
    common.check_output(input, output, force)
    from wcodec.encode import encode_checkpoint

    with common.shown_progress("encoding", quiet or as_json or verbose) as progress:
        statistics = encode_checkpoint(
            input,
            output,
            level=level,
            tile_size=tile_size,
            block_elements=block_elements,
            model_name=model_name,
            quant_type=quant_type,
            metadata=_parse_metadata(metadata),
            threads=threads,
            verify=verify,
            verbose=verbose,
            progress=progress,
        )
    if as_json:
        common.print_json({"input": input, "output": output, **statistics})
    elif not quiet:
        speed = common.gigabytes_per_second(statistics["input_bytes"], statistics["seconds"])
        click.echo(
            f"{output}: {common.size_text(statistics['input_bytes'])} -> "
            f"{common.size_text(statistics['output_bytes'])}, "
            f"ratio {statistics['compression_ratio']:.3f}, {speed}"
        )


def _parse_metadata(items: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"--metadata {item}: expected KEY=VALUE")
        found[key] = value
    return found
