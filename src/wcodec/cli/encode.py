# SPDX-License-Identifier: Apache-2.0
"""`wcodec encode`."""

from __future__ import annotations

from typing import Any

import click

from wcodec.cli import common, removal


@click.command(name="encode")
@common.inputs_argument
@common.output_option
@common.force_option
@common.remove_option
@common.threads_option
@common.max_memory_option
@click.option("--level", default="default", show_default=True, help="default or max.")
@click.option("--tile-size", type=int, default=16, show_default=True, help="Of the spatial coding.")
@click.option("--predictors", metavar="A,B...", help="Of the spatial coding [default: all].")
@click.option("--transforms", metavar="A,B...", help="Of the spatial coding [default: all].")
@click.option("--block-elements", type=int, help="Aimed elements of a block [default: 131072].")
@click.option("--model-name", help="Name to write into the metadata.")
@click.option("--quant-type", help="Quantise matrices of floats first, which is lossy: int8.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="User metadata; repeatable.")
@click.option("--verify/--no-verify", default=True, help="Decode each block again and compare.")
@click.option("--all-files", is_flag=True, help="Of a directory, copy redundant weight files, too.")
@common.resume_option
@common.verbose_option
@common.progress_option
@common.quiet_option
@common.json_option
def command(
    inputs: tuple[str, ...],
    output: str | None,
    force: bool,
    remove: bool,
    threads: int | None,
    max_memory: int | None,
    level: str,
    tile_size: int,
    predictors: str | None,
    transforms: str | None,
    block_elements: int | None,
    model_name: str | None,
    quant_type: str | None,
    metadata: tuple[str, ...],
    verify: bool,
    all_files: bool,
    resume: bool,
    verbose: bool,
    progress_kind: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Encode safetensors files into wcodec files, or directories of them into wcodec directories.

    By default model.safetensors becomes model.wcodec and DIR becomes DIR.wcodec; -o names another
    output, and for several inputs the directory of all outputs. Of a directory, all safetensors
    files are encoded, the index of shards is rewritten, and other files are copied, except weights
    in other formats (pytorch_model*.bin, *.gguf, *.onnx, *.msgpack, *.h5). "-" is standard input
    or output.

    The inputs stay, but for --rm, which removes each when its output is on disk and has been
    decoded and compared with it. An output file appears whole or not at all. Exit code 3 if some
    files failed.
    """
    jobs = common.plan_jobs(inputs, output, ".safetensors", ".wcodec", force or resume)
    if remove:
        removal.check_removable(jobs, lossy=quant_type is not None)
    user_metadata = _parse_metadata(metadata)
    from wcodec.encode import encode_checkpoint

    def work(input: Any, output: Any) -> dict[str, Any]:
        with common.shown_progress(
            "encoding", progress_kind, quiet or as_json or verbose
        ) as progress:
            statistics = encode_checkpoint(
                input,
                output,
                level=level,
                tile_size=tile_size,
                predictors=None if predictors is None else predictors.split(","),
                transforms=None if transforms is None else transforms.split(","),
                block_elements=block_elements,
                model_name=model_name,
                quant_type=quant_type,
                metadata=user_metadata,
                threads=threads,
                max_memory=max_memory,
                verify=verify,
                all_files=all_files,
                resume=resume,
                verbose=verbose,
                progress=progress,
            )
        if remove:
            removal.remove_input(common.Job(input, output), encoded=output, original=input)
        return statistics

    common.report(common.run_jobs(jobs, work), as_json, quiet, _line)


def _line(statistics: dict[str, Any]) -> str:
    speed = common.gigabytes_per_second(statistics["input_bytes"], statistics["seconds"])
    return (
        f"{common.shards_text(statistics)}{common.size_text(statistics['input_bytes'])} -> "
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
