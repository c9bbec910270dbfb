"""The judge of pictures at a validation's speed: images of one encoder begin alike, so most cost two comparisons."""

from __future__ import annotations

from dualdeploy.images import image_file
from dualdeploy.images.image_file import ImageHeader

#: Progressive JPEGs and PNGs are decoded as a whole; above this they would cost more memory than the check is worth.
MOST_PIXELS_IN_MEMORY = 3_000_000

_REMEMBERED = 4096
_END = b"\xff\xd9"


class ImageHeaderReader:
    """Reads headers as `image_file.read_header` does.

    A JPEG whose bytes are equal to an earlier one's up to its frame header, but for the size, is not looked at again.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._start, self._stop = b"\0", 0
        self._known: dict[bytes, ImageHeader] = {}

    def read(self, image: bytes) -> ImageHeader:
        """Return the header of a JPEG or PNG; raises `UnreadableImage`."""
        known = self.find(image, 0, len(image))
        if known is not None:
            return known
        header = image_file.read_header(image, max_pixels=self._max_pixels)
        if header.format == "JPEG":
            self._remember(image, header)
        return header

    def find(self, data: bytes, start: int, end: int) -> ImageHeader | None:
        """The header of the image at `data[start:end]` if one like it was read before."""
        if data.startswith(self._start, start) and data.endswith(_END, start, end):
            return self._known.get(data[start + len(self._start) : start + self._stop])
        return None

    def _remember(self, image: bytes, header: ImageHeader) -> None:
        start, stop = image_file.frame_of_jpeg(image, max_pixels=self._max_pixels)
        if image[:start] != self._start or len(self._known) >= _REMEMBERED:
            self._start, self._stop = image[:start], stop
            self._known = {}
        self._known[image[start:stop]] = header


def can_decode_in_little_memory(header: ImageHeader) -> bool:
    """Tell whether decoding needs only a few MiB: few pixels, or a JPEG that is decoded row by row."""
    small = header.pixels <= MOST_PIXELS_IN_MEMORY
    return small or (header.format == "JPEG" and not header.progressive)
