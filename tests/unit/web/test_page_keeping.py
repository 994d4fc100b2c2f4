"""What the live page keeps in memory: bounded by number, bytes and age."""

from __future__ import annotations

from saliency_client.web.live.keeping import Kept


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(clock: Clock | None = None, **bounds) -> Kept[str]:
    return Kept(**{"most": 3, "most_bytes": 100, "seconds": 60.0, **bounds}, clock=clock or Clock())


def test_of_too_many_those_that_nobody_asked_for_the_longest_go():
    things = kept()
    a, b, c = (things.put(name, 1) for name in "abc")
    things.get(a)
    things.put("d", 1)
    assert [things.get(key) for key in (a, b, c)] == ["a", None, "c"]
    assert len(things) == 3


def test_bytes_are_bounded_together_and_a_large_one_is_kept_alone():
    things = kept()
    a = things.put("a", 60)
    b = things.put("b", 60)
    assert (things.get(a), things.get(b), things.size) == (None, "b", 60)
    large = things.put("large", 1000)
    assert (things.get(b), things.get(large), things.size) == (None, "large", 1000)


def test_what_nobody_asks_for_is_forgotten_in_time():
    clock = Clock()
    things = kept(clock)
    a, b = things.put("a", 1), things.put("b", 1)
    clock.now = 40
    things.get(a)
    clock.now = 70
    assert (things.get(b), things.get(a)) == (None, "a")
    clock.now = 200
    things.forget_old()
    assert (len(things), things.size) == (0, 0)


def test_a_name_cannot_be_guessed():
    things = kept(most=1000)
    names = {things.put("x", 0) for _ in range(1000)}
    assert len(names) == 1000
    assert min(map(len, names)) >= 22  # 128 bits


def test_one_that_is_dropped_gives_its_bytes_back():
    things = kept()
    a = things.put("a", 30)
    things.drop(a)
    things.drop(a)
    assert (things.get(a), things.size) == (None, 0)
