"""The benchmark's command from end to end, at a size at which its figures mean nothing."""

import asyncio
import sys
from pathlib import Path

from bench.report import from_json


async def test_the_command_measures_and_writes_json_and_the_document(tmp_path: Path) -> None:
    results, document = tmp_path / "results.json", tmp_path / "benchmarks.md"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "memory", "--scale", "0.001"),
        *("--json", str(results), "--markdown", str(document)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = from_json(results.read_bytes())
    assert report.scale.factor == 0.001
    assert report.machine.cores >= 1
    [row] = report.rows
    assert (row.name, row.error) == ("memory", None)
    [result] = row.results
    assert result.ratio is not None
    assert result.name in document.read_text()
