"""Threads together decode no more pixels at a time than there is room for."""

from __future__ import annotations

import threading

import pytest

from saliency_client._picture_room import PixelRoom


def most_at_once(room: PixelRoom, sizes: list[int], *, keep: bool = False) -> int:
    """The most pixels that threads of these sizes held at one time."""
    lock, held, most = threading.Lock(), 0, 0
    begun = threading.Barrier(len(sizes))

    def work(size: int) -> None:
        nonlocal held, most
        begun.wait(10)
        with room.hold(size):
            with lock:
                held += size
                most = max(most, held)
            threading.Event().wait(0.01)
            with lock:
                held -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return most


def test_four_large_pictures_are_decoded_one_after_another() -> None:
    assert most_at_once(PixelRoom(179), [108] * 4) == 108


def test_small_pictures_are_decoded_together_up_to_the_bound() -> None:
    assert most_at_once(PixelRoom(50), [12] * 9) <= 48


def test_a_picture_larger_than_the_room_is_decoded_alone() -> None:
    assert most_at_once(PixelRoom(10), [500, 3, 3, 500]) in (500, 6)
    with PixelRoom(10).hold(500):
        pass


def test_pictures_in_use_count_until_their_use_ends() -> None:
    room, entered = PixelRoom(100), threading.Event()

    def second() -> None:
        with room.hold(80):
            entered.set()

    with room.kept():
        with room.hold(80):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.05)
        with room.hold(80):  # who holds some does not wait, or two such threads would for ever
            pass
    assert entered.wait(10)
    thread.join(10)


def test_an_error_gives_the_room_back() -> None:
    room = PixelRoom(100)
    for _ in range(3):
        with pytest.raises(KeyError), room.kept(), room.hold(90):
            raise KeyError
    with room.hold(90):
        pass
