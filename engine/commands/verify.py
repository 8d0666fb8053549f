"""Compare every executor that runs here with the reference, on random valid inputs.

Exit status 0 if all pass the accuracy rule, 1 if one does not: then its results must not be used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..verification import Finding, Refusal

HELP = "compare the executors of this machine with the reference"
WRONG = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite verify``."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--windows", type=int, default=4, help="default %(default)s")
    parser.add_argument("--units", type=int, default=32, help="at most; default %(default)s")
    parser.add_argument("--queries", type=int, default=6, help="per window; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs; default %(default)s")
    parser.add_argument("--json", action="store_true", help="machine-readable, every array")


def run(options: argparse.Namespace) -> int:
    """Verify and print; return the exit status."""
    from ..bundle import Bundle
    from ..verification import Finding, Refusal, verify

    results = list(
        verify(
            Bundle.load(options.bundle),
            device=options.device,
            threads=options.threads,
            windows=options.windows,
            units=options.units,
            queries=options.queries,
            seed=options.seed,
        )
    )
    findings = [result for result in results if isinstance(result, Finding)]
    refusals = [result for result in results if isinstance(result, Refusal)]
    if options.json:
        print(json.dumps(facts(findings, refusals), indent=1, ensure_ascii=False))
    else:
        print(text(findings, refusals))
    return 0 if all(finding.passes for finding in findings) else WRONG


def facts(findings: Sequence[Finding], refusals: Sequence[Refusal]) -> dict[str, Any]:
    """Gather everything; JSON can hold it."""
    return {
        "passes": all(finding.passes for finding in findings),
        "findings": [{**vars(finding), "passes": finding.passes} for finding in findings],
        "refusals": [vars(refusal) for refusal in refusals],
    }


def text(findings: Sequence[Finding], refusals: Sequence[Refusal]) -> str:
    """Lay the results out for reading: for each statistic the site that is nearest its limit."""
    lines = [f"{'executor':<10}{'dtype':<9}{'statistic':<17}{'error':>9}{'allowed':>9}"]
    worst: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        name = finding.what.rpartition("/")[2]
        name = "prediction" if finding.what.startswith("prediction") else name
        key = (finding.executor, finding.dtype, name)
        if key not in worst or not nearer(worst[key], finding):
            worst[key] = finding
    for (executor, dtype, name), finding in worst.items():
        row = f"{executor:<10}{dtype:<9}{name:<17}{finding.error:>9.1e}{finding.allowed:>9.1e}"
        lines.append(row + ("" if finding.passes else f"  WRONG at {finding.what}"))
    for refusal in refusals:
        what = f" {refusal.what}" if refusal.what else ""
        lines.append(f"{refusal.executor:<10}{refusal.dtype:<9}refuses{what}: {refusal.reason}")
    wrong = sum(not finding.passes for finding in findings)
    passed = f"{len(findings)} arrays, all as the reference" if findings else "nothing to compare"
    lines.append(f"{wrong} of {len(findings)} arrays are wrong" if wrong else passed)
    return "\n".join(lines)


def nearer(a: Finding, b: Finding) -> bool:
    """Say whether ``a`` is nearer its limit than ``b``, or beyond it."""
    if a.passes != b.passes:
        return b.passes
    return a.error * b.allowed >= b.error * a.allowed
