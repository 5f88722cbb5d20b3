"""The ratios as a chart: a bar from 1 to each median, a line for the spread, a mark at the goal."""

import math
from collections.abc import Sequence

from report import Finding

_LEFT, _RIGHT, _TOP, _STEP, _WIDTH = 160, 110, 30, 34, 780
_LOW, _HIGH = 0.05, 30.0  # the ends of the logarithmic axis
_STYLE = """
  text { font: 13px sans-serif; fill: #24292f } .faint { fill: #6e7781 } .grid { stroke: #d0d7de }
  .met { fill: #2da44e } .missed { fill: #cf222e } .spread { stroke: #24292f }
  .goal { stroke: #0969da; stroke-width: 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .faint { fill: #8d96a0 } .grid { stroke: #3d444d }
    .met { fill: #3fb950 } .missed { fill: #f85149 }
    .spread { stroke: #e6edf3 } .goal { stroke: #58a6ff }
  }
"""


def picture(findings: Sequence[Finding]) -> str:
    """Return the chart as SVG that follows the reader's light or dark colour scheme."""
    bottom = _TOP + _STEP * len(findings)
    parts = [_grid(value, bottom) for value in (0.1, 0.3, 1, 3, 10)]
    parts += [_bar(finding, _TOP + _STEP * row) for row, finding in enumerate(findings)]
    legend = (
        "bar: ratio, from 1 to the median; thin line: spread; blue: goal; green: met, red: not met"
    )
    parts.append(f'<text class="faint" x="8" y="{bottom + 46}">{legend}</text>')
    size = f'viewBox="0 0 {_WIDTH} {bottom + 56}" width="{_WIDTH}" height="{bottom + 56}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join((head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""))


def _x(ratio: float) -> float:
    share = math.log(min(max(ratio, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _grid(value: float, bottom: int) -> str:
    x = _x(value)
    label = f'<text class="faint" x="{x}" y="{bottom + 20}" text-anchor="middle">{value:g}</text>'
    return f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP - 10}" y2="{bottom}"/>{label}'


def _bar(finding: Finding, y: int) -> str:
    goal, ratio = finding.goal, finding.middle
    start, end = sorted((_x(1), _x(ratio)))
    kind = "met" if finding.is_met else "missed"
    middle, sign = y + 10, "≥" if goal.at_least else "≤"
    low, high, limit = _x(min(finding.ratios)), _x(max(finding.ratios)), _x(goal.limit)
    width = max(end - start, 1)
    value = f"{ratio:.3g} ({sign} {goal.limit:g})"
    return "\n".join(
        (
            f'<text x="8" y="{y + 15}">{goal.label}</text>',
            f'<rect class="{kind}" x="{start}" y="{y}" width="{width:.1f}" height="20"/>',
            _line("spread", low, high, middle, middle),
            *(_line("spread", x, x, y + 6, y + 14) for x in (low, high)),
            _line("goal", limit, limit, y - 4, y + 24),
            f'<text x="{_WIDTH - _RIGHT + 4}" y="{y + 15}">{value}</text>',
        )
    )


def _line(kind: str, x1: float, x2: float, y1: int, y2: int) -> str:
    return f'<line class="{kind}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'
