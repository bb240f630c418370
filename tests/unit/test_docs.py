"""The documents say what the code does: every setting, topic, reason and command is in them."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from bridge.metrics import Metrics
from cli.main import app
from pisync.domain import topics
from pisync.domain.alerts import Rule
from pisync.domain.events import Reason, SyncEvent
from pisync.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def settings_table() -> str:
    """The table of settings that docs/operations.md holds."""
    lines = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if default is PydanticUndefined:
            shown = "made up at start"
        elif default is None or default == ():
            shown = "none"
        else:
            shown = f"`{str(default).lower() if isinstance(default, bool) else default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines)


def test_every_setting_is_in_the_operations_document() -> None:
    table = settings_table()
    assert table in (ROOT / "docs/operations.md").read_text(), f"it should hold this table:\n{table}"


def metrics_table() -> str:
    """The table of the bridge's own metrics that docs/operations.md holds."""
    families = Metrics(Settings()).registry.collect()
    lines = ["| metric | kind | what |", "|---|---|---|"]
    for family in families:
        if family.name.startswith("pisync_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(lines)


def test_every_metric_is_in_the_operations_document() -> None:
    table = metrics_table()
    assert table in (ROOT / "docs/operations.md").read_text(), f"it should hold this table:\n{table}"


def test_every_reason_and_member_is_in_the_protocol_document() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    assert [reason for reason in Reason if f"| `{reason.value}` |" not in text] == []
    assert [name for name in SyncEvent.__struct_fields__ if f"| `{name}` |" not in text] == []


def test_every_rule_of_alerts_is_in_the_protocol_document() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    assert [rule for rule in Rule if f"| `{rule.value}` |" not in text] == []


@pytest.mark.parametrize(
    "topic",
    [
        topics.sync("{device_id}"),
        topics.receipts("{device_id}"),
        topics.commands("{device_id}"),
        topics.status("{device_id}"),
        topics.alerts("{device_id}", "{rule}"),
        topics.api_receipts("{api_id}"),
    ],
)
def test_every_topic_is_in_the_protocol_document(topic: str) -> None:
    assert f"| `{topic}` |" in (ROOT / "docs/protocol.md").read_text()


def test_every_command_is_in_the_operations_document() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    names += [group.name or "" for group in app.registered_groups]
    assert names
    assert [name for name in names if f"`pisync {name}" not in text] == []


def test_every_variable_in_the_documents_exists() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for document in DOCUMENTS:
        named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", document.read_text()))
        assert named <= known, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_make_target_is_explained() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert set(targets) == set(phony)
