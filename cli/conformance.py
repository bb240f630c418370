"""What `pisync conformance` does: it watches a device's topics, and shows what the judge says."""

import asyncio
import json
import signal
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli import tables
from device_sim.conformance import EXPLAINED, Rule, Seen, Verdict, judge, passed
from pisync import clock
from pisync.domain import topics
from pisync.domain.payloads import printable
from pisync.errors import BrokerUnavailable
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings

MESSAGES_MAX: Final = 200_000
"""After so many messages the watch ends: they are judged together, and held until then."""
_STYLES: Final = {"kept": "green", "broken": "bold red", "not seen": "dim"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """Which device is watched, where, and for how long; `puback_wait_s` is 20 s by the protocol."""

    settings: CommonSettings
    device_id: str
    duration_s: float
    puback_wait_s: float
    as_json: bool


def run(watch: Watch) -> int:
    """Watch and judge; returns the exit status of the process, 0 where no rule was broken.

    Raises:
        BrokerUnavailable: there is no connection to the broker, or it ended.
    """
    seen = asyncio.run(watched(watch))
    verdicts = judge(watch.device_id, seen, until=clock.now(), puback_wait_s=watch.puback_wait_s)
    if watch.as_json:
        print(json.dumps(as_json(watch.device_id, len(seen), verdicts), indent=2))  # noqa: T201 - it is the output
    else:
        tables.show(tables.console(), table(watch.device_id, len(seen), verdicts))
    return 0 if passed(verdicts) else 1


async def watched(watch: Watch) -> list[Seen]:
    """What was seen until the time was over, or somebody had enough."""
    seen: list[Seen] = []
    stopped = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    tls = tls_context(watch.settings.mqtt, watch.settings.mqtt_ca_file)
    watching = asyncio.create_task(collect(watch, seen, tls), name="watching")
    waiting = asyncio.create_task(stopped.wait(), name="stopped")
    await asyncio.wait((watching, waiting), timeout=watch.duration_s, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return seen


async def collect(watch: Watch, seen: list[Seen], tls: ssl.SSLContext | None) -> None:
    """Add what comes on the device's topics, as it was published, until cancelled.

    Raises:
        BrokerUnavailable: there is no connection to the broker, or it ended.
    """
    address = watch.settings.mqtt
    options = SubscribeOptions(
        qos=2, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND
    )
    try:
        async with aiomqtt.Client(
            address.host,
            address.port,
            username=address.username,
            password=address.password,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=tls,
        ) as client:
            await client.subscribe(f"{topics.PREFIX}/devices/{watch.device_id}/#", options=options)
            async for message in client.messages:
                seen.append(_seen(message))
                if len(seen) >= MESSAGES_MAX:
                    return
    except aiomqtt.MqttError as error:
        raise BrokerUnavailable(f"the broker at {address}: {error}") from None


def _seen(message: aiomqtt.Message) -> Seen:
    properties = message.properties
    return Seen(
        at=clock.now(),
        topic=str(message.topic),
        payload=message.payload if isinstance(message.payload, bytes) else b"",
        qos=message.qos,
        retain=message.retain,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation_data=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
    )


def as_json(device_id: str, messages: int, verdicts: list[Verdict]) -> dict[str, Any]:
    """The verdicts as JSON."""
    return {
        "device_id": device_id,
        "messages": messages,
        "passed": passed(verdicts),
        "rules": [
            {
                "rule": verdict.rule.value,
                "what": EXPLAINED[verdict.rule],
                "state": verdict.state,
                "seen": verdict.seen,
                "broken": verdict.broken,
                "evidence": [
                    {
                        "at": clock.rfc3339(each.at),
                        "topic": each.topic,
                        "why": each.why,
                        "payload": each.payload,
                    }
                    for each in verdict.evidence
                ],
            }
            for verdict in verdicts
        ],
    }


def table(device_id: str, messages: int, verdicts: list[Verdict]) -> RenderableType:
    """The verdicts as a table, and the evidence below it."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("rule", "state", "seen", "broken", "what"):
        made.add_column(heading, justify="right" if heading in {"seen", "broken"} else "left")
    for verdict in verdicts:
        counts = ("", "") if verdict.rule is Rule.SESSION else (f"{verdict.seen:,}", f"{verdict.broken:,}")
        state = Text(verdict.state, _STYLES[verdict.state])
        made.add_row(verdict.rule.value, state, *counts, EXPLAINED[verdict.rule])
    evidence = [
        Text(
            f"{verdict.rule.value}: {clock.rfc3339(each.at)} {printable(each.topic)}: {printable(each.why)}\n"
        )
        + Text(f"    {printable(each.payload)}", "dim")
        for verdict in verdicts
        for each in verdict.evidence
    ]
    title = Text(f"{device_id}: {messages:,} messages seen")
    return Group(title, made, *evidence)
