"""The one file that a PDF of ours carries, taken out without a PDF library: whoever verifies one has this alone.

It reads what our typesetter writes and nothing else: one stream of type EmbeddedFile, its dictionary right before it.
A PDF's structure is not believed; the signature over its bytes is what shows that it is ours.
"""

import re
import zlib

from tenancy.signed_document import DocumentBroken

_STREAM = re.compile(rb"<<(/Length [0-9]{1,9}/Type/EmbeddedFile/Filter/FlateDecode[^\x00-\x1f]{0,300})>>\nstream\n")
_LENGTH = re.compile(rb"/Length ([0-9]{1,9})")


def attached(pdf: bytes, longest: int) -> bytes:
    """Return what a PDF carries, no longer than `longest` when inflated; raises DocumentBroken where it is not one."""
    found = list(_STREAM.finditer(pdf))
    if len(found) != 1:
        raise DocumentBroken("the file does not carry exactly one set of figures")
    length, begins = _LENGTH.match(found[0][1]), found[0].end()
    packed = pdf[begins : begins + int(length[1])] if length else b""
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(packed, longest + 1)
    except zlib.error:
        raise DocumentBroken("the figures in the file cannot be unpacked") from None
    if len(text) > longest or not inflating.eof or inflating.unused_data:
        raise DocumentBroken("the figures in the file are not whole, or too many")
    return text
