"""Reads files of one picture each, and tells a bad file from a store that nobody may read any more."""

from __future__ import annotations

import threading

from saliency_client._errors import ItemError
from saliency_client.bulk.sources.records import MOST_BYTES
from saliency_client.bulk.storage import Missing, Place, StorageError


class PictureReader:
    """Reads pictures, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_read: Place | None = None

    def read(self, path: str) -> bytes | ItemError:
        """The bytes of a file, or why it has none.

        Raises:
            StorageError: behind an address, a file that could be read before cannot be read any more either,
                or none could be so far: credentials have ended, or the way there.
        """
        place = Place(path)
        try:
            content = place.read(MOST_BYTES)
        except Missing as error:
            return ItemError(str(error))
        except StorageError as error:
            if not place.is_local:
                self._check_others(error)
            return ItemError(str(error))
        with self._lock:
            self._last_read = place
        return content if content else ItemError("the file is empty")

    def _check_others(self, error: StorageError) -> None:
        with self._lock:
            known = self._last_read
        if known is None:
            raise error
        try:
            known.read()
        except Missing:
            return
        except StorageError:
            raise StorageError(
                f"{error}; nor can {known} be read any more, which could be before",
                hint="renew the credentials; the same command with --resume goes on",
            ) from error
