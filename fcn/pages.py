"""One HTML file that needs no other: text is escaped, pictures are inside, nothing is loaded."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fcn import export

__all__ = ["page", "paragraph", "picture", "table"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em;
       color: #1b1f24; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .2em .8em .2em 0; text-align: right; border-bottom: 1px solid #e3e6ea }
th.text, td.text { text-align: left } tr.bad td { background: #fde8e6 }
.wide { overflow-x: auto } .good { color: #17692f } .bad { color: #b3261e; font-weight: 600 }
figure { display: inline-block; margin: 0 1.2em 1.2em 0; vertical-align: top; font-size: 12px }
img { image-rendering: pixelated; border: 1px solid #c9ced6; max-width: 100% }
"""


def page(title: str, parts: Iterable[str]) -> bytes:
    """The file, of parts that are HTML already."""
    text = html.escape(title)
    head = f'<meta charset="utf-8"><title>{text}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><h1>{text}</h1>\n{body}\n</body></html>\n"
    ).encode()


def paragraph(text: str, kind: str = "", tag: str = "p") -> str:
    """A paragraph, or what else `tag` makes it."""
    shown = f' class="{kind}"' if kind else ""
    return f"<{tag}{shown}>{html.escape(text)}</{tag}>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], bad: Iterable[bool], text: int
) -> str:
    """A table whose first `text` columns are text and the others numbers; bad rows are red."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["text"] * text + [""] * (len(cells) - text)
        return "".join(paragraph(cell, kind, tag) for cell, kind in zip(cells, kinds, strict=True))

    lines = [
        f"<tr{' class=bad' if wrong else ''}>{line(row, 'td')}</tr>"
        for row, wrong in zip(rows, bad, strict=True)
    ]
    return (
        f'<div class="wide"><table><tr>{line(head, "th")}</tr>\n' + "\n".join(lines)
        + "</table></div>"
    )  # fmt: skip


def picture(pixels: npt.NDArray[np.uint8], caption: str, scale: int = 1) -> str:
    """A picture (h, w, 3), each pixel as a square of `scale`, with what it shows under it."""
    data = base64.b64encode(export.png(pixels)).decode()
    words = html.escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{scale * pixels.shape[1]}" '
        f'alt="{words}"><figcaption>{words}</figcaption></figure>'
    )
