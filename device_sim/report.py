"""What a simulation comes to: the summary as data, and as JSON."""

import msgspec

from device_sim.fleet import Fleet
from device_sim.scenario import Scenario


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one run.

    `events` are the distinct ones, `replayed` those that devices published again after they were confirmed;
    `events` + `replayed` = `confirmed` + `rejected` + `unconfirmed`, and `confirmed` = `stored` +
    `duplicates`. `messages` counts publishes, `republished` among them those for want of a receipt.
    """

    seed: int
    devices: int
    events: int
    replayed: int
    messages: int
    republished: int
    confirmed: int
    stored: int
    duplicates: int
    rejected: int
    unconfirmed: int
    receipts_ignored: int
    repeated_failures: int
    alerting: int
    elapsed_s: float

    @property
    def succeeded(self) -> bool:
        """Whether every event is confirmed; a fleet sends only valid ones, so none may be rejected."""
        return self.unconfirmed == 0 and self.rejected == 0


def summarize(scenario: Scenario, fleet: Fleet, elapsed_s: float) -> Summary:
    """The summary of a fleet's run, finished or not."""
    tally = fleet.tally
    counters = tally.counters
    return Summary(
        seed=scenario.seed,
        devices=scenario.devices,
        events=scenario.devices * scenario.events,
        replayed=tally.replayed,
        messages=counters.published,
        republished=counters.republished,
        confirmed=counters.confirmed,
        stored=counters.stored,
        duplicates=counters.duplicates,
        rejected=counters.rejected,
        unconfirmed=fleet.unconfirmed,
        receipts_ignored=counters.receipts_ignored,
        repeated_failures=tally.repeated_failures,
        alerting=tally.alerting,
        elapsed_s=round(elapsed_s, 3),
    )


def to_json(summary: Summary) -> bytes:
    """The summary as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
