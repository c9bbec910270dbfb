"""Pictures where they lie: 24 bytes for each say where its file begins in a shard, and it is decoded when asked for.

A data set that fits neither into memory nor, decoded, onto the disk is trained from its shards in this way: each
picture is read at its place, held against its checksum and decoded anew in every epoch, in the same order and to the
same pixels as one that was decoded once.
"""

from __future__ import annotations

import concurrent.futures
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from trainer.process.failures import UnusableData

#: Place in its file, length and checksum, class, and the number of the file; twice that, plus one for a picture that
#: only the slower decoder takes: both agree within a grey level, and the pixels shall be the same in every epoch.
_ENTRY = np.dtype([("offset", "<u8"), ("length", "<u4"), ("checksum", "<u4"), ("label", "<i4"), ("source", "<u4")])
_PACKED = struct.Struct("<QIIiI")

#: Decodes pictures to [pictures, side, side, 3]; None when it cannot take one of them.
Together = Callable[[Sequence[bytes]], "npt.NDArray[Any] | None"]
Alone = Callable[[bytes], "npt.NDArray[Any]"]


class Index:
    """Where the pictures of one side of the split lie, as they are met."""

    def __init__(self) -> None:
        self._packed = bytearray()

    def __len__(self) -> int:
        return len(self._packed) // _ENTRY.itemsize

    def append(self, *, file: int, offset: int, data: bytes, label: int, alone: bool) -> None:
        """Note a picture whose bytes `data` begin at byte `offset` of the file with this number."""
        self._packed += _PACKED.pack(offset, len(data), google_crc32c.value(data), label, file << 1 | int(alone))

    def finish(self, files: Sequence[Path]) -> EncodedPictures:
        return EncodedPictures(files, np.frombuffer(self._packed, _ENTRY))


class EncodedPictures:
    """JPEG and PNG files, read at their place when they are asked for; `files` by the numbers of the index."""

    def __init__(self, files: Sequence[Path], entries: npt.NDArray[Any]) -> None:
        self._files, self._entries = files, entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[bytes]:
        return (self.read(place) for place in range(len(self)))

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        labels: npt.NDArray[np.int32] = self._entries["label"]
        return labels

    def some(self, places: Any) -> EncodedPictures:
        """Those at `places`, a slice or positions."""
        return EncodedPictures(self._files, self._entries[places])

    def taken_alone(self) -> npt.NDArray[np.bool_]:
        """Which of them only the slower decoder takes."""
        alone: npt.NDArray[np.bool_] = (self._entries["source"] & 1).astype(bool)
        return alone

    def read(self, place: int) -> bytes:
        """One picture's bytes. Raises UnusableData when they are no longer those that were met."""
        offset, length, checksum, _, source = self._entries[place].item()
        path = self._files[source >> 1]
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                data = os.pread(file, length, offset)
            finally:
                os.close(file)
        except OSError as exc:
            raise UnusableData(f"{path} cannot be read any more ({exc}): start the job anew") from exc
        if len(data) != length or google_crc32c.value(data) != checksum:
            raise UnusableData(f"{path} changed at byte {offset} while it was trained on: start the job anew")
        return data


class PicturesOnDemand:
    """Decoded when asked for: like an array [pictures, side, side, 3] that is indexed by lists, or sliced.

    A slice is another of these; positions give an array of pixels.
    """

    def __init__(
        self, encoded: EncodedPictures, side: int, dtype: Any, *, alone: Alone, together: Together | None
    ) -> None:
        self._encoded, self._alone, self._together = encoded, alone, together
        self.shape = (len(encoded), side, side, 3)
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, int | np.integer):
            return self[[int(places)]][0]
        if isinstance(places, slice):
            return PicturesOnDemand(
                self._encoded.some(places), self.shape[1], self.dtype, alone=self._alone, together=self._together
            )
        return self._decoded(self._encoded.some(np.asarray(places)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        del copy  # what is decoded now is nobody else's
        pixels = self._decoded(self._encoded)
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def _decoded(self, pictures: EncodedPictures) -> npt.NDArray[Any]:
        out = np.empty((len(pictures), *self.shape[1:]), self.dtype)
        workers = os.cpu_count() or 1
        size = max(1, min(32, -(-len(pictures) // workers)))
        parts = [slice(start, start + size) for start in range(0, len(pictures), size)]

        def decode(part: slice) -> None:
            self._decode(pictures.some(part), out[part])

        if len(parts) < 2:
            for part in parts:
                decode(part)
            return out
        with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            for _ in pool.map(decode, parts):
                pass
        return out

    def _decode(self, pictures: EncodedPictures, out: npt.NDArray[Any]) -> None:
        data = list(pictures)
        alone = pictures.taken_alone() if self._together else np.ones(len(data), bool)
        places = np.flatnonzero(~alone)
        pixels = self._together([data[place] for place in places]) if self._together and len(places) else None
        if pixels is not None:
            out[places] = pixels
        # Nothing that was met once can be refused now; if it is all the same, one by one is as good.
        for place in np.flatnonzero(alone) if pixels is not None or not len(places) else range(len(data)):
            out[place] = self._alone(data[place])
