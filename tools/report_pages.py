"""Render the first pages of a sample compliance report into docs (`make screenshots`)."""

import io
from pathlib import Path

from PIL import Image

from compliance.reports.render.pdf import pictures
from tests.compliance.reports.sample import a_busy_report, a_document

FOLDER = Path(__file__).parents[1] / "docs"
_NAMES = ("report-cover", "report-summary")
_PER_INCH = 80


def draw() -> None:
    """Render the pages with few colours, which makes the files small."""
    report, _ = a_busy_report()
    pages = pictures(report, a_document(report).encode(), _PER_INCH)
    for name, page in zip(_NAMES, pages, strict=False):
        with Image.open(io.BytesIO(page)) as picture:
            reduced = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        reduced.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    draw()
