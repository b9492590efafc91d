"""A precision-recall curve as inline SVG in the colors of the page around it."""

from __future__ import annotations

from html import escape

from training.evaluation.operating_point import RECALLS, ClassPoint

_LEFT, _TOP, _SIDE = 34, 8, 160
"""Margins and side of the square that is 0..1 by 0..1, in units of the picture."""
_WIDTH, _HEIGHT = _LEFT + _SIDE + 14, _TOP + _SIDE + 34
_TICKS = (0.0, 0.5, 1.0)


def curve_svg(point: ClassPoint) -> str:
    """Precision over recall of one class, with a dot at its threshold. Classes of the style sheet: grid, line, dot."""
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_described(point))}">',
        *(_tick(value) for value in _TICKS),
        f'<text x="{_LEFT + _SIDE / 2}" y="{_HEIGHT - 3}" text-anchor="middle">recall</text>',
        f'<text transform="translate(9 {_TOP + _SIDE / 2}) rotate(-90)" text-anchor="middle">precision</text>',
    ]
    if point.curve.precision:
        # Up to the last recall that is reached; the rest of the curve is not zero but absent.
        reached = [(x, y) for x, y in zip(RECALLS.tolist(), point.curve.precision, strict=True) if y > 0]
        path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in reached)
        parts.append(f'<polyline class="line" points="{path}"/>')
    if point.precision >= 0 and point.recall >= 0:
        parts.append(f'<circle class="dot" cx="{_x(point.recall):.1f}" cy="{_y(point.precision):.1f}" r="4"/>')
    return "".join([*parts, "</svg>"])


def _described(point: ClassPoint) -> str:
    text = f"Precision over recall of {point.name}"
    if point.precision < 0 or point.recall < 0:
        return f"{text}: nothing to show at score {point.threshold:g}"
    return f"{text}; at score {point.threshold:g} precision {point.precision:.2f}, recall {point.recall:.2f}"


def _tick(value: float) -> str:
    x, y = _x(value), _y(value)
    return (
        f'<path class="grid" d="M{_LEFT} {y:g}H{_LEFT + _SIDE}M{x:g} {_TOP}V{_TOP + _SIDE}"/>'
        f'<text x="{_LEFT - 4}" y="{y + 3.5:g}" text-anchor="end">{value:g}</text>'
        f'<text x="{x:g}" y="{_TOP + _SIDE + 13}" text-anchor="middle">{value:g}</text>'
    )


def _x(recall: float) -> float:
    return _LEFT + _SIDE * recall


def _y(precision: float) -> float:
    return _TOP + _SIDE * (1 - precision)
