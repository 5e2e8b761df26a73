# SPDX-License-Identifier: Apache-2.0
"""`wcodec decode`."""

from __future__ import annotations

from typing import Any

import click

from wcodec.cli import common, removal


@click.command(name="decode")
@common.inputs_argument
@common.output_option
@common.force_option
@common.remove_option
@common.threads_option
@common.max_memory_option
@click.option(
    "--device", default="cpu", show_default=True, help="Where to decode: cpu, cuda, cuda:1 ..."
)
@click.option("--use-gpu", is_flag=True, help="The same as --device cuda.")
@click.option("--dequantize", is_flag=True, help="Make floats of what --quant-type made.")
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
    device: str,
    use_gpu: bool,
    dequantize: bool,
    resume: bool,
    verbose: bool,
    progress_kind: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Decode wcodec files or directories into what they were made of, byte for byte.

    By default model.wcodec becomes model.safetensors and DIR.wcodec becomes DIR; -o names another
    output, and for several inputs the directory of all outputs. "-" is standard input or output.

    --rm removes each input when its output is on disk and has been compared with it once more.
    An output file appears whole or not at all. Exit code 3 if some files failed.
    """
    jobs = common.plan_jobs(inputs, output, ".wcodec", ".safetensors", force or resume)
    if remove:
        removal.check_removable(jobs, lossy=dequantize)
    from wcodec.decode import decode_checkpoint

    def work(input: Any, output: Any) -> dict[str, Any]:
        hidden = quiet or as_json or verbose
        with common.shown_progress("decoding", progress_kind, hidden) as progress:
            statistics = decode_checkpoint(
                input,
                output,
                device=device,
                use_gpu=use_gpu,
                dequantize=dequantize,
                threads=threads,
                max_memory=max_memory,
                resume=resume,
                verbose=verbose,
                progress=progress,
            )
        if remove:
            removal.remove_input(common.Job(input, output), encoded=input, original=output)
        return statistics

    common.report(common.run_jobs(jobs, work), as_json, quiet, _line)


def _line(statistics: dict[str, Any]) -> str:
    speed = common.gigabytes_per_second(statistics["output_bytes"], statistics["seconds"])
    layers = f"{statistics['n_layers']} layers, " if "n_layers" in statistics else ""
    size = common.size_text(statistics["output_bytes"])
    return f"{common.shards_text(statistics)}{size}, {layers}{speed}"
