"""Which connection makes room for another one, and how many of those that are turned away may stay for a while."""

from __future__ import annotations

import pytest

from deployments.http.room import MOST_LEAVING, Room, room_of


class Connection:
    def __init__(self) -> None:
        self.left = False

    def leave(self) -> None:
        self.left = True


@pytest.fixture
def room() -> Room:
    return Room()


def test_the_one_that_has_been_idle_for_longest_makes_room(room: Room) -> None:
    one, two, three = (Connection() for _ in range(3))
    assert not room.make()
    for connection in (one, two, three):
        room.idle(connection)
    room.busy(one)
    room.gone(two)
    room.idle(one)  # anew, and after the third
    assert room.make()
    assert (one.left, two.left, three.left) == (False, False, True)
    assert room.make()
    assert one.left
    assert not room.make()


def test_so_many_of_those_turned_away_may_read_their_answer(room: Room) -> None:
    connections = [Connection() for _ in range(MOST_LEAVING + 1)]
    assert [room.may_linger(connection) for connection in connections] == [True] * MOST_LEAVING + [False]
    room.gone(connections[-1])  # which was not among them
    assert not room.may_linger(connections[-1])
    room.gone(connections[0])
    assert room.may_linger(connections[-1])


def test_every_server_has_its_own() -> None:
    class Server: ...

    one, two = Server(), Server()
    assert room_of(one) is room_of(one)
    assert room_of(one) is not room_of(two)
