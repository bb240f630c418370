"""What a device may have said of its connections, of few values, so that ties are the rule."""

from datetime import timedelta

from hypothesis import strategies as st

from pisync.clock import EPOCH
from pisync.domain.presence import Pending, Presence
from tests.support.samples import NOW

_moments = st.integers(0, 2).map(lambda minute: NOW + timedelta(minutes=minute))
presences = st.builds(
    Presence,
    device_id=st.just("PB-1"),
    began_at=_moments,
    is_offline=st.booleans(),
    heard_at=_moments,
    is_told=st.booleans(),
    firmware=st.sampled_from(["", "$4", "5"]),
    pending=st.none()
    | st.builds(Pending, _moments, _moments, st.sampled_from([0, 7, 2**40]), _moments | st.just(EPOCH)),
)
