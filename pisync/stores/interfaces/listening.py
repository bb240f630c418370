"""What PiSync asks of the record of when bridges listened to the broker."""

from typing import NamedTuple, Protocol

from pisync.domain.calendars import ListeningGap


class ListeningInterval(NamedTuple):
    """A time in which a bridge listened: from its start until what it wrote down last."""

    bridge_id: str
    start_ms: int
    until_ms: int


class ListeningRecord(Protocol):
    """Intervals in which a bridge was subscribed and could store what came.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Make what reads need, where it is absent."""

    async def listened(self, bridge_id: str, start_ms: int, until_ms: int) -> int:
        """Write down that a bridge has listened from one moment until another.

        Returns:
            When that interval began: earlier than said, where the bridge's interval before it ended no longer
            than `limits.LISTENING_GAP_MIN_S` ago and is continued. Say that the next time.
        """

    async def intervals_since(self, since_ms: int) -> list[ListeningInterval]:
        """Those that ended since a moment or go on, the newest `limits.LISTENING_INTERVALS_MAX`."""

    async def gaps(self, since_ms: int, until_ms: int) -> list[ListeningGap]:
        """The times of a window in which no bridge listened, ascending; before the first record none did.

        It reads the newest `limits.LISTENING_INTERVALS_MAX` intervals, and takes the earlier ones for a gap.
        """
