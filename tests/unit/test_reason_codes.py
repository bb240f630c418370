"""docs/protocol.md says what to do on every reason code that MQTT 5 has, and the code does the same."""

import re
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

import mqtt5
import pytest

from device_sim.device import PUBACK_TIMEOUT_S, RECEIPT_TIMEOUT_S, Device, Options, Publish, Wake
from pisync.domain.events import Reason
from pisync.mqtt import connection
from tests.support.samples import event

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/protocol.md").read_text()
ENUMS: dict[str, Any] = {
    "CONNACK": mqtt5.ConnAckReasonCode,
    "SUBACK": mqtt5.SubAckReasonCode,
    "PUBACK": mqtt5.PubAckReasonCode,
    "DISCONNECT": mqtt5.DisconnectReasonCode,
}
FIRST_FAILURE = 0x80


class Rest(Enum):
    """Which of a packet's other codes a row is about."""

    NONE = "none"
    FAILURES = "from 0x80"
    ALL = "any other"


def codes_of(packet: str) -> dict[int, str]:
    """A packet's reason codes in the codec, with their names as the standard writes them, in lower case."""
    members = {name: int(getattr(ENUMS[packet], name)) for name in dir(ENUMS[packet]) if name.isupper()}
    return {code: name.replace("_", " ").lower() for name, code in members.items()}


def rows_of(packet: str) -> list[tuple[dict[int, str], Rest, str]]:
    """The rows of a packet: the codes that one names, which others it is about, and what to do."""
    found: list[tuple[dict[int, str], Rest, str]] = []
    table = TEXT[TEXT.index("| packet | reason code | do |") :].split("\n\n", maxsplit=1)[0]
    present = ""
    for line in table.splitlines()[2:]:
        name, codes, do = [cell.strip() for cell in line.strip("|").split("|")]
        present = name or present
        if present != packet:
            continue
        rest = Rest.NONE
        if "any other" in codes:
            rest = Rest.FAILURES if "from 0x80" in codes else Rest.ALL
        elif "0x80 and above" in codes:
            rest = Rest.FAILURES
        named = {
            int(code, 16): text.strip().lower().replace("identifier", "id")
            for code, text in re.findall(r"0x([0-9A-F]{2}) ([A-Z][A-Za-z ]+[a-z])", codes)
        }
        span = re.fullmatch(r"0x([0-9A-F]{2}) to 0x([0-9A-F]{2})", codes)
        if span:
            named = {code: codes_of(packet)[code] for code in range(int(span[1], 16), int(span[2], 16) + 1)}
        # What is only an example of the rest is not named by its own row.
        found.append(({} if "such as" in codes else named, rest, do))
        examples = re.findall(r"0x([0-9A-F]{2}) ([A-Z][A-Za-z ]+[a-z])", codes.partition("such as")[2])
        for code, text in examples:
            assert codes_of(packet)[int(code, 16)] == text.lower()
    return found


def row_for(packet: str, code: int) -> str:
    """What a device does on a code: the row that names it, or else the row of the others."""
    rows = rows_of(packet)
    naming = [do for named, _, do in rows if code in named]
    others = [
        do for _, rest, do in rows if rest is Rest.ALL or (rest is Rest.FAILURES and code >= FIRST_FAILURE)
    ]
    assert len(naming) <= 1, f"{packet} 0x{code:02X} stands in several rows"
    assert naming or len(others) == 1, f"{packet} 0x{code:02X} stands in no row"
    return naming[0] if naming else others[0]


@pytest.mark.parametrize("packet", ENUMS)
def test_every_reason_code_has_one_row_and_every_row_the_right_name(packet: str) -> None:
    codes = codes_of(packet)
    # That a connection was accepted, and that one ended as it should, asks for nothing.
    for code in codes.keys() - ({0} if packet == "CONNACK" else set()):
        assert row_for(packet, code)
    for named, _, _ in rows_of(packet):
        assert {code: codes.get(code) for code in named} == named


def test_what_a_person_has_to_mend_is_what_our_own_client_takes_for_it() -> None:
    by_person = {
        code for code in codes_of("CONNACK") if code and "a person has to mend" in row_for("CONNACK", code)
    }
    another_version = {0x84}
    assert by_person | another_version == set(connection._REFUSALS)


@pytest.mark.parametrize("code", codes_of("PUBACK"))
def test_the_simulated_device_waits_after_a_puback_as_the_document_says(code: int) -> None:
    device = Device("PB-1", random=Random(1), options=Options())
    device.record(event("PB-1"))
    published = device.connected(0.0)[0]
    assert isinstance(published, Publish)
    wakes = [
        one.at_s for one in device.puback(published.correlation_data, code, 1.0) if isinstance(one, Wake)
    ]
    waits_for_receipt = "wait for the receipt" in row_for("PUBACK", code)
    assert waits_for_receipt != ("20 s" in row_for("PUBACK", code))
    least = RECEIPT_TIMEOUT_S if waits_for_receipt else PUBACK_TIMEOUT_S
    assert 0.5 * least <= wakes[0] - 1.0 <= 1.5 * least


def test_every_reason_says_what_a_device_does() -> None:
    table = TEXT[TEXT.index("| reason | what was wrong |") :].split("\n\n", maxsplit=1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert {name.strip("`"): len(rest) for name, *rest in rows} == dict.fromkeys(
        (one.value for one in Reason), 3
    )
    assert all(rest[-1] for _, *rest in rows)
