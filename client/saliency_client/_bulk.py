"""Many images, one result each: reading into batches and telling the items of a batch apart. No I/O here."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import AsyncGeneratorType, GeneratorType
from typing import Any

import numpy as np

from saliency_client._errors import InputError, ItemError, OptionError, SaliencyError
from saliency_client._explanation import Explanation
from saliency_client._numbers import is_whole
from saliency_client._requests import ArrayLike
from saliency_client._tensors import Array


@dataclass(frozen=True)
class ItemResult:
    """What became of one image given to `explain_many`: an explanation with B = 1, or an error.

    `index` counts the images from 0. `seconds` is how long its batch took, retries included; 0 if the image
    was never sent.

    Example:
        >>> results = list(client.explain_many([images[0], images[1, :100]]))
        >>> results[0].unwrap().label
        array(['class 0'], dtype=object)
        >>> print(results[1].error)
        images is [1,100,224,3]; the model takes [B,224,224,3]
    """

    index: int
    explanation: Explanation | None = None
    error: SaliencyError | None = None
    seconds: float = 0.0

    def unwrap(self) -> Explanation:
        """The explanation.

        Raises:
            SaliencyError: the item's error.
        """
        if self.explanation is None:
            raise self.error or SaliencyError(f"image {self.index} has no result")
        return self.explanation


@dataclass(frozen=True)
class Item:
    """One image on its way, with its own parameters; or the error that came in its place."""

    index: int
    image: Array | None
    parameters: Mapping[str, Any]
    error: SaliencyError | None = None


class Batcher:
    """Collects items, in order, into batches of `batch_size`."""

    def __init__(self, batch_size: int, parameters: Mapping[str, Any]) -> None:
        self._batch_size = batch_size
        self._parameters = {name: _each(value) for name, value in parameters.items() if value is not None}
        self._index = itertools.count()
        self._items: list[Item] = []

    def add(self, image: ArrayLike) -> list[Item] | None:
        """Take an image in; returns the batch that it completes."""
        index = next(self._index)
        try:
            return self._append(Item(index, np.asarray(image), self._next_parameters(index)))
        except SaliencyError as error:
            return self._append(Item(index, None, {}, error))
        except ValueError as error:
            return self._append(Item(index, None, {}, InputError(f"image {index} is not an array: {error}")))

    def add_failure(self, error: Exception) -> list[Item] | None:
        """Take in that the source raised in place of an image; returns the batch that this completes."""
        index = next(self._index)
        failure = ItemError(f"image {index} could not be read: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return self._append(Item(index, None, {}, failure))

    def flush(self) -> list[Item] | None:
        """The last, smaller batch, or None."""
        items, self._items = self._items, []
        return items or None

    def _append(self, item: Item) -> list[Item] | None:
        self._items.append(item)
        return self.flush() if len(self._items) >= self._batch_size else None

    def _next_parameters(self, index: int) -> dict[str, Any]:
        values = {}
        for name, source in self._parameters.items():
            try:
                values[name] = next(source)
            except StopIteration:
                raise InputError(f"{name} gave {index} values for more images") from None
        return values


class BatchReader:
    """Reads batches from an iterator, plain or asynchronous.

    An error of the iterator becomes the result of the image that it did not give, and reading goes on. A
    generator that raised is over: its error is kept in `failure`, to be raised after the earlier results.
    """

    def __init__(self, images: Iterator[ArrayLike] | AsyncIterator[ArrayLike], batcher: Batcher) -> None:
        self._images: Any = images
        self._batcher = batcher
        self.ended = False
        self.failure: Exception | None = None

    def next_batch(self) -> list[Item] | None:
        """The next batch of a plain iterable; None when there are no more images."""
        batch = None
        while batch is None and not self.ended:
            try:
                image = next(self._images)
            except Exception as error:
                batch = self._raised(error)
            else:
                batch = self._batcher.add(image)
        return batch

    async def next_batch_async(self) -> list[Item] | None:
        """The next batch; None when there are no more images. A plain iterable is read on the event loop."""
        if not hasattr(self._images, "__anext__"):
            return self.next_batch()
        batch = None
        while batch is None and not self.ended:
            try:
                image = await anext(self._images)
            except Exception as error:
                batch = self._raised(error)
            else:
                batch = self._batcher.add(image)
        return batch

    def _raised(self, error: Exception) -> list[Item] | None:
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self.ended = True
            return self._batcher.flush()
        if isinstance(self._images, (GeneratorType, AsyncGeneratorType)):
            self.ended, self.failure = True, error
            return self._batcher.flush()
        return self._batcher.add_failure(error)


def _each(value: Any) -> Iterator[Any]:
    """One value for every image, or the values of an iterable in turn."""
    is_scalar = not isinstance(value, Iterable) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return itertools.repeat(value) if is_scalar else iter(value)


def checked_bounds(batch_size: int, max_in_flight: int) -> None:
    """Raise OptionError unless both are whole numbers above 0."""
    for name, value in (("batch_size", batch_size), ("max_in_flight", max_in_flight)):
        if not is_whole(value) or value < 1:
            raise OptionError(f"{name} is {value!r}; it must be a whole number, 1 or above")


def stacked(items: list[Item]) -> tuple[Array, dict[str, list[Any] | None]]:
    """The images of a batch as one array, and each parameter as one value per image.

    Raises:
        InputError: the images differ in size or dtype; stacking them would cast some of them silently.
    """
    images = [item.image for item in items if item.image is not None]
    kinds = {(image.shape, image.dtype) for image in images}
    if len(kinds) != 1:
        raise InputError("the images of one batch differ in size or dtype")
    parameters: dict[str, list[Any] | None] = {}
    for name in items[0].parameters:
        values = [item.parameters[name] for item in items]
        parameters[name] = None if all(value is None for value in values) else values
    return np.stack(images), parameters
