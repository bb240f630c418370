"""What a simulation comes to: the summary as data, and as JSON."""

import msgspec

from device_sim.tally import Tally


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one run.

    `events` are the distinct ones, `replayed` those that devices published again after they were confirmed,
    `commanded` those that commands asked for, `overflowed` those that full spools did not take, and `sent`
    those that were published at all. `events` + `replayed` + `commanded` - `overflowed` = `confirmed` +
    `rejected` + `unconfirmed`, and `confirmed` = `stored` + `duplicates`. `must_be_rejected` are events of
    devices whose clocks are wrong. `messages` counts publishes, `republished` among them those for want of a
    receipt. `rejected_expected` are messages that were sent to be rejected, and were, `not_rejected` those
    that were not, and `strays` went to topics of which nobody is told. `receipt_p50_s`, `receipt_p95_s` and
    `receipt_p99_s` are how long receipts took, from the first publish.
    """

    seed: int
    devices: int
    events: int
    replayed: int
    commanded: int
    overflowed: int
    sent: int
    messages: int
    republished: int
    confirmed: int
    stored: int
    duplicates: int
    rejected: int
    must_be_rejected: int
    unconfirmed: int
    rejected_expected: int
    not_rejected: int
    strays: int
    receipts_ignored: int
    faults: dict[str, int]
    connected_most: int
    disconnects: int
    sessions_lost: int
    receipt_p50_s: float | None
    receipt_p95_s: float | None
    receipt_p99_s: float | None
    repeated_failures: int
    alerting: int
    elapsed_s: float

    @property
    def succeeded(self) -> bool:
        """Whether every event is confirmed, and nothing else was taken for one.

        What has to be rejected is, and nothing else.
        """
        is_as_planned = self.rejected == self.must_be_rejected and not self.not_rejected
        return self.unconfirmed == 0 and is_as_planned


def summarize(*, seed: int, devices: int, tally: Tally, elapsed_s: float) -> Summary:
    """The summary of a fleet's run, finished or not."""
    counters = tally.counters
    p50_s, p95_s, p99_s = map(counters.latencies.percentile, (0.5, 0.95, 0.99))
    return Summary(
        seed=seed,
        devices=devices,
        events=tally.events,
        replayed=tally.replayed,
        commanded=counters.commanded,
        overflowed=counters.overflowed,
        sent=counters.sent,
        messages=counters.published,
        republished=counters.republished,
        confirmed=counters.confirmed,
        stored=counters.stored,
        duplicates=counters.duplicates,
        rejected=counters.rejected,
        must_be_rejected=tally.must_be_rejected,
        unconfirmed=tally.unconfirmed,
        rejected_expected=counters.rejected_expected,
        not_rejected=counters.not_rejected,
        strays=counters.strays,
        receipts_ignored=counters.receipts_ignored,
        faults=dict(sorted(counters.faults.items())),
        connected_most=tally.online_most,
        disconnects=tally.disconnects,
        sessions_lost=tally.sessions_lost,
        receipt_p50_s=p50_s,
        receipt_p95_s=p95_s,
        receipt_p99_s=p99_s,
        repeated_failures=tally.repeated_failures,
        alerting=tally.alerting,
        elapsed_s=round(elapsed_s, 3),
    )


def to_json(summary: Summary) -> bytes:
    """The summary as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
