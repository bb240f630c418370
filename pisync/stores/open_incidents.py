"""Which incidents are open, read from the store again and again, so that lists know it without asking."""

from collections.abc import Sequence

from pisync import limits
from pisync.domain.incidents import Incident
from pisync.stores.followed import Followed
from pisync.stores.interfaces.incidents import IncidentQuery, IncidentStore


class OpenIncidents(Followed[Sequence[Incident]]):
    """The open incidents, the newest first."""

    def __init__(self, store: IncidentStore) -> None:
        query = IncidentQuery(limit=limits.INCIDENTS_OPEN_MAX, is_open=True)
        super().__init__(
            lambda: store.find(query),
            what="which incidents are open",
            interval_s=limits.OPEN_INCIDENTS_INTERVAL_S,
            young_s=limits.OPEN_INCIDENTS_YOUNG_S,
        )
