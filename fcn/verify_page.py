"""What `fcn verify` found, as a page to look at: `--html`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fcn.pages import page, paragraph, picture, table
from fcn.parity import DIFFERENT, SAME, UNDECIDABLE, UNDECIDED, Layer, Report
from fcn.tolerances import EXACT

__all__ = ["render"]

Image8 = npt.NDArray[np.uint8]

WHITE, BLUE, RED, BLACK = (np.array(c) for c in ((255,) * 3, (8, 48, 107), (214, 39, 40), (0,) * 3))
LABELS = {  # of a pixel -> its colour in the map, and what it means
    SAME: ((240, 241, 243), "same label"),
    UNDECIDABLE: ((31, 119, 180), "undecidable, same label"),
    UNDECIDED: ((240, 173, 78), "undecidable, other label"),
    DIFFERENT: ((214, 39, 40), "decidable, other label"),
}
HEAD = (
    "layer", "in the file", "computed as", "kernel", "shape", "worst error", "relative", "bound",
    "error / bound", "verdict",
)  # fmt: skip


def render(reports: Sequence[Report]) -> bytes:
    """The HTML of one or several comparisons of the same run.

    Parameters
    ----------
    reports : sequence of Report
        At least one.

    Raises
    ------
    ImportError
        Without Pillow (extra `images`).
    """
    return page(f"fcn verify {reports[0].model}", (part for r in reports for part in _parts(r)))


def _parts(report: Report) -> Iterator[str]:
    size = " x ".join(map(str, report.shape))
    yield paragraph(f"Ours against {report.peer} float32, input {size}", tag="h2")
    if report.passed:
        yield paragraph(f"PASS: all {len(report.layers)} layers, end to end, labels", "good")
    for failure in report.failures:
        yield paragraph(f"FAIL: {failure}", "bad")
    yield from map(paragraph, report.summary)
    yield table(
        HEAD, map(_row, report.layers), (not layer.passed for layer in report.layers), text=4
    )
    yield paragraph("Labels", tag="h2")
    yield from _labels(report)
    yield paragraph("Error over its bound, around the worst pixel of each layer", tag="h2")
    yield paragraph(
        "Largest of all channels: from white, no error, to blue, the largest one of the picture; "
        "red is beyond the bound, black is no number."
    )
    for layer in report.layers:
        if layer.ratio != 0:
            yield picture(_heat(layer.around), _caption(layer), scale=8)


def _row(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name, layer.tensor, layer.way, layer.kernel, " x ".join(map(str, layer.shape[1:])),
        f"{layer.abs_error:.2e}", f"{layer.rel_error:.2e}",
        f"{layer.bound:.2e}" if layer.bound > EXACT else "exact", f"{layer.ratio:.3g}",
        "within" if layer.passed else "BROKEN",
    )  # fmt: skip


def _caption(layer: Layer) -> str:
    n, row, col, channel = layer.worst
    image = f"image {n}, " if layer.shape[0] > 1 else ""
    return (
        f"{layer.name}: {layer.ratio:.3g} at {image}row {row}, column {col}, channel {channel}; "
        f"corner ({layer.corner[0]}, {layer.corner[1]})"
    )


def _heat(ratios: npt.NDArray[np.float64]) -> Image8:
    finite = np.isfinite(ratios)
    largest = ratios.max(where=finite, initial=0)
    share = np.where(finite, ratios, 0)[..., None] / (largest or 1)
    colours = WHITE + (BLUE - WHITE) * np.sqrt(share)
    colours[ratios > 1] = RED
    colours[np.isnan(ratios)] = BLACK
    return np.asarray(np.rint(colours), np.uint8)


def _labels(report: Report) -> Iterator[str]:
    codes = report.whole.map
    for code, (colour, meaning) in LABELS.items():
        swatch = np.full((12, 12, 3), colour, np.uint8)
        yield picture(swatch, f"{meaning}: {int((codes == code).sum())}")
    colours = np.array([LABELS[code][0] for code in sorted(LABELS)], np.uint8)
    yield "<br>"
    for n, image in enumerate(codes):
        scale = max(1, 256 // max(image.shape))
        yield picture(colours[image], f"image {n}" if len(codes) > 1 else "", scale)
