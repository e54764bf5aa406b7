"""The queue between two threads: order, room, its end, and its stop."""

from __future__ import annotations

from threading import Event, Thread

import pytest

from sightline.runtime.channel import Channel, End, Stopped


def test_items_come_in_order_and_then_the_end_for_ever() -> None:
    channel: Channel[int] = Channel(3)
    assert channel.poll() is None
    for number in range(3):
        assert channel.put(number) is None
    error = ValueError()
    channel.end(error)
    channel.end()  # too late to say anything else
    assert [channel.get(), channel.poll(), channel.get()] == [0, 1, 2]
    for end in (channel.get(), channel.poll(), channel.get()):
        assert isinstance(end, End)
        assert end.error is error


def test_waiting_for_room() -> None:
    channel: Channel[int] = Channel(2)
    put: list[int] = []

    def fill() -> None:
        for number in range(5):
            channel.put(number)
            put.append(number)

    thread = Thread(target=fill)
    thread.start()
    for number in range(5):
        assert channel.get() == number
        assert (
            len(put) <= number + 4
        )  # those taken, two in the channel, and one that may not have been written down yet
    thread.join()


def test_dropping_the_oldest() -> None:
    channel: Channel[int] = Channel(2, "drop-oldest")
    assert [channel.put(number) for number in range(5)] == [None, None, 0, 1, 2]
    channel.end()
    assert len(channel) == 2
    assert [channel.get(), channel.get()] == [3, 4]
    assert isinstance(channel.get(), End)


@pytest.mark.parametrize("act", ["get", "put"])
@pytest.mark.parametrize("how", ["stop", "end"])
def test_whoever_waits_is_woken(act: str, how: str) -> None:
    channel: Channel[int] = Channel(1)
    if act == "put":
        channel.put(0)
    found: list[object] = []
    begun = Event()

    def wait() -> None:
        begun.set()
        try:
            found.append(channel.get() if act == "get" else channel.put(1))
        except Stopped:
            found.append(Stopped)

    thread = Thread(target=wait)
    thread.start()
    begun.wait()
    channel.stop() if how == "stop" else channel.end()
    thread.join()
    assert isinstance(found[0], End) if (act, how) == ("get", "end") else found == [Stopped]


def test_nothing_goes_through_a_stopped_channel() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(0)
    channel.end()
    channel.stop()
    for call in (channel.get, channel.poll, lambda: channel.put(1)):
        with pytest.raises(Stopped):
            call()
    assert len(channel) == 0, "what it held is let go of"
